"""Binds the port of a run's page, and keeps the port and the token of its link.

Both are in `page.json`, so that the link of a run stays the same. A page that was open when the server was killed finds
the server again and sends its unsaved answers. The token is a secret. It is read from the file only where this user
wrote it at this place: not from a file that came with a copied run, that others can read, or that is no regular file.
"""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fewmask.files import hold

HOST = "127.0.0.1"
TOKEN = re.compile(r"[\w-]{32,64}", re.ASCII)


@dataclass(frozen=True)
class Memory:
    """The content of the file: the last port, and its token where this user wrote it here."""

    port: int
    token: str | None


def link(port: int, token: str) -> str:
    return f"http://{HOST}:{port}/{token}/"


@contextmanager
def bind_listener(memory: Path, port: int | None = None) -> Iterator[tuple[socket.socket, str]]:
    """A socket and the token of its link. The port is `port`, or the last one, or any free one.

    The token is the last one on any port. It is new where another program listens at the last port, because open pages
    may have sent the token to that program. Raises ValueError when the page is open already, when the requested port is
    taken, or when the memory is no regular file.
    """
    _expect_file(memory)
    saved = _read_memory(memory)
    fix = f"go to {link(saved.port, saved.token)}" if saved and saved.token else "end that one first"
    with hold(memory.with_name(f".{memory.stem}.lock"), "its page is open already, served", fix):
        former = _bound(saved.port) if saved else None
        token = saved.token if saved and former else None
        if former and saved and port not in (None, saved.port):
            former.close()
            former = None
        listener = former or _bound(port or 0)
        if listener is None:
            raise ValueError(f"--port {port}: taken by another program; give another one, or none")
        with listener:
            token = token or secrets.token_urlsafe(24)
            _remember(memory, listener.getsockname()[1], token)
            yield listener, token


def _expect_file(memory: Path) -> None:
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(memory.lstat().st_mode):
            raise ValueError(
                f"{memory}: a link, or no file; the page's secret is written to no other place. Remove it, "
                "and the page makes its own"
            )


def _read_memory(memory: Path) -> Memory | None:
    """The last port and token; None where there is no file, or none that can be read."""
    try:
        with open(os.open(memory, os.O_RDONLY | _NO_LINK), encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            data = json.loads(file.read(10_000))
        port, token = data["port"], data["token"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if type(port) is not int or not 0 < port < 1 << 16:
        return None
    is_own = data.get("place") == _place(memory, status.st_ino) and _private(status)
    return Memory(port, token if is_own and isinstance(token, str) and TOKEN.fullmatch(token) else None)


_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def _place(memory: Path, number: int) -> dict[str, object]:
    """The place of the file with an inode number. A copy of the file has another place."""
    return {"path": str(memory.resolve()), "file": number, "machine": platform.node()}


def _private(status: os.stat_result) -> bool:
    """Whether only this user can have read or written the file. On Windows each user has a folder of their own."""
    return os.name == "nt" or (status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077)


def _remember(memory: Path, port: int, token: str) -> None:
    """Write a new file in the place of the old one. Only its owner can ever read it."""
    temporary = memory.with_name(f".{memory.name}.{os.getpid()}.tmp")
    with suppress(FileNotFoundError):
        temporary.unlink()
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        place = _place(memory, os.fstat(file.fileno()).st_ino)
        json.dump({"port": port, "token": token, "place": place}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, memory)


def _bound(port: int) -> socket.socket | None:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(128)  # requests wait until the server is ready
    except OSError:
        listener.close()
        return None
    return listener
