"""Limits the server's connections: their number, and the time that they may be silent.

Everybody who can reach the port can open connections without the token, so the limit must not lock out the page. Beyond
the limit, the connection that has been silent the longest is closed and the new one is served.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS = 48
"""The most open connections. A browser opens six for a page."""
WAITING = 32
"""The most connections that wait in the system's queue for the server."""
PATIENCE = 20.0
"""The seconds in which the headers of a request must arrive, and in which its body or the reading of its reply must
make progress."""
LEAVING = 5
"""The seconds that replies may take when the server ends."""


class Connection(H11Protocol):
    """One connection. It is silent while it waits for the client, since the client's last progress."""

    silent_since: float
    _look: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._moved()
        self._look = self.loop.call_later(PATIENCE, self._check)
        idle = [c for c in self.connections if isinstance(c, Connection) and c is not self and not c._busy]
        if len(self.connections) > CONNECTIONS and idle:
            min(idle, key=lambda c: c.silent_since)._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._look.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        # Headers are no progress until they are complete: they could come a byte at a time for ever.
        if self.cycle is not before or (self.cycle is not None and self.cycle.more_body):
            self._moved()

    def on_response_complete(self) -> None:
        self._moved()
        super().on_response_complete()

    def resume_writing(self) -> None:
        self._moved()
        super().resume_writing()

    @property
    def _busy(self) -> bool:
        """Whether a complete request is being answered and the client reads the reply."""
        answering = self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body
        return answering and not self.flow.write_paused

    def _moved(self) -> None:
        self.silent_since = self.loop.time()

    def _check(self) -> None:
        silent = 0.0 if self._busy else self.loop.time() - self.silent_since
        if silent >= PATIENCE:
            self._end()
        else:
            self._look = self.loop.call_later(max(PATIENCE - silent, 0.1), self._check)

    def _end(self) -> None:
        self.connections.discard(self)  # it counts no more at once
        self.transport.abort()


class Server(uvicorn.Server):
    """uvicorn's server for an application and a listening socket. With a certificate and its key it speaks TLS."""

    def __init__(self, app: Callable[..., Awaitable[None]], certificate: tuple[Path, Path] | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                # A warning for each request of a stranger would fill a terminal or a disk.
                access_log=False,
                log_level="error",
                backlog=WAITING,
                timeout_graceful_shutdown=LEAVING,
                ssl_certfile=certificate[0] if certificate else None,
                ssl_keyfile=certificate[1] if certificate else None,
            )
        )

    async def startup(self, sockets: Any = None) -> None:
        asyncio.get_running_loop().set_exception_handler(_Once())
        await super().startup(sockets)


class _Once:
    """Reports each kind of fault in the event loop once.

    When files run out, asyncio reports each waiting connection every second, and tries again by itself.
    """

    def __init__(self) -> None:
        self._reported: set[str] = set()

    def __call__(self, loop: asyncio.AbstractEventLoop, context: MutableMapping[str, Any]) -> None:
        error, message = context.get("exception"), str(context.get("message"))
        if isinstance(error, OSError):
            if message not in self._reported:
                print(f"The page: {message} ({error.strerror}); it goes on when there is room.", file=sys.stderr)
            self._reported.add(message)
            return
        logging.getLogger("uvicorn.error").error(message, exc_info=error)
