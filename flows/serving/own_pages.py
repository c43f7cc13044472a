"""Pages that reach their own server and no other host, and a server that pages of another host do not reach.

In: an ASGI application.
Out: the same, whose pages forbid the browser to ask anybody else.
Promise: Prefect's second UI, which asks a host outside whatever its settings are, stays usable and is kept from it; a
page that a person has open elsewhere starts nothing on a server without a password, not even when its own name leads
to this machine by now.
Never: touches what programs ask: only browsers say where a request comes from.
"""

import ipaddress
from typing import Any
from urllib.parse import urlsplit

_POLICY = "; ".join(
    (
        "default-src 'self' data: blob:",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
).encode()


class OwnPages:
    """ASGI middleware.

    Args:
        app: Prefect's server.
        refuse_foreign: whether requests from pages of another host are refused, and those that call this machine by
            another name than a loopback one, as such a page does; a password keeps them out, too.
    """

    def __init__(self, app: Any, *, refuse_foreign: bool) -> None:
        self._app = app
        self._refuse_foreign = refuse_foreign

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Refuse it, or add the policy to a page."""
        if self._refuse_foreign and scope["type"] in ("http", "websocket") and _is_foreign(dict(scope["headers"])):
            await _refuse(scope, send)
            return

        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start" and _is_page(message["headers"]):
                headers = [*message["headers"], (b"content-security-policy", _POLICY)]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, send_with_policy if scope["type"] == "http" else send)


def _is_foreign(headers: dict[bytes, bytes]) -> bool:
    host, origin = headers.get(b"host", b""), headers.get(b"origin")
    return not _is_loopback(host.decode("latin-1")) or (origin is not None and urlsplit(origin).netloc != host)


def _is_loopback(host: str) -> bool:
    """Whether a Host header names this machine as nobody else can; a name of its own may be anybody's to change."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


async def _refuse(scope: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
    await send(
        {
            "type": "http.response.body",
            "body": b"this page belongs to another host; without a password this server answers as localhost alone\n",
        }
    )


def _is_page(headers: Any) -> bool:
    return any(name.lower() == b"content-type" and value.startswith(b"text/html") for name, value in headers)
