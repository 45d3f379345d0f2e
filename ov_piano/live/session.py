"""One client: samples in, notes and log-mel frames out.

The server reads the next message only after processing the previous one, so TCP slows down a client that sends
faster. The page watches ``progress`` and drops audio when the server falls behind.
"""

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import replace

import anyio
import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from ov_piano.errors import InputError
from ov_piano.live.protocol import (
    Adjust,
    Start,
    Stop,
    encode,
    encode_ends,
    encode_logmel,
    encode_notes,
    parse_samples,
    parse_text,
)
from ov_piano.live.service import Service
from ov_piano.transcription.streaming import StreamEvent, StreamingTranscriber

REFUSED = 4000  # close code: the page must not reconnect by itself; the last message gives the reason
PROGRESS_SECS = 0.25

log = logging.getLogger(__name__)


async def converse(socket: WebSocket, service: Service) -> None:
    """Serve one client from its first message to its last."""
    await socket.accept()
    try:
        with service.place():
            await Session(socket, service).run()
        await socket.close()
    except WebSocketDisconnect:
        pass  # the client has left
    except TimeoutError:
        await _refuse(socket, "The connection was too slow.")
    except InputError as error:
        await _refuse(socket, str(error))
    except Exception:
        log.exception("a stream failed")
        await _refuse(socket, "Transcription failed on the server; see the messages in its terminal.")


async def _refuse(socket: WebSocket, message: str) -> None:
    with suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
        with anyio.fail_after(1):
            await socket.send_text(encode("error", message=message))
            await socket.close(REFUSED)


class Session:
    """An open stream."""

    def __init__(self, socket: WebSocket, service: Service):
        self.socket, self.service, self.limits = socket, service, service.limits
        self.end = asyncio.get_running_loop().time() + self.limits.stream_secs

    async def run(self) -> None:
        """Serve the stream until the client stops it.

        :raises InputError: an invalid message, no message for too long, or a stream that is too long
        """
        start = await self._receive()
        if not isinstance(start, Start):
            raise InputError("message: expected start first")
        self.stream = await self.service.compute(self._open, start)
        self.heard_secs, self.frames = 0.0, 0
        self.core_secs, self.reported = 0.0, time.monotonic()
        await self._send(encode("ready"))
        while not isinstance(message := await self._receive(), Stop):
            if isinstance(message, bytes):
                samples = parse_samples(message, start.sample_rate)
                await self._report(await self.service.compute(self._feed, samples, start.sample_rate))
                self.heard_secs += len(samples) / start.sample_rate
                await self._report_progress()
            elif isinstance(message, Adjust):
                self.stream.threshold, self.stream.gain_db = message
            else:
                raise InputError("message: expected start only once")
        await self._report(await self.service.compute(self.stream.flush))
        await self._send(encode("stopped"))

    def _open(self, start: Start) -> StreamingTranscriber:
        settings = replace(self.service.settings, look_ahead_frames=start.look_ahead_frames)
        return StreamingTranscriber(
            self.service.transcriber, settings=settings, threshold=start.threshold, gain_db=start.gain_db
        )

    def _feed(self, samples: np.ndarray, sample_rate: int) -> list[StreamEvent]:
        begin = time.thread_time()
        events = self.stream.feed(samples, sample_rate)
        self.core_secs += time.thread_time() - begin
        return events

    async def _receive(self) -> Start | Adjust | Stop | bytes:
        loop = asyncio.get_running_loop()
        try:
            with anyio.fail_after(min(self.limits.idle_secs, self.end - loop.time())):
                message = await self.socket.receive()
        except TimeoutError:
            if loop.time() >= self.end:
                raise InputError(f"Streams are limited to {self.limits.stream_secs / 60:g} minutes.") from None
            raise InputError(f"No audio received for {self.limits.idle_secs:g} s.") from None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        if message.get("bytes") is not None:
            return message["bytes"]
        return parse_text(message["text"])

    async def _send(self, message: str | bytes) -> None:
        with anyio.fail_after(self.limits.send_secs):
            await (self.socket.send_text if isinstance(message, str) else self.socket.send_bytes)(message)

    async def _report(self, events: list[StreamEvent]) -> None:
        columns = self.stream.take_logmel()  # (mels, frames)
        if columns.shape[1]:
            await self._send(encode_logmel(self.frames, columns))
            self.frames += columns.shape[1]
        if events:
            await self._send(encode_notes(events))
        if ends := self.stream.take_ends():
            await self._send(encode_ends(ends))

    async def _report_progress(self) -> None:
        elapsed = time.monotonic() - self.reported
        if elapsed >= PROGRESS_SECS:
            share = self.core_secs / elapsed
            self.core_secs, self.reported = 0.0, time.monotonic()
            await self._send(encode("progress", heard_secs=self.heard_secs, core_share=share))
