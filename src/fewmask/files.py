"""Atomic writes: a file is written under a temporary name in its folder, flushed to the disk, and renamed in one step.

A kill or a full disk in the middle of a save leaves the old file unchanged. A lock of the operating system, which ends
with the process, allows one process at a time to write. Only files that this module wrote are ever removed: `Written`
notes them, and no other module removes files.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import secrets
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, Literal

from fewmask.paths import below

# The errors of file systems without locks, such as Lustre mounted without them, or NFS without its lock service.
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
FIXES = {
    errno.ENAMETOOLONG: "Shorten the name or the path",
    errno.EROFS: "Write to a disk that allows it",
    errno.EACCES: "Make its folder writable",
    errno.EPERM: "Make its folder writable",
}


def write_atomically(path: Path, write: Callable[[BinaryIO], object], written: Written | None = None) -> None:
    """Call `write` with a temporary file, which replaces `path` when it is complete and on the disk.

    `written` notes the file and may refuse it with a ValueError. The default is the active `Written.guard`, if any.
    """
    written = written or _guard.get()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _unfinished(path.parent) as (file, temporary):
            write(file)
            file.flush()
            os.fsync(file.fileno())
            if written is not None:
                written.note(path, temporary)
            if os.name == "nt":  # Windows does not rename an open file
                file.close()
            os.replace(temporary, path)
    except Exception as error:
        # torch.save hides the error of a full disk behind its own
        system = error if isinstance(error, OSError) else error.__context__
        if isinstance(system, OSError):
            fix = FIXES.get(system.errno or 0, "Make room and go on")
            raise OSError(
                f"{path}: cannot be written ({system.strerror}); the old file, if any, is unchanged. {fix}"
            ) from error
        raise
    if os.name == "nt":  # Windows cannot open or flush a folder
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


_TEMPORARY = re.compile(r"\.fewmask-[0-9a-f]{16}\.tmp")


def is_unfinished(path: Path) -> bool:
    """Whether the name is that of an unfinished file of `write_atomically`."""
    return _TEMPORARY.fullmatch(path.name) is not None


@contextmanager
def _unfinished(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file with a unique name, which is locked while it is written. Afterwards it is removed if it still
    exists."""
    while True:
        temporary = (
            folder / f".fewmask-{secrets.randbits(64):016x}.tmp"
        )  # its length does not depend on the file's name
        file = open(temporary, "xb")  # noqa: SIM115
        _take(file)
        if os.name == "nt" or os.fstat(file.fileno()).st_nlink:
            break
        file.close()  # `remove_unfinished` was faster
    try:
        with file:
            yield file, temporary
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def remove_unfinished(folder: Path) -> None:
    """Remove the unfinished files of `write_atomically` in processes that were killed.

    A running process, on this machine or another, locks its files, which stay. On a file system without locks the two
    cannot be distinguished, so all unfinished files stay.
    """
    for path in folder.rglob(".fewmask-*.tmp"):
        if is_unfinished(path) and path.is_file() and not path.is_symlink():
            with suppress(FileNotFoundError), open(path, "r+b") as file:
                if _take(file):
                    path.unlink()  # a name is never used again, so the path is still that of this file


def _take(file: BinaryIO) -> bool:
    """Lock an open file until it is closed. False where another process has locked it, or where locks do not work."""
    try:
        import fcntl
    except ImportError:  # Windows, which does not remove an open file
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def write_new(path: Path, data: bytes) -> None:
    """Write a new file, completely or not at all. If another process has written the path, its file stays."""
    with _unfinished(path.parent) as (file, temporary):
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError:  # the file system has no links
            if not path.exists():
                os.replace(temporary, path)


def set_aside(path: Path) -> Path:
    """Rename a file or a folder within its parent folder, and return the new path."""
    number = 1
    while os.path.lexists(aside := below(path.parent, f"before-{number}-{path.name}")):
        number += 1
    os.rename(path, aside)
    return aside


# ── Written files ────────────────────────────────────────────────────────────────────────────────────────────────────

NOTES = ".written.jsonl"
WHOLE = 1 << 24
"""A larger file is identified by its size and by this number of bytes at its beginning and at its end."""


class Written:
    """The files that fewmask wrote below a folder. Only these are ever removed, and only while they are unchanged.

    `.written.jsonl` in the folder has a line for each file, with its size and a hash. The line is written before the
    file is renamed to its path. `replaces` says which file may be replaced: "any" file, one whose name was "named" in a
    line before, or one that is "ours", unchanged since fewmask wrote it. Several processes may write lines at once. An
    unreadable line is ignored.
    """

    def __init__(self, folder: Path, replaces: Literal["any", "named", "ours"] = "any") -> None:
        self.folder, self.replaces = folder, replaces

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Inside this context this thread's `write_atomically` calls `note` for every file below the folder."""
        token = _guard.set(self)
        try:
            yield
        finally:
            _guard.reset(token)

    def note(self, path: Path, temporary: Path) -> None:
        """Note the file that will replace `path`. Raises ValueError if the existing file may not be replaced."""
        if not path.is_relative_to(self.folder):
            return
        name, mark = path.relative_to(self.folder).as_posix(), _mark(temporary)
        if self.replaces != "any" and os.path.lexists(path) and (path.is_symlink() or _mark(path) != mark):
            known_marks = self._notes().get(name, set())
            if not known_marks:
                raise ValueError(f"{path}: exists and was not written by fewmask; move it away, or write elsewhere")
            if path.is_symlink() or (self.replaces == "ours" and _mark(path) not in known_marks):
                raise ValueError(f"{path}: has changed since it was written; move it away to write it again")
        self._append({"name": name, "is": mark})

    def names(self) -> list[str]:
        """The files that were written and not removed since, by their paths relative to the folder."""
        return list(self._notes())

    def ours(self, paths: Iterable[Path]) -> set[Path]:
        """Those of the given files below the folder that fewmask wrote and that are unchanged."""
        notes = self._notes()
        return {path for path in paths if _is_one_of(path, notes.get(path.relative_to(self.folder).as_posix(), ()))}

    def remove(self, names: Iterable[str]) -> None:
        """Remove those of the given files that fewmask wrote and that are unchanged, and folders that are empty
        then."""
        notes = self._notes()
        for name in names:
            path = below(self.folder, name)
            if _is_one_of(path, notes.get(name, ())):
                path.unlink()
                self._append({"name": name, "is": None})
                for folder in path.parents[: len(path.relative_to(self.folder).parents) - 1]:
                    with suppress(OSError):  # the folder is not empty
                        folder.rmdir()

    def clear(self, keep: Collection[Path] = ()) -> None:
        """Remove all files that fewmask wrote and that are unchanged, except those to keep. Remove the folder if it is
        empty then."""
        kept = {path.relative_to(self.folder).as_posix() for path in keep}
        self.remove(name for name in self.names() if name not in kept)
        if self.folder.is_dir() and [path.name for path in self.folder.iterdir()] == [NOTES] and not self.names():
            (self.folder / NOTES).unlink()
            self.folder.rmdir()

    def _notes(self) -> dict[str, set[str]]:
        notes: dict[str, set[str]] = {}
        with suppress(FileNotFoundError), open(self.folder / NOTES, encoding="utf-8", errors="replace") as file:
            for line in file:
                with suppress(ValueError, KeyError, TypeError, RecursionError):
                    note = json.loads(line)
                    if note["is"] is None:
                        notes.pop(note["name"], None)
                    else:
                        notes.setdefault(note["name"], set()).add(note["is"])
        return notes

    def _append(self, note: dict[str, str | None]) -> None:
        line = f"\n{json.dumps(note)}\n"  # the first newline ends an incomplete line of a killed process
        with open(self.folder / NOTES, "ab", buffering=0) as file:
            file.write(line.encode())
            if self.replaces != "any":  # with "any" a lost line only leaves a file behind
                os.fsync(file.fileno())


_guard: ContextVar[Written | None] = ContextVar("guard", default=None)


def _is_one_of(path: Path, marks: Collection[str]) -> bool:
    return bool(marks) and path.is_file() and not path.is_symlink() and _mark(path) in marks


def _mark(path: Path) -> str:
    """A mark that identifies a file's content."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        content = blake2b(file.read(WHOLE), digest_size=16)
        if size > WHOLE:
            file.seek(max(WHOLE, size - WHOLE))
            content.update(file.read())
    return f"{size}-{content.hexdigest()}"


def renamed(path: Path, name: Path) -> None:
    """Rename a file that fewmask wrote, within its folder."""
    os.replace(path, name)


def write_bytes(path: Path, data: bytes, written: Written | None = None) -> None:
    write_atomically(path, lambda file: file.write(data), written)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def hold(lock: Path, busy: str, fix: str, wait: float = 0.0) -> Iterator[None]:
    """Hold a lock file, which one process at a time can do, until the block or the process ends in any way.

    The file stays behind and means nothing without its lock. `wait` is the number of seconds to wait for another
    process. Raises ValueError, `folder: busy by process … on …; fix`, if that process does not release the lock. On a
    file system without locks nothing is held, and a warning says so.
    """
    from filelock import FileLock, Timeout

    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock, timeout=wait, preserve_lock_file=True, on_acquired=_sign)
    try:
        held.acquire()
    except Timeout:
        raise ValueError(f"{lock.parent}: {busy} by {_holder(lock)}; {fix}") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        message = f"{lock.parent}: its file system has no locks ({error.strerror}); let no other process write there"
        warnings.warn(message, stacklevel=1)
        yield
        return
    try:
        yield
    finally:
        held.release()


def is_held(lock: Path) -> bool:
    """Whether a process holds a lock file. It is False where that cannot be found out."""
    from filelock import FileLock, Timeout

    if not lock.exists():
        return False
    probe = FileLock(lock, timeout=0, preserve_lock_file=True)
    try:
        probe.acquire()
    except Timeout:
        return True
    except OSError:
        return False
    probe.release()
    return False


def _sign(lock: int) -> None:
    """Write the holder into the lock file, after its first byte, which other processes cannot read on Windows."""
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
