"""Files from strangers: zip archives, JSON and XML, read within limits and never unpacked to the disk.

Whatever is refused is a ValueError that names the file, what was found there, and what mends it.
"""

from __future__ import annotations

import json
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar
from xml.parsers import expat

MIB = 1 << 20
MAX_TEXT = 256 * MIB
"""A JSON or XML file that is read as a whole, or one task of Label Studio's."""
MAX_FILE = 4096 * MIB
MAX_MEMBERS = 50_000
MAX_MEMBER = 256 * MIB
MAX_UNPACKED = 8192 * MIB
"""All of an archive's files together. They are read one at a time and never held together."""
MAX_RATIO, RATIO_FROM = 200, 4 * MIB
"""Pictures and text pack 2 to 50 times, deflate's most is 1,000; files up to so many bytes may pack better."""
MAX_DIRECTORY = 64 * MIB
MAX_DEPTH = 64
CHUNK = MIB

T = TypeVar("T")


class Archive:
    """A zip archive whose list of files is known to be harmless. Use it in `with`; `read` gives one file's bytes."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError when it is no zip archive, or when anything in its list is not what a tool exports."""
        self.path = path
        try:
            _check_directory(path)
            self._zip = zipfile.ZipFile(path)
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror}); mend the path or its permissions") from None
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
        """The files in it, in its own order, without folders."""
        return list(self._members)

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
        if fault:
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


# ── JSON ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object. Raises ValueError when it is none, is too large, or says a key twice."""
    found = parse_json(_text(path), path)
    if not isinstance(found, dict):
        raise ValueError(f"{path}: holds {_kind(found)}, not an object; give what the tool exported")
    return found


def parse_json(text: str, where: object) -> Any:
    """What JSON says. Raises ValueError, which names `where`, when it is none, too deep, or says a key twice."""
    return _parse(where, _DECODER.decode, text)


def json_items(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON file that is a list of them, one at a time: the memory is that of the largest.

    Raises ValueError as `read_json` does.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            yield from stream_items(path, file.read)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); mend the path or its permissions") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); export it again") from None


def stream_items(where: object, read: Callable[[int], str]) -> Iterator[dict[str, Any]]:
    """The same of text that `read` hands out: about so many characters, none at the end. `where` is what errors say."""
    text, at, wanted, expected = "", 0, CHUNK, "["
    while True:
        at = _after_space(text, at)
        lead = text[at : at + 1]
        if lead == "]" and lead in expected and not text[at + 1 :].strip() and _blank(read):
            return
        whole = _whole(where, text, at) if lead == "{" and lead in expected else None
        if whole is not None:
            item, at = whole
            wanted, expected = CHUNK, ",]"
            yield item
        elif lead in ("[", ",") and lead in expected:
            at, expected = at + 1, "{]" if lead == "[" else "{"
        elif lead in ("", "{") and len(text) - at <= MAX_TEXT and (more := read(wanted)):
            # Twice as much each time, so that an entry is read in linear time.
            text, at, wanted = text[at:] + more, 0, wanted * 2
        else:
            raise ValueError(
                f"{where}: not a list of JSON objects that is whole, each of at most {MAX_TEXT} characters; export it "
                "again as JSON, or fewer images"
            )


def _blank(read: Callable[[int], str]) -> bool:
    """Whether nothing but space is left to read."""
    return not any(part.strip() for part in iter(lambda: read(CHUNK), ""))


def _whole(where: object, text: str, at: int) -> tuple[dict[str, Any], int] | None:
    """The object that begins there and the place after it; None where the text ends before it does."""
    try:
        return _parse(where, lambda part: _DECODER.raw_decode(part, at), text)
    except _NotJson:
        return None


class _NotJson(ValueError):
    """The text is no JSON, or not all of it."""


def _parse(where: object, parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except RecursionError:
        raise ValueError(f"{where}: nested too deeply; give what the tool exported") from None
    except json.JSONDecodeError as error:
        raise _NotJson(f"{where}: not JSON ({error}); export it again") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}; export it again") from None


def _after_space(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\n", "\r", "\t"):
        at += 1
    return at


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a key twice among {', '.join(sorted(found))[:200]}")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def field(record: Mapping[str, Any], key: str, kind: type[T], where: str) -> T:
    """A value of a JSON object. Raises ValueError when it is not there or of another kind; true is no number."""
    value = record.get(key)
    if isinstance(value, bool) and kind is not bool:
        raise ValueError(f"{where}: {key} is {value}, not {_NAMES[kind]}; export it again")
    if not isinstance(value, kind):
        said = f"is {_kind(value)}" if key in record else "is missing"
        raise ValueError(f"{where}: {key} {said}, not {_NAMES[kind]}; export it again")
    return value


_NAMES: dict[type, str] = {dict: "an object", list: "a list", str: "text", int: "a whole number", bool: "true or false"}


def _kind(value: object) -> str:
    return "null" if value is None else _NAMES.get(type(value), f"{value!r}"[:60])


def _text(path: Path) -> str:
    try:
        return read_bytes(path, MAX_TEXT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); export it again") from None


def read_bytes(path: Path, limit: int) -> bytes:
    """A file's bytes. Raises ValueError when they are more than the limit, or cannot be read."""
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); mend the path or its permissions") from None
    if len(data) > limit:
        raise ValueError(f"{path}: more than {limit} bytes; export fewer images")
    return data


# ── XML ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

Element = tuple[str, dict[str, str]]
"""A tag and its attributes."""


def xml_elements(
    data: bytes, where: Path, parent: str, refused: tuple[str, ...] = ()
) -> Iterator[tuple[Element, list[Element]]]:
    """Every element `parent` of an XML document with the elements inside of it, one at a time; text is left out.

    Raises ValueError for XML that is not whole, for `refused` elements, and for a document type: with it goes every
    entity that could expand or name a file.
    """
    parser = expat.ParserCreate()
    depth, whole = 0, list[tuple[Element, list[Element]]]()
    current: tuple[Element, list[Element]] | None = None

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth, current
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"{where}: nested more than {MAX_DEPTH} deep; give what the tool exported")
        if tag in refused:
            raise ValueError(f"{where}: holds a <{tag}>, which is not read; export single images")
        if tag == parent:
            current = (tag, attributes), []
        elif current is not None:
            current[1].append((tag, attributes))

    def end(tag: str) -> None:
        nonlocal depth, current
        depth -= 1
        if tag == parent and current is not None:
            whole.append(current)
            current = None

    def doctype(*_: object) -> None:
        raise ValueError(f"{where}: declares a document type, which no export needs; remove it, or export again")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = doctype
    try:
        for at in range(0, len(data) + 1, CHUNK):
            parser.Parse(data[at : at + CHUNK], at + CHUNK > len(data))
            yield from whole
            whole.clear()
    except expat.ExpatError as error:
        raise ValueError(f"{where}: not XML ({error}); export it again") from None
