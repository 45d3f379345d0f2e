"""The live site served from this process, and a WebSocket client without a browser."""

import json
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from ov_piano.live.__main__ import listen
from ov_piano.live.server import create_app, web_server
from ov_piano.live.service import Service
from ov_piano.model.sidecar import read_sidecar
from ov_piano.resources import default_snapshot
from ov_piano.transcription.streaming import DEFAULT

START = {
    "type": "start",
    "threshold": read_sidecar(default_snapshot()).point.threshold,
    "gain_db": 0,
    "look_ahead_frames": DEFAULT.look_ahead_frames,
}


@dataclass
class Site:
    """A running server."""

    service: Service
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def connect(self, **kwargs) -> ClientConnection:
        return connect(f"ws://127.0.0.1:{self.port}/stream", compression=None, max_size=None, **kwargs)


@contextmanager
def live_site(service: Service, names: Iterable[str] = (), port: int = 0) -> Iterator[Site]:
    """Serve from a thread until the end of the block."""
    with listen("127.0.0.1", port) as listener:
        server = web_server(create_app(service, names))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Site(service, listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()


def answers(client: ClientConnection) -> Iterator[str | bytes]:
    """All messages until the connection closes."""
    while True:
        try:
            yield client.recv()
        except ConnectionClosed:
            return


@dataclass
class Heard:
    """The server's messages on one stream."""

    mels: int
    notes: list[tuple] = field(default_factory=list)  # (onset_secs, note, velocity, prob)
    ends: list[tuple] = field(default_factory=list)  # (onset_secs, offset_secs, note)
    columns: list[np.ndarray] = field(default_factory=list)  # (mels,) uint8
    progress: list[dict] = field(default_factory=list)
    error: str | None = None
    stopped: bool = False

    def take(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            assert struct.unpack_from("<I", message)[0] == len(self.columns)
            self.columns += list(np.frombuffer(message, np.uint8, offset=4).reshape(-1, self.mels))
            return
        message = json.loads(message)
        if message["type"] == "notes":
            self.notes += [tuple(note.values()) for note in message["notes"]]
        elif message["type"] == "ends":
            self.ends += [tuple(end.values()) for end in message["ends"]]
        elif message["type"] == "progress":
            self.progress.append(message)
        elif message["type"] == "stopped":
            self.stopped = True
        elif message["type"] == "error":
            self.error = message["message"]


def stream(site: Site, blocks: Iterable[np.ndarray | str], sample_rate: int, **settings) -> Heard:
    """Send blocks (and text messages between them) as fast as the server reads them; return all answers."""
    heard = Heard(site.service.transcriber.mels)
    with site.connect() as socket:
        reader = threading.Thread(target=lambda: [heard.take(message) for message in answers(socket)])
        reader.start()
        socket.send(json.dumps(START | {"sample_rate": sample_rate} | settings))
        for block in blocks:
            socket.send(block if isinstance(block, str) else block.astype("<f4").tobytes())
        socket.send(json.dumps({"type": "stop"}))
        reader.join()
    return heard
