"""Files that survive: everything is written beside its place, flushed to the disk, and put there in one step.

A kill or a full disk in the middle of a save leaves the old file as it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call `write` with a file that takes the place of `path` when it is whole and on the disk, and not before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(FileNotFoundError):
            temporary.unlink()
        # torch.save says nothing of the full disk behind its own error
        system = error if isinstance(error, OSError) else error.__context__
        if isinstance(error, Exception) and isinstance(system, OSError):
            raise OSError(
                f"{path}: cannot be written ({system.strerror}); what was there is as it was. Make room and go on"
            ) from error
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_unfinished(folder: Path) -> None:
    """Remove what `write_atomically` had not put in its place when it was killed."""
    for file in folder.rglob(".*.tmp"):
        file.unlink()


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, data: Any) -> None:
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")
