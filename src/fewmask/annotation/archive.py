"""Reads zip archives from strangers within limits, without unpacking them to the disk.

A refused archive raises a ValueError that names the file, the value and the fix.
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
"""The most bytes of an archive's files together. They are read one at a time."""
MAX_RATIO, RATIO_FROM = 200, 4 * MIB
"""The largest ratio of unpacked to packed size. Pictures and text pack 2 to 50 times, deflate packs up to 1,000 times.
Files of up to `RATIO_FROM` bytes may pack better."""
MAX_DIRECTORY = 64 * MIB

STRAYS = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})


def is_stray(path: str) -> bool:
    """Whether a path with slashes is a hidden file that an operating system leaves in folders and archives."""
    parts = path.split("/")
    return any(part.casefold() in STRAYS or (part.startswith(".") and part.strip(".")) for part in parts)


class Archive:
    """A zip archive whose list of files was checked. Use it in `with`; `read` returns the bytes of one file."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError for a file that is no zip archive, and for a list of files that no tool exports."""
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
        """The archive's files in its order, without folders and without `strays`."""
        return [name for name in self._members if not is_stray(name)]

    @property
    def strays(self) -> list[str]:
        """The files that an operating system left in the archive. They are never read."""
        return [name for name in self._members if is_stray(name)]

    def file_named(self, name: str) -> str | None:
        """The file of this name in any folder and in any case; None where there is none.

        Raises ValueError where there are several.
        """
        matches = [member for member in self.names if member.rpartition("/")[2].casefold() == name.casefold()]
        if len(matches) > 1:
            raise ValueError(f"{self.path}: {', '.join(matches[:5])}: several files of one name; give one export")
        return matches[0] if matches else None

    def where(self, name: str) -> Path:
        """The path by which errors name one of the archive's files."""
        return self.path / name

    def read(self, name: str, limit: int = MAX_MEMBER) -> bytes:
        """The bytes of a file. Raises ValueError when they are damaged, or more than its stated size or the limit."""
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
    """Refuse an archive whose list of files would fill the memory before its first entry can be checked."""
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
    """The archive's files by name. Raises one ValueError with the first fault of each of up to 20 files."""
    if len(members) > MAX_MEMBERS:
        raise ValueError(f"{path}: {len(members)} files, more than {MAX_MEMBERS}; export fewer images")
    total = sum(member.file_size for member in members)
    if total > MAX_UNPACKED:
        raise ValueError(f"{path}: {total} bytes when unpacked, more than {MAX_UNPACKED}; export fewer images")
    faults, members_by_name = [], dict[str, zipfile.ZipInfo]()
    for member in members:
        fault = _fault(member) or ("there twice" if member.filename in members_by_name else "")
        if fault and not (is_stray(member.filename) and ".." not in member.filename):
            faults.append(f"{member.filename!r}: {fault}")
        members_by_name[member.filename] = member
    if faults:
        more = f" and {len(faults) - 20} more" if len(faults) > 20 else ""
        raise ValueError(f"{path}: refused: {'; '.join(faults[:20])}{more}; export the archive again from the tool")
    return {name: member for name, member in members_by_name.items() if not member.is_dir()}


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
