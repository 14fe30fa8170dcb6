"""Reads JSON and XML from strangers within limits of size, depth and count.

A refused file raises a ValueError that names the file, the value and the fix.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from xml.parsers import expat

MIB = 1 << 20
MAX_TEXT = 128 * MIB
"""The largest JSON or XML file that is read as a whole, and the largest task of Label Studio's list."""
MAX_FILE = 4096 * MIB
MAX_NUMBERS, MAX_LISTS, COUNTED_FROM = 10_000_000, 1_000_000, 2 * MIB
"""The most values, and the most lists and objects, in one JSON text: a list takes ten times the memory of its text.
Texts shorter than `COUNTED_FROM` characters are not counted."""
MAX_DEPTH = 64
MAX_ELEMENTS = 1_000_000
MAX_TAG = 8 * MIB
"""Expat parses a tag again with each chunk that does not end it, so its time grows with the square of this."""
CHUNK = MIB

T = TypeVar("T")


# ── JSON ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object. Raises ValueError for other content, too much of it, or a key twice."""
    content = parse_json(_text(path), path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds {_kind(content)}, not an object; give the exported file")
    return content


def parse_json(text: str, where: object) -> Any:
    """The value of a JSON text. Raises ValueError, which names `where`, for text that is no JSON, is too deep or too
    large, or has a key twice."""
    _check_count(text, where)
    return _parse(where, _DECODER.decode, text)


def json_items(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON file that is a list of objects. The memory is that of the largest object.

    Raises ValueError as `read_json` does.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            yield from stream_items(path, file.read)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); fix the path or its permissions") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); export it again") from None


def stream_items(where: object, read: Callable[[int], str]) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON list that `read` returns in pieces of about the given number of characters.

    `read` returns an empty text at the end. Errors name `where`.
    """
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
            # The pieces double, so that an entry is read in linear time.
            text, at, wanted = text[at:] + more, 0, wanted * 2
            _check_count(text, where)
        else:
            raise ValueError(
                f"{where}: not a list of JSON objects that is whole, each of at most {MAX_TEXT} characters; export it "
                "again as JSON, or fewer images"
            )


def _blank(read: Callable[[int], str]) -> bool:
    """Whether nothing but space is left to read."""
    return not any(part.strip() for part in iter(lambda: read(CHUNK), ""))


def _whole(where: object, text: str, at: int) -> tuple[dict[str, Any], int] | None:
    """The object that begins at `at`, and the position after it. None where the text ends before the object does."""
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
        raise ValueError(f"{where}: nested too deeply; give the exported file") from None
    except json.JSONDecodeError as error:
        raise _NotJson(f"{where}: not JSON ({error}); export it again") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}; export it again") from None


_SPACE = re.compile(r"[ \n\r\t]*")
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\Z)', re.DOTALL)


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _check_count(text: str, where: object) -> None:
    """Refuse a long text of too many values before any of them is made."""
    if len(text) < COUNTED_FROM or (_lists(text) <= MAX_LISTS and text.count(",") <= MAX_NUMBERS):
        return
    lists, numbers = _lists(text), text.count(",")
    for match in _STRING.finditer(text):  # brackets and commas in strings do not count: run-length codes have them
        string = match.group()
        lists, numbers = lists - _lists(string), numbers - string.count(",")
    if lists > MAX_LISTS or numbers > MAX_NUMBERS:
        raise ValueError(
            f"{where}: {numbers} values in {lists} lists and objects, more than {MAX_NUMBERS} in {MAX_LISTS}; export "
            "fewer images"
        )


def _lists(text: str) -> int:
    return text.count("[") + text.count("{")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError(f"a key twice among {', '.join(sorted(record))[:200]}")
    return record


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def field(record: Mapping[str, Any], key: str, kind: type[T], where: str) -> T:
    """A value of a JSON object. Raises ValueError when it is missing or of another kind; true is no number."""
    value = record.get(key)
    if isinstance(value, bool) and kind is not bool:
        raise ValueError(f"{where}: {key} is {value}, not {_NAMES[kind]}; export it again")
    if not isinstance(value, kind):
        actual = f"is {_kind(value)}" if key in record else "is missing"
        raise ValueError(f"{where}: {key} {actual}, not {_NAMES[kind]}; export it again")
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
            data = file.read(min(os.fstat(file.fileno()).st_size or limit, limit) + 1)  # of a pipe 0
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); fix the path or its permissions") from None
    if len(data) > limit:
        raise ValueError(f"{path}: more than {limit} bytes; export fewer images")
    return data


# ── XML ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

Element = tuple[str, dict[str, str]]
"""A tag and its attributes."""


def xml_elements(data: bytes, where: Path) -> Iterator[tuple[Element, list[Element]]]:
    """Yield the children of an XML document's root, each with its own children.

    Text and deeper elements are left out. Raises ValueError for XML that is not whole or exceeds the limits, and for a
    document type: without it there is no entity that could expand or name a file.
    """
    parser = expat.ParserCreate()
    depth, count, whole = 0, 0, list[tuple[Element, list[Element]]]()
    current: tuple[Element, list[Element]] | None = None

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth, count, current
        depth, count = depth + 1, count + 1
        if depth > MAX_DEPTH:
            raise ValueError(f"{where}: nested more than {MAX_DEPTH} deep; give the exported file")
        if count > MAX_ELEMENTS:
            raise ValueError(f"{where}: more than {MAX_ELEMENTS} elements; export fewer images")
        if depth == 2:
            current = (tag, attributes), []
        elif depth == 3 and current is not None:
            current[1].append((tag, attributes))

    def end(_: str) -> None:
        nonlocal depth, current
        depth -= 1
        if depth == 1 and current is not None:
            whole.append(current)
            current = None

    def doctype(*_: object) -> None:
        raise ValueError(f"{where}: declares a document type, which no export needs; remove it, or export again")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = doctype
    try:
        for at in range(0, len(data) + 1, CHUNK):
            parser.Parse(data[at : at + CHUNK], at + CHUNK > len(data))
            if min(at + CHUNK, len(data)) - parser.CurrentByteIndex > MAX_TAG:
                raise ValueError(f"{where}: a tag of more than {MAX_TAG} bytes; give the exported file")
            yield from whole
            whole.clear()
    except expat.ExpatError as error:
        raise ValueError(f"{where}: not XML ({error}); export it again") from None
