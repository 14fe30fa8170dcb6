"""Binds the port of a run's page, and keeps the port and the token of its link.

Both are in `page.json`, so that the link of a run stays the same. A page that was open when the server was killed finds
the server again and sends its unsaved answers.
"""

from __future__ import annotations

import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fewmask.annotation.page.address import Address
from fewmask.annotation.page.secret_file import expect_file, read_secret, write_secret
from fewmask.files import hold

FILE = "page.json"
TOKEN = re.compile(r"[\w-]{32,64}", re.ASCII)


@dataclass(frozen=True)
class Memory:
    """The content of the file: the last port, and its token where this user wrote it here."""

    port: int
    token: str | None
    base: str
    """The beginning of links."""


def link(port: int, token: str) -> str:
    """The owner's link, on this machine."""
    return f"{Address().base(port)}/{token}/"


@contextmanager
def bind_listener(
    memory: Path, port: int | None = None, address: Address | None = None
) -> Iterator[tuple[socket.socket, str]]:
    """A socket and the token of its link. The port is `port`, or the last one, or any free one.

    The token is the last one on any port. It is new where another program listens at the last port, because open pages
    may have sent the token to that program. Raises ValueError when the page is open already, when the requested port is
    taken, or when the memory is no regular file.
    """
    address = address or Address()
    host, port = address.host, port or address.port
    expect_file(memory)
    saved = _read_memory(memory)
    is_local = saved is not None and saved.base.startswith("http://")  # elsewhere this token opens nothing
    fix = f"go to {saved.base}/{saved.token}/" if saved and saved.token and is_local else "end that one first"
    with hold(memory.with_name(f".{memory.stem}.lock"), "its page is open already, served", fix):
        former = _bound(host, saved.port) if saved else None
        token = saved.token if saved and former else None
        if former and saved and port not in (None, saved.port):
            former.close()
            former = None
        listener = former or _bound(host, port or 0)
        if listener is None:
            raise ValueError(_cannot_listen(host, port))
        with listener:
            token = token or secrets.token_urlsafe(24)
            number = listener.getsockname()[1]
            write_secret(memory, {"port": number, "token": token, "base": address.base(number)})
            yield listener, token


def _read_memory(memory: Path) -> Memory | None:
    """The last port and token; None where there is no file, or none that can be read."""
    content = read_secret(memory)
    if content is None:
        return None
    data, is_own = content
    port, token, base = data.get("port"), data.get("token"), data.get("base")
    if type(port) is not int or not 0 < port < 1 << 16:
        return None
    if not is_own or not isinstance(token, str) or not TOKEN.fullmatch(token):
        token = None
    return Memory(port, token, base if is_own and isinstance(base, str) else Address().base(port))


def last_base(folder: Path) -> str | None:
    """The beginning of links as the page of a run was last opened; None where it never was."""
    saved = _read_memory(folder / FILE)
    return saved.base if saved else None


def _cannot_listen(host: str, port: int | None) -> str:
    if port is None:
        return f"--host {host}: this machine cannot listen there; 0.0.0.0 is all of its addresses"
    return f"--port {port}: taken by another program, or not this user's to take; give another one, or none"


def _bound(host: str, port: int) -> socket.socket | None:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)  # requests wait until the server is ready
    except OSError:
        listener.close()
        return None
    return listener
