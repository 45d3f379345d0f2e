"""Access control: who may use the server, and what browsers may do with its pages.

A page of another site can make a visitor's browser send requests to 127.0.0.1, and can resolve its own host name
to that address (DNS rebinding). So ``Host`` must be an address or a name of this machine, and ``Origin``, which
browsers send with every WebSocket request, must be this site.
"""

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self' ws://{host} "
    "wss://{host}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), midi=(self), camera=(), geolocation=()",
    "Cache-Control": "no-cache",
}


class Guard:
    """ASGI middleware: rejects requests to other hosts or from other sites and adds security headers to responses.

    :param names: host names of this machine; IP addresses and ``localhost`` are always accepted
    """

    def __init__(self, app: ASGIApp, names: Iterable[str]):
        self.app = app
        self.names = {name.lower() for name in names} | {"localhost"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_ours(host) or (origin is not None and not _is_same_site(origin, host)):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})  # before accepting: HTTP status 403
            else:
                await PlainTextResponse("not this site\n", 403)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update({**HEADERS, "Content-Security-Policy": POLICY.format(host=host)})
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _is_ours(self, host: str) -> bool:
        """Accept any IP address, which cannot be rebound, and known names."""
        name = _host_name(host)
        if name is None:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.names
        return True


def _host_name(host: str) -> str | None:
    """``NAME`` from ``NAME[:PORT]``; None if ``host`` has another form."""
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname if parts.netloc == host and parts.port != 0 and parts.username is None else None
    except ValueError:
        return None


def _is_same_site(origin: str, host: str) -> bool:
    return origin.lower() in {f"http://{host.lower()}", f"https://{host.lower()}"}
