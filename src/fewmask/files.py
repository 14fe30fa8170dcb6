"""Files that survive: everything is written beside its place, flushed to the disk, and put there in one step.

A kill or a full disk in the middle of a save leaves the old file as it was. What only one process may write at a time
is held by a lock of the operating system, which ends with the process. Nothing is ever removed that was not written
here: `Written` notes what was, and no other module removes files.
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

# What a file system without locks answers: Lustre mounted without them, NFS without its lock service.
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
FIXES = {
    errno.ENAMETOOLONG: "Shorten the name or the path",
    errno.EROFS: "Write to a disk that allows it",
    errno.EACCES: "Make its folder writable",
    errno.EPERM: "Make its folder writable",
}


def write_atomically(path: Path, write: Callable[[BinaryIO], object], written: Written | None = None) -> None:
    """Call `write` with a file that takes the place of `path` when it is whole and on the disk, and not before.

    `written` notes it; by default what `Written.guard` is at work, if any. It may refuse with a ValueError.
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
            if os.name == "nt":  # where no open file is moved
                file.close()
            os.replace(temporary, path)
    except Exception as error:
        # torch.save says nothing of the full disk behind its own error
        system = error if isinstance(error, OSError) else error.__context__
        if isinstance(system, OSError):
            fix = FIXES.get(system.errno or 0, "Make room and go on")
            raise OSError(
                f"{path}: cannot be written ({system.strerror}); what was there is as it was. {fix}"
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


@contextmanager
def _unfinished(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file of a name that no other has, held as long as it is written; gone afterwards if it is still there."""
    while True:
        temporary = folder / f".fewmask-{secrets.randbits(64):016x}.tmp"  # of one length, whatever the file's name is
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
    """Remove what `write_atomically` had not put in its place when it was killed.

    What a living process is writing, on this machine or another, is held by it and stays. Where the file system knows
    no locks nobody can tell the two apart, and all of it stays.
    """
    for path in folder.rglob(".fewmask-*.tmp"):
        if is_unfinished(path) and path.is_file() and not path.is_symlink():
            with suppress(FileNotFoundError), open(path, "r+b") as file:
                if _take(file):
                    path.unlink()  # a name is never used again, so that it is still this file's


def _take(file: BinaryIO) -> bool:
    """Hold an open file alone until it is closed; False where another process holds it, or where that is not known."""
    try:
        import fcntl
    except ImportError:  # Windows, which removes no open file
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
    """Write a file where there is none, whole or not at all. Where another process is faster, its file stays."""
    with _unfinished(path.parent) as (file, temporary):
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            if not path.exists():
                os.replace(temporary, path)


def set_aside(path: Path) -> Path:
    """Give a file or a folder another name beside it, and return that."""
    number = 1
    while os.path.lexists(aside := below(path.parent, f"before-{number}-{path.name}")):
        number += 1
    os.rename(path, aside)
    return aside


# ── What was written ─────────────────────────────────────────────────────────────────────────────────────────────────

NOTES = ".written.jsonl"
WHOLE = 1 << 24
"""Of a file that is larger, its size and as many bytes at its beginning and its end tell whether it is the same."""


class Written:
    """What we wrote below a folder. Only that is ever removed there, and only as long as it is as we wrote it.

    `.written.jsonl` in the folder has a line for each file, with its size and a hash, written before the file takes its
    place. `replaces` says what a file may take the place of: "any" file, one of a name that we "named" before, or one
    that is "ours" as we wrote it. Several processes may note at once. A line that cannot be read makes nothing ours.
    """

    def __init__(self, folder: Path, replaces: Literal["any", "named", "ours"] = "any") -> None:
        self.folder, self.replaces = folder, replaces

    @contextmanager
    def guard(self) -> Iterator[None]:
        """While inside, this thread's `write_atomically` below the folder notes here, and refuses what it may not."""
        token = _guard.set(self)
        try:
            yield
        finally:
            _guard.reset(token)

    def note(self, path: Path, temporary: Path) -> None:
        """Note what is going to take the place of `path`. Raises ValueError where that is not ours to replace."""
        if not path.is_relative_to(self.folder):
            return
        name, mark = path.relative_to(self.folder).as_posix(), _mark(temporary)
        if self.replaces != "any" and os.path.lexists(path) and (path.is_symlink() or _mark(path) != mark):
            known = self._notes().get(name, set())
            if not known:
                raise ValueError(f"{path}: there already, and not written by fewmask; move it away, or write elsewhere")
            if path.is_symlink() or (self.replaces == "ours" and _mark(path) not in known):
                raise ValueError(f"{path}: changed since it was written; move it away if it is to be written anew")
        self._append({"name": name, "is": mark})

    def names(self) -> list[str]:
        """The files that were written and not removed since, by their paths from the folder."""
        return list(self._notes())

    def ours(self, paths: Iterable[Path]) -> set[Path]:
        """Those of these files below the folder that are as we wrote them."""
        notes = self._notes()
        return {path for path in paths if _is_one_of(path, notes.get(path.relative_to(self.folder).as_posix(), ()))}

    def remove(self, names: Iterable[str]) -> None:
        """Remove those of these files that are as we wrote them, and folders that are empty then."""
        notes = self._notes()
        for name in names:
            path = below(self.folder, name)
            if _is_one_of(path, notes.get(name, ())):
                path.unlink()
                self._append({"name": name, "is": None})
                for folder in path.parents[: len(path.relative_to(self.folder).parents) - 1]:
                    with suppress(OSError):  # it is not empty
                        folder.rmdir()

    def clear(self, keep: Collection[Path] = ()) -> None:
        """Remove all that is as we wrote it but what is to be kept; and the folder, where nothing is left in it."""
        kept = {path.relative_to(self.folder).as_posix() for path in keep}
        self.remove(name for name in self.names() if name not in kept)
        if self.folder.is_dir() and [path.name for path in self.folder.iterdir()] == [NOTES] and not self.names():
            (self.folder / NOTES).unlink()
            self.folder.rmdir()

    def _notes(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        with suppress(FileNotFoundError), open(self.folder / NOTES, encoding="utf-8", errors="replace") as file:
            for line in file:
                with suppress(ValueError, KeyError, TypeError, RecursionError):
                    note = json.loads(line)
                    if note["is"] is None:
                        found.pop(note["name"], None)
                    else:
                        found.setdefault(note["name"], set()).add(note["is"])
        return found

    def _append(self, note: dict[str, str | None]) -> None:
        line = f"\n{json.dumps(note)}\n"  # a line of its own even behind the half line of a kill
        with open(self.folder / NOTES, "ab", buffering=0) as file:
            file.write(line.encode())
            if self.replaces != "any":  # elsewhere a lost note only leaves a file behind
                os.fsync(file.fileno())


_guard: ContextVar[Written | None] = ContextVar("guard", default=None)


def _is_one_of(path: Path, marks: Collection[str]) -> bool:
    return bool(marks) and path.is_file() and not path.is_symlink() and _mark(path) in marks


def _mark(path: Path) -> str:
    """Tells a file's content from any other."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        content = blake2b(file.read(WHOLE), digest_size=16)
        if size > WHOLE:
            file.seek(max(WHOLE, size - WHOLE))
            content.update(file.read())
    return f"{size}-{content.hexdigest()}"


def renamed(path: Path, name: Path) -> None:
    """Give a file of ours another name beside it."""
    os.replace(path, name)


def write_bytes(path: Path, data: bytes, written: Written | None = None) -> None:
    write_atomically(path, lambda file: file.write(data), written)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def hold(lock: Path, busy: str, fix: str, wait: float = 0.0) -> Iterator[None]:
    """Hold a lock file as one process at a time can, until the block ends or the process does, however that comes.

    The file stays behind and means nothing by itself. `wait` is how many seconds another process may take to let go.
    Raises ValueError, `folder: busy by process … on …; fix`, where it does not. Where the file system knows no locks,
    nothing is held, and a warning says so.
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
