"""One client: samples in, notes and log-mel frames out.

The server reads on only after processing what has arrived, so TCP slows down a client that sends faster. On a busy
machine it processes several messages at once, which takes fewer changes of threads. The page watches ``progress`` and
drops audio when the server falls behind.
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
INBOX = 8  # messages: 0.2 s of the page's audio
MERGED_SECS = 4  # audio processed at once, or a message more: `StreamingTranscriber` keeps 6 s of log-mel frames
Message = Start | Adjust | Stop | bytes

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
        self.inbox: asyncio.Queue[Message | Exception] = asyncio.Queue(INBOX)
        self.end = asyncio.get_running_loop().time() + self.limits.stream_secs

    async def run(self) -> None:
        """Serve the stream until the client stops it.

        :raises InputError: an invalid message, no message for too long, or a stream that is too long
        """
        reader = asyncio.create_task(self._read())
        try:
            await self._serve()
        finally:
            reader.cancel()

    async def _serve(self) -> None:
        start = await self._next()
        if not isinstance(start, Start):
            raise InputError("message: expected start first")
        self.stream = await self.service.compute(self._open, start)
        self.heard_secs, self.frames = 0.0, 0
        self.core_secs, self.reported = 0.0, time.monotonic()
        await self._send(encode("ready"))
        message = await self._next()
        while not isinstance(message, Stop):
            following = None
            if isinstance(message, bytes):
                following = await self._transcribe(message, start.sample_rate)
            elif isinstance(message, Adjust):
                self.stream.threshold, self.stream.gain_db = message
            else:
                raise InputError("message: expected start only once")
            message = await self._next() if following is None else following
        await self._report(await self.service.compute(self.stream.flush))
        await self._send(encode("stopped"))

    async def _transcribe(self, message: bytes, sample_rate: int) -> Message | None:
        """Process these samples together with those that have arrived meanwhile; returns a later message, if any."""
        blocks, following = [parse_samples(message, sample_rate)], None
        while following is None and not self.inbox.empty() and sum(map(len, blocks)) < MERGED_SECS * sample_rate:
            following = await self._next()
            if isinstance(following, bytes):
                blocks.append(parse_samples(following, sample_rate))
                following = None
        samples = np.concatenate(blocks)
        await self._report(await self.service.compute(self._feed, samples, sample_rate))
        self.heard_secs += len(samples) / sample_rate
        await self._report_progress()
        return following

    async def _read(self) -> None:
        """Fill the inbox with messages, and with the exception that ends the stream."""
        try:
            while True:
                await self.inbox.put(await self._receive())
        except Exception as error:
            await self.inbox.put(error)

    async def _next(self) -> Message:
        message = await self.inbox.get()
        if isinstance(message, Exception):
            raise message
        return message

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

    async def _receive(self) -> Message:
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
