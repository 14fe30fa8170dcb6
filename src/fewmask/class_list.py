"""The contents of a `classes.yaml`: the classes by id or in a list, their colours, and the void values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewmask import strict_yaml
from fewmask.strict_yaml import short

Colour = tuple[int, int, int]
MAX_CLASSES = 254


@dataclass(frozen=True)
class ClassList:
    """The classes in the order of their ids."""

    ids: tuple[int, ...]
    names: tuple[str, ...]
    colours: tuple[Colour | None, ...]
    """None for a class without a colour in the file."""
    void_ids: frozenset[int] = frozenset()
    void_colours: frozenset[Colour] = frozenset()
    void_names: frozenset[str] = frozenset()
    """Names in annotations that are void instead of a class."""
    listed: bool = False
    """Whether the classes are a list, in which a class's id is its position."""


def read_class_list(path: Path) -> ClassList:
    """Read a `classes.yaml`. It holds `classes: {id: {name, colour}}`, `{id: name}`, or a list of names or of
    `{name, colour}`; and `ignore`, a list of ids, colours and names. A file may hold the list of classes alone.

    Raises ValueError that names the file, the entry and the fix.
    """
    try:
        data, text = strict_yaml.read_yaml(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: not found; write one: `classes: {{0: {{name: road}}, 1: {{name: sky}}}}`") from None
    steps: list[Any] = ["classes"]
    if isinstance(data, list):
        data, steps = {"classes": data}, []
    classes: Any = data.get("classes") if isinstance(data, dict) else None
    listed = isinstance(classes, list)
    if listed:
        classes = dict(enumerate(classes))
    if not isinstance(classes, dict):
        raise ValueError(f"{path}: needs a mapping `classes:` from id to name, or a list of names; see docs/formats.md")
    if unknown := sorted(str(key) for key in set(data) - {"classes", "ignore"}):
        raise ValueError(f"{path}: unknown keys {', '.join(unknown)}; only `classes` and `ignore` are read")
    ignore = data.get("ignore") or []
    if not isinstance(ignore, list) or not all(_is_id(i) or isinstance(i, str) or _is_colour(i) for i in ignore):
        raise ValueError(f"{path}: `ignore` is a list of ids, colours or names, this is {short(ignore)}")
    if len(classes) > MAX_CLASSES:
        raise ValueError(
            f"{path}: {len(classes)} classes; masks are 8-bit and hold at most {MAX_CLASSES} "
            "(docs/decisions/0012-eight-bit-labels.md): merge some, or split them into domains"
        )
    entries = sorted(classes.items(), key=lambda item: str(item[0]).zfill(4))
    read = [_entry(path, raw, entry, [*steps, raw], text) for raw, entry in entries]
    return ClassList(
        ids=tuple(int(raw) for raw, _ in entries),
        names=tuple(name for name, _ in read),
        colours=tuple(colour for _, colour in read),
        void_ids=frozenset(i for i in ignore if _is_id(i)),
        void_colours=frozenset(_colour(i) for i in ignore if _is_colour(i)),
        void_names=frozenset(i for i in ignore if isinstance(i, str)),
        listed=listed,
    )


def _entry(path: Path, raw: Any, entry: Any, steps: list[Any], text: str) -> tuple[str, Colour | None]:
    """The name and the colour of a class."""
    if not _is_id(raw):
        problem = f"the id {short(raw)} is not a number from 0 to 255"
        raise ValueError(f"{path}: {problem}; masks are 8-bit, renumber it")
    given: Mapping[str, Any] = {"name": entry} if isinstance(entry, str) else entry
    name = given.get("name", "") if isinstance(given, dict) else entry
    if name is None or isinstance(name, bool | int | float):
        place = [*steps, *(["name"] if isinstance(given, dict) else [])]
        raise ValueError(f"{path}: class {raw}: {strict_yaml.unquoted(text, place, name)}")
    keys = set(given) if isinstance(given, dict) else set()
    if not isinstance(name, str) or keys - {"name", "color", "colour"} or {"color", "colour"} <= keys:
        raise ValueError(f"{path}: class {raw}: write `{{name: …, colour: [r, g, b]}}`, not {short(entry)}")
    colour = given.get("colour", given.get("color"))
    if not _is_colour(colour) and {"color", "colour"} & keys:
        raise ValueError(f"{path}: class {raw}: a color is three numbers from 0 to 255, not {short(colour)}")
    return name, None if colour is None else _colour(colour)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _is_colour(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(_is_id(v) for v in value)


def _colour(value: Any) -> Colour:
    red, green, blue = value
    return int(red), int(green), int(blue)
