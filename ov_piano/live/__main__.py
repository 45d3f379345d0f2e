"""Transcribe a piano live in the browser.

1. Reserve the port, then load the network from a snapshot.
2. Start a web server and print its address, to open in a browser on this machine.
3. The page sends audio (microphone, file or sample) and shows notes as they are detected.

    python -m ov_piano.live [PORT=8517] [SNAPSHOT_INPATH=snapshot.torch] [KEY=value …]

Audio is neither stored nor forwarded. Stop the server with Ctrl-C.
"""

import socket
from dataclasses import dataclass, replace

from ov_piano.cli import run
from ov_piano.config import FRACTION, POSITIVE, Check, option
from ov_piano.errors import InputError
from ov_piano.live.protocol import LOOK_AHEADS
from ov_piano.live.service import Limits, Service
from ov_piano.machine.device import DEFAULT_DEVICE
from ov_piano.transcription.streaming import DEFAULT
from ov_piano.transcription.transcriber import Transcriber

PORTS = Check("a number from 0 to 65535", lambda port: 0 <= port <= 65535)
LOOK_AHEAD = Check("a number from {} to {}".format(*LOOK_AHEADS), lambda n: LOOK_AHEADS[0] <= n <= LOOK_AHEADS[1])
HOP = Check("a number from 1 to 50", lambda n: 1 <= n <= 50)


@dataclass
class ConfDef:
    """Settings of the command."""

    HOST: str = option("127.0.0.1", "address to listen on; 0.0.0.0: accept connections from other machines")
    PORT: int = option(8517, "port to listen on; 0: any free port", PORTS)
    HOST_NAMES: str = option("", "additional host names to accept, separated by commas")
    SNAPSHOT_INPATH: str | None = option(None, "snapshot to use; null: the default snapshot")
    THRESHOLD: float | None = option(None, "initial onset threshold; null: the snapshot's own", FRACTION)
    LOOK_AHEAD_FRAMES: int = option(
        DEFAULT.look_ahead_frames, "initial look-ahead after an onset, in frames of 24 ms", LOOK_AHEAD
    )
    HOP_FRAMES: int = option(DEFAULT.hop_frames, "frames per network run; more: less CPU time, higher latency", HOP)
    DEVICE: str = option(DEFAULT_DEVICE, "where to compute: cpu, cuda, cuda:1 …")
    MAX_STREAMS: int = option(8, "maximum number of simultaneous streams", POSITIVE)
    MAX_MINUTES: float = option(180.0, "maximum length of a stream in minutes", POSITIVE)
    WORKERS: int | None = option(None, "worker threads; null: one per core", POSITIVE)


def main(conf: ConfDef) -> None:
    """Serve the page until Ctrl-C."""
    try:
        import websockets  # noqa: F401, PLC0415 -- uvicorn's WebSockets, of the optional extra

        from ov_piano.live.server import create_app, web_server  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise InputError(f"python -m ov_piano.live needs {error.name}: pip install 'ov_piano[live]'") from None

    settings = replace(DEFAULT, look_ahead_frames=conf.LOOK_AHEAD_FRAMES, hop_frames=conf.HOP_FRAMES)
    limits = Limits(streams=conf.MAX_STREAMS, stream_secs=60 * conf.MAX_MINUTES)
    names = {conf.HOST, *(name.strip() for name in conf.HOST_NAMES.split(","))} - {""}
    with listen(conf.HOST, conf.PORT) as listener:
        transcriber = Transcriber(conf.SNAPSHOT_INPATH, threshold=conf.THRESHOLD, device=conf.DEVICE)
        with Service(transcriber, settings, limits, conf.WORKERS) as service:
            service.warm_up()
            address, port = listener.getsockname()[:2]
            print(f"{transcriber.snapshot.name}: threshold {transcriber.threshold:g}")
            print(f"open http://{url_host(address)}:{port}/ in a browser; Ctrl-C stops the server", flush=True)
            try:
                web_server(create_app(service, names)).run(sockets=[listener])
            except KeyboardInterrupt:
                print("stopped")


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket.

    :raises InputError: the address is not one of this machine, or the port is in use
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"HOST={host} PORT={port}: cannot listen: {reason}") from None


def url_host(address: str) -> str:
    """The host part of the URL that reaches ``address`` from this machine."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    return f"[{address}]" if ":" in address else address


if __name__ == "__main__":
    run(main, ConfDef)
