"""Zip archives from strangers, read within limits and never unpacked to the disk.

Whatever is refused is a ValueError that names the file, what was found there, and what fixes it.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from fewmask.formats.texts import MAX_FILE, MIB

MAX_MEMBERS = 50_000
MAX_MEMBER = 256 * MIB
MAX_UNPACKED = 8192 * MIB
"""All of an archive's files together. They are read one at a time and never held together."""
MAX_RATIO, RATIO_FROM = 200, 4 * MIB
"""Pictures and text pack 2 to 50 times, deflate's most is 1,000; files up to so many bytes may pack better."""
MAX_DIRECTORY = 64 * MIB

STRAYS = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})


def is_stray(path: str) -> bool:
    """Whether a path with slashes is something that a system leaves in folders and archives, and hides from people."""
    parts = path.split("/")
    return any(part.casefold() in STRAYS or (part.startswith(".") and part.strip(".")) for part in parts)


class Archive:
    """A zip archive whose list of files is known to be harmless. Use it in `with`; `read` gives one file's bytes."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError when it is no zip archive, or when anything in its list is not what a tool exports."""
        self.path = path
        try:
            _check_directory(path)
            self._zip = zipfile.ZipFile(path)
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror}); fix the path or its permissions") from None
        except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not a zip archive that can be read ({error}); export it again") from None
        try:
            self._members = _check_members(path, self._zip.infolist())
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *error: object) -> None:
        self._zip.close()

    @property
    def names(self) -> list[str]:
        """The files in it, in its own order, without folders and without what a system left there."""
        return [name for name in self._members if not is_stray(name)]

    @property
    def strays(self) -> list[str]:
        """What a system left in it: these files are never read."""
        return [name for name in self._members if is_stray(name)]

    def called(self, name: str) -> str | None:
        """The one file of this name, whatever the folder that it lies in and the case of its letters; None for none.

        Raises ValueError where there are several.
        """
        found = [there for there in self.names if there.rpartition("/")[2].casefold() == name.casefold()]
        if len(found) > 1:
            raise ValueError(f"{self.path}: {', '.join(found[:5])}: several of that name; give one export at a time")
        return found[0] if found else None

    def where(self, name: str) -> Path:
        """What errors call one of its files."""
        return self.path / name

    def read(self, name: str, limit: int = MAX_MEMBER) -> bytes:
        """One file's bytes. Raises ValueError when they are more than it said, more than the limit, or damaged."""
        member = self._members[name]
        if member.file_size > limit:
            raise ValueError(f"{self.where(name)}: {member.file_size} bytes, more than {limit}; export fewer images")
        try:
            with self._zip.open(member) as file:
                data = file.read(member.file_size + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
            raise ValueError(f"{self.where(name)}: damaged ({error}); export the archive again") from None
        if len(data) != member.file_size:
            raise ValueError(
                f"{self.where(name)}: {len(data)} bytes, the archive says {member.file_size}; export it again"
            )
        return data


def _check_directory(path: Path) -> None:
    """Refuse what would fill the memory before the first entry of the archive's list can be looked at."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        if size > MAX_FILE:
            raise ValueError(f"{path}: {size} bytes, more than {MAX_FILE}; export fewer images")
        file.seek(max(size - (1 << 16) - 64, 0))
        tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if b"PK\x06\x07" in tail[max(end - 20, 0) : end]:
        raise ValueError(f"{path}: an archive of more than 65,535 files or 4 GiB (zip64); export fewer images")
    listed = int.from_bytes(tail[end + 12 : end + 16], "little")
    if end >= 0 and listed > MAX_DIRECTORY:
        raise ValueError(f"{path}: a list of files of {listed} bytes, more than {MAX_DIRECTORY}; export fewer images")


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """The archive's files by name. Raises one ValueError that says the first fault of each of up to 20 of them."""
    if len(members) > MAX_MEMBERS:
        raise ValueError(f"{path}: {len(members)} files, more than {MAX_MEMBERS}; export fewer images")
    total = sum(member.file_size for member in members)
    if total > MAX_UNPACKED:
        raise ValueError(f"{path}: {total} bytes when unpacked, more than {MAX_UNPACKED}; export fewer images")
    faults, found = [], dict[str, zipfile.ZipInfo]()
    for member in members:
        fault = _fault(member) or ("there twice" if member.filename in found else "")
        if fault and not (is_stray(member.filename) and ".." not in member.filename):
            faults.append(f"{member.filename!r}: {fault}")
        found[member.filename] = member
    if faults:
        more = f" and {len(faults) - 20} more" if len(faults) > 20 else ""
        raise ValueError(f"{path}: refused: {'; '.join(faults[:20])}{more}; export the archive again from the tool")
    return {name: member for name, member in found.items() if not member.is_dir()}


def _fault(member: zipfile.ZipInfo) -> str:
    name, kind = member.filename, stat.S_IFMT(member.external_attr >> 16)
    windows = PureWindowsPath(name)
    if PurePosixPath(name).is_absolute() or windows.drive or windows.root:
        return "an absolute path"
    if ".." in windows.parts:
        return "a path that leads out of the archive"
    if "\\" in member.orig_filename or any(ord(c) < 32 for c in member.orig_filename) or not name.strip("/"):
        return "not a plain name"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or a device, not a file"
    if member.flag_bits & 1:
        return "encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"packed by method {member.compress_type}, neither stored nor deflated"
    if member.file_size > MAX_MEMBER:
        return f"{member.file_size} bytes, more than {MAX_MEMBER}"
    if member.file_size > max(RATIO_FROM, MAX_RATIO * member.compress_size):
        return f"{member.file_size} bytes packed into {member.compress_size}, more than {MAX_RATIO} times"
    return ""
