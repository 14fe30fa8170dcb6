"""Files with secrets of a run: JSON that only this user can read.

A secret is used only where this user wrote it at this place: not from a file that came with a copied run, that others
can read, or that is no regular file.
"""

from __future__ import annotations

import json
import os
import platform
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

LONGEST = 1 << 20
"""The most characters of such a file that are read."""


def expect_file(path: Path) -> None:
    """Raise ValueError where there is something else than a regular file."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ValueError(
                f"{path}: a link, or no file; the page's secret is written to no other place. Remove it, "
                "and the page makes its own"
            )


def read_secret(path: Path) -> tuple[dict[str, Any], bool] | None:
    """The content of a file, and whether its secrets may be used; None where no JSON object can be read."""
    try:
        with open(os.open(path, os.O_RDONLY | _NO_LINK), encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            data = json.loads(file.read(LONGEST))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    return data, data.get("place") == _place(path, status.st_ino) and _private(status)


def write_secret(path: Path, data: Mapping[str, Any]) -> None:
    """Write a new file in the place of the old one. Only its owner can ever read it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with suppress(FileNotFoundError):
        temporary.unlink()
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        place = _place(path, os.fstat(file.fileno()).st_ino)
        json.dump({**data, "place": place}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def _place(path: Path, number: int) -> dict[str, object]:
    """The place of the file with an inode number. A copy of the file has another place."""
    return {"path": str(path.resolve()), "file": number, "machine": platform.node()}


def _private(status: os.stat_result) -> bool:
    """Whether only this user can have read or written the file. On Windows each user has a folder of their own."""
    return os.name == "nt" or (status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077)
