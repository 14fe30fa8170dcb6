"""Lets only the page itself, opened by somebody who has a link, send requests to the page's server.

By default the server listens on this machine alone. Still, every website that is open in the browser can send requests
to it, under this machine's name or, by DNS rebinding, under the site's own. Therefore each path begins with a token
that no other site knows, and requests need headers that only a page of the same origin sends.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from fastapi.datastructures import Headers
from fastapi.responses import PlainTextResponse

from fewmask.annotation.page.address import Address
from fewmask.annotation.page.links import Links

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

ANNOTATOR = "fewmask.annotator"
"""The key of a request's scope with the name of the link that it came by; None for the owner's link."""
MAX_BODY = 64 << 20
"""The most bytes of an answer. An image of 2 megapixels whose neighbouring pixels all differ takes 22 MB."""
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_RAW = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


def refusal(method: str, headers: Mapping[str, str], has_link: bool, address: Address) -> tuple[int, str] | None:
    """The status and the message with which a request is refused; None where it is allowed.

    The names of headers are in lower case. `has_link` says whether the path begins with a valid token.
    """
    expected = address.origin(headers.get("host", ""))
    if expected is None:
        return 403, "The page has another name: open the link as it was printed. A proxy must keep the Host."
    origin = headers.get("origin")
    if origin is not None and origin != expected:
        return 403, "Another website asked for this page."
    if not has_link:
        return 403, "The link's token is missing, wrong or revoked: open the link that was given to you last."
    if method not in ("GET", "POST"):
        return 405, "Only GET and POST."
    if "transfer-encoding" in headers:
        return 415, "A body of no stated length; send Content-Length alone."
    length = headers.get("content-length", "0" if method == "GET" else "")
    if not length.isascii() or not length.isdigit():
        return 415, "Answers are JSON of a stated length."
    size = int(length[:20])
    if method == "GET" and size:
        return 400, "What is only read is asked for without a body."
    if method == "POST" and headers.get("content-type") != "application/json":
        return 415, "Answers are JSON of a stated length."
    return (413, f"An answer of {size} bytes; at most {MAX_BODY} are read.") if size > MAX_BODY else None


class AuthMiddleware:
    """Protects an application by tokens. The application sees paths without them; all replies get `HEADERS`."""

    def __init__(
        self, app: Application, token: str, links: Links | None = None, address: Address | None = None
    ) -> None:
        """`links` are those of named annotators. `token` is that of the owner's link, which has no name. It opens the
        page on this machine alone."""
        self._app, self._token, self._links, self._address = app, token, links, address or Address()

    def _who(self, token: bytes) -> tuple[bool, str | None]:
        """Whether a token is valid, and the annotator of its link."""
        if secrets.compare_digest(token, self._token.encode()) and not self._address.shared:
            return True, None
        name = self._links.annotator(token) if self._links else None
        return name is not None, name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # there are no web sockets here

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_RAW]
            await send(message)

        token, slash, path = scope["path"].removeprefix("/").partition("/")
        has_link, annotator = self._who(token.encode(errors="replace")) if slash else (False, None)
        refused = refusal(scope["method"], Headers(scope=scope), has_link, self._address)
        if refused:
            await _refuse(*refused, scope, receive, send_with_headers)
            return
        body = await _read_body(receive)
        if body is None:
            return  # the client has disconnected
        if len(body) > MAX_BODY:
            await _refuse(413, f"An answer of more than {MAX_BODY} bytes.", scope, receive, send_with_headers)
            return
        path = f"/{path}"
        inner = {**scope, "path": path, "raw_path": path.encode(errors="replace"), ANNOTATOR: annotator}
        await self._app(inner, _ReceivedBody(body, receive), send_with_headers)


async def _refuse(status: int, message: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a request and close the connection: the rest of the request is not read."""
    await PlainTextResponse(message, status, {"connection": "close"})(scope, receive, send)


async def _read_body(receive: Receive) -> bytes | None:
    """The body of a request; None where the request broke off.

    Of a longer body it returns a little more than `MAX_BODY` bytes, whatever the headers say.
    """
    body = bytearray()
    while len(body) <= MAX_BODY:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    return bytes(body)


class _ReceivedBody:
    """Passes a body that has been read on to the application."""

    def __init__(self, body: bytes, after: Receive) -> None:
        self._body: bytes | None = body
        self._after = after

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._after()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}
