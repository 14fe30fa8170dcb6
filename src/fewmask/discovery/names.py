"""Class names from files beside the masks: lists, tables of colours, YAML."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fewmask import strict_yaml
from fewmask.class_list import Colour, read_class_list
from fewmask.data.layouts.listing import IMAGE_SUFFIXES
from fewmask.discovery.tree import Tree
from fewmask.formats.texts import MIB, read_bytes

FILES = re.compile(r"(class|label|name|codes|colou?r|categor|labelmap|legend)", re.IGNORECASE)
SUFFIXES = (".txt", ".csv", ".names", ".yaml", ".yml")


@dataclass(frozen=True)
class Names:
    """A file's names by id and by colour; either may be empty."""

    file: str
    by_id: dict[int, str]
    by_colour: dict[Colour, str]
    colours: dict[int, Colour]
    void: frozenset[int | Colour] = frozenset()
    """Ids and colours of no class."""


def find_names(tree: Tree) -> list[Names]:
    """The contents of the files of names. Files nearest to the folder's top come first."""
    tables = []
    for file in sorted(tree.ending_in(*SUFFIXES), key=lambda f: (len(f.parts), f.name)):
        named = FILES.search(file.stem) or file.suffix == ".names" or file.name in ("data.yaml", "dataset.yaml")
        if named and tree.path(file).stat().st_size < MIB and (names := _read_names(tree.path(file), file)):
            tables.append(names)
    return tables


def _read_names(path: Path, file: PurePosixPath) -> Names | None:
    try:
        return _of_yaml(path, file) if file.suffix in (".yaml", ".yml") else _of_lines(path, file)
    except ValueError:
        return None  # a file of another kind


def _of_yaml(path: Path, file: PurePosixPath) -> Names | None:
    try:
        listed = read_class_list(path)
        colours = {i: c for i, c in zip(listed.ids, listed.colours, strict=True) if c is not None}
        by_id = dict(zip(listed.ids, listed.names, strict=True))
        void = listed.void_ids | listed.void_colours
        return Names(str(file), by_id, {c: by_id[i] for i, c in colours.items()}, colours, frozenset(void))
    except ValueError:
        data: Any = strict_yaml.read_yaml(path)[0]
    names = data.get("names") if isinstance(data, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        return None
    return Names(str(file), {int(i): str(name) for i, name in names.items()}, {}, {})


def _of_lines(path: Path, file: PurePosixPath) -> Names | None:
    """Read lines with a name each, which may have an id before it, or a colour before or behind it."""
    text = read_bytes(path, MIB).decode("utf-8-sig")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    parsed = [_words(line) for line in lines]
    if parsed and not any(numbers for _, numbers in parsed[:1]) and len(parsed) > 1 and any(n for _, n in parsed[1:]):
        parsed = parsed[1:]  # the head of a table
    if any(name.lower().endswith(IMAGE_SUFFIXES) for name, _ in parsed):
        return None  # a list of images
    if not parsed or any(not name for name, _ in parsed) or len({len(n) for _, n in parsed}) != 1:
        return None
    count = len(parsed[0][1])
    if count == 0:
        return Names(str(file), {i: name for i, (name, _) in enumerate(parsed)}, {}, {})
    if count == 1:
        return Names(str(file), {numbers[0]: name for name, numbers in parsed}, {}, {})
    if count in (3, 4):
        ids = [n[0] for _, n in parsed] if count == 4 else list(range(len(parsed)))
        colours = {i: (n[-3], n[-2], n[-1]) for i, (_, n) in zip(ids, parsed, strict=True)}
        by_id = {i: name for i, (name, _) in zip(ids, parsed, strict=True)}
        # A colour that two classes share identifies neither of them.
        shared = {colour for colour, times in Counter(colours.values()).items() if times > 1}
        by_colour = {colour: by_id[i] for i, colour in colours.items() if colour not in shared}
        return Names(str(file), by_id, by_colour, colours) if len(by_id) == len(parsed) else None
    return None


def _words(line: str) -> tuple[str, list[int]]:
    """The name in a line, and the numbers before and behind it."""
    parts: Iterable[str] = re.split(r"[,;:\t]", line) if re.search(r"[,;:\t]", line) else _spaced(line)
    parts = [part.strip().strip("\"'") for part in parts if part.strip()]
    numbers = [int(part) for part in parts if part.isdigit()]
    names = [part for part in parts if not part.isdigit()]
    if any(number > 255 for number in numbers):
        return "", []
    return (names[0] if len(names) == 1 else ""), numbers


def _spaced(line: str) -> list[str]:
    """Split a line such as `128 64 128 road`, `7 traffic sign` or `traffic sign`."""
    match = re.fullmatch(r"((?:\d+\s+)*)(.*?)((?:\s+\d+)*)", line)
    assert match is not None
    return [*match[1].split(), match[2], *match[3].split()]
