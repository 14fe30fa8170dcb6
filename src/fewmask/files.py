"""Files that survive: everything is written beside its place, flushed to the disk, and put there in one step.

A kill or a full disk in the middle of a save leaves the old file as it was. What only one process may write at a time
is held by a lock of the operating system, which ends with the process.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import secrets
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

# What a file system without locks answers: Lustre mounted without them, NFS without its lock service.
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call `write` with a file that takes the place of `path` when it is whole and on the disk, and not before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".fewmask-{secrets.randbits(64):016x}.tmp")  # of one length, whatever the name's is
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
    if os.name == "nt":  # Windows opens no folders, and has none to flush
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


_TEMPORARY = re.compile(r"\.fewmask-[0-9a-f]{16}\.tmp")


def is_unfinished(path: Path) -> bool:
    """Whether it is, by its name, what `write_atomically` has not put in its place yet."""
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_unfinished(folder: Path) -> None:
    """Remove what `write_atomically` had not put in its place when it was killed."""
    for file in folder.rglob(".fewmask-*.tmp"):
        if is_unfinished(file):
            file.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    write_atomically(path, lambda file: file.write(data))


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def hold(lock: Path, busy: str, mend: str, wait: float = 0.0) -> Iterator[None]:
    """Hold a lock file as one process at a time can, until the block ends or the process does, however that comes.

    The file stays behind and means nothing by itself. `wait` is how many seconds another process may take to let go.
    Raises ValueError, `folder: busy by process … on …; mend`, where it does not. Where the file system knows no locks,
    nothing is held, and a warning says so.
    """
    from filelock import FileLock, Timeout

    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock, timeout=wait, preserve_lock_file=True, on_acquired=_sign)
    try:
        held.acquire()
    except Timeout:
        raise ValueError(f"{lock.parent}: {busy} by {_holder(lock)}; {mend}") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        told = f"{lock.parent}: its file system knows no locks ({error.strerror}); let no other process write there"
        warnings.warn(told, stacklevel=1)
        yield
        return
    try:
        yield
    finally:
        held.release()


def _sign(lock: int) -> None:
    """Write into the lock file who holds it, behind its first byte, which on Windows nobody else can read."""
    name = f"\nprocess {os.getpid()} on {platform.node()}\n".encode()
    os.ftruncate(lock, 0)
    os.lseek(lock, 0, os.SEEK_SET)
    os.write(lock, name)


def _holder(lock: Path) -> str:
    name = b""
    with suppress(OSError), open(lock, "rb", buffering=0) as file:
        file.seek(1)
        name = file.read(300)
    return name.decode(errors="replace").strip() or "another process"
