"""The site: the page's files, the facts it needs about the server, and the WebSocket of a stream.

All files are read at start-up; request paths are only looked up in that table and never reach the disk.
"""

from collections.abc import Iterable
from pathlib import Path

import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from ov_piano.constants import FRAME_SECS
from ov_piano.live.guard import Guard
from ov_piano.live.protocol import DB_STEP, GAINS_DB, LOOK_AHEADS, MESSAGE_BYTES
from ov_piano.live.service import Service
from ov_piano.live.session import converse
from ov_piano.resources import ASSETS
from ov_piano.transcription.midi_writer import NOTE_SECS
from ov_piano.transcription.streaming_ends import LAG_SECS

PAGE = Path(__file__).parent / "page"
SAMPLES = ASSETS / "live"
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".ogg": "audio/ogg",
}


def create_app(service: Service, names: Iterable[str] = ()) -> Starlette:
    """The site as an ASGI application; for ``names`` see `Guard`."""
    files = {path.name: path for folder in (PAGE, SAMPLES) for path in folder.glob("*")}
    files = {name: (path.read_bytes(), path.suffix) for name, path in files.items() if path.suffix in CONTENT_TYPES}
    facts = describe(service)

    async def file(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in files:
            return Response("page not found\n", 404, media_type="text/plain")
        content, suffix = files[name]
        return Response(content, media_type=CONTENT_TYPES[suffix])

    async def about(_: Request) -> Response:
        return JSONResponse(facts)

    async def stream(socket: WebSocket) -> None:
        await converse(socket, service)

    routes = [WebSocketRoute("/stream", stream), Route("/about", about), Route("/{name}", file), Route("/", file)]
    return Starlette(routes=routes, middleware=[Middleware(Guard, names=names)])


def web_server(app: Starlette) -> uvicorn.Server:
    """A server for ``app`` with the limits of the protocol; call ``run(sockets=[…])`` to serve."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        ws_max_size=MESSAGE_BYTES,
        ws_ping_timeout=60,  # the pong queues behind audio that is still to be processed
        ws_per_message_deflate=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)


def describe(service: Service) -> dict:
    """Facts for the page: ranges of the controls, constants, the bundled samples."""
    index = SAMPLES / "samples.yaml"
    return {
        "snapshot": service.transcriber.snapshot.name,
        "threshold": service.transcriber.threshold,
        "gains_db": GAINS_DB,
        "look_aheads": LOOK_AHEADS,
        "look_ahead": service.settings.look_ahead_frames,
        "behind_secs": service.limits.behind_secs,
        "frame_secs": FRAME_SECS,
        "note_secs": NOTE_SECS,  # of a note without a known end
        "end_secs": LAG_SECS if service.transcriber.has_ends else None,  # until the end of a note is known
        "mels": {
            "count": service.transcriber.mels,
            "lowest_hz": service.transcriber.logmel.fmin,
            "highest_hz": service.transcriber.logmel.fmax,
            "db_step": DB_STEP,
        },
        "samples": yaml.safe_load(index.read_text(encoding="utf-8")) if index.exists() else [],
    }
