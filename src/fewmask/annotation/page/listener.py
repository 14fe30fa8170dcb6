"""Where the page of a run is found: a port of this machine, and the token of its link.

Both are kept in `page.json`, so that the link of a run stays the same from one start to the next, and a page that was
left open when the server was killed finds it again and hands over what it still holds. The token is a secret. It is
taken from that file only where this user wrote it here: a file that came with a copied run, that others can read, or
that is no file at all fixes nobody's token.
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
    """What the file says: the port of last time, and its token where it is ours."""

    port: int
    token: str | None


def link(port: int, token: str) -> str:
    return f"http://{HOST}:{port}/{token}/"


@contextmanager
def bind_listener(memory: Path, port: int | None = None) -> Iterator[tuple[socket.socket, str]]:
    """A socket and the token of its link. The port is `port`, or that of last time, or any that is free.

    The token is that of last time on whichever port, unless another program listens at the port of last time: pages
    that were left open may have told it. Raises ValueError when the page is open already, when the port that was asked
    for is taken, or when the memory is no file of its own.
    """
    _expect_file(memory)
    before = _before(memory)
    go = f"go to {link(before.port, before.token)}" if before and before.token else "end that one first"
    with hold(memory.with_name(f".{memory.stem}.lock"), "its page is open already, served", go):
        at_home = _bound(before.port) if before else None
        token = before.token if before and at_home else None
        if at_home and before and port not in (None, before.port):
            at_home.close()
            at_home = None
        listener = at_home or _bound(port or 0)
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


def _before(memory: Path) -> Memory | None:
    """What was remembered; None where nothing is, or nothing that can be read."""
    try:
        with open(os.open(memory, os.O_RDONLY | _NO_LINK), encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            data = json.loads(file.read(10_000))
        port, token = data["port"], data["token"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if type(port) is not int or not 0 < port < 1 << 16:
        return None
    ours = data.get("place") == _place(memory, status.st_ino) and _private(status)
    return Memory(port, token if ours and isinstance(token, str) and TOKEN.fullmatch(token) else None)


_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def _place(memory: Path, number: int) -> dict[str, object]:
    """Where a file of that number on its disk lies: a copy of it lies elsewhere."""
    return {"path": str(memory.resolve()), "file": number, "machine": platform.node()}


def _private(status: os.stat_result) -> bool:
    """Nobody but this user can have read or written the file. Windows has other means, and a folder per user."""
    return os.name == "nt" or (status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077)


def _remember(memory: Path, port: int, token: str) -> None:
    """A new file in the place of the old one: it is its owner's alone from the beginning, whatever was there."""
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
        listener.listen(128)  # who comes before the server is ready waits
    except OSError:
        listener.close()
        return None
    return listener
