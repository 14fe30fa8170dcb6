"""What was found in a folder: where images and masks are, of what kind, and the classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fewmask.class_list import Colour
from fewmask.config.domains import MaskKind
from fewmask.data.masks import BACKGROUND
from fewmask.discovery.names import Names
from fewmask.discovery.pixels import PixelFacts
from fewmask.labels import NOT_LABELLED, VOID, distinct_colour
from fewmask.strict_yaml import dump_line

VOID_NAMES = {"void", "unlabelled", "unlabeled", "ignore", "ignored", "unknown", "dontcare", "don't care", "__ignore__"}
MOST_IDS = 64
"""Ids of all masks together: with more they are instances, or the masks are pictures."""


@dataclass(frozen=True)
class FoundClass:
    id: int
    name: str
    colour: Colour | None = None


@dataclass(frozen=True)
class Classes:
    """What `classes.yaml` is to say, and where it comes from."""

    entries: tuple[FoundClass, ...]
    ignore: tuple[int | str | Colour, ...] = ()
    absent: tuple[str, ...] = ()
    """Classes that have a name and that no mask shows."""
    named_by: str = ""
    """The file that says the names; empty where they were chosen."""

    def yaml(self) -> str:
        lines = [] if not self.ignore else [f"ignore: {dump_line([_plain(i) for i in self.ignore])}"]
        lines.append("classes:")
        for entry in self.entries:
            data: dict[str, Any] = {"name": entry.name}
            if entry.colour is not None:
                data["colour"] = list(entry.colour)
            lines.append(f"  {entry.id}: {dump_line(data)}")
        return "\n".join(lines) + "\n"


def _plain(value: int | str | Colour) -> Any:
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Found:
    """Images and their masks, in the words of the layout `folder`."""

    root: str
    """Below the folder that was given."""
    images: str
    labels: str
    masks: MaskKind
    classes: Classes
    kind: str
    """What the masks are, in words."""
    image_ending: str = ""
    label_ending: str = ""
    notes: tuple[str, ...] = field(default=())
    """What could not be told, or was decided."""

    def settings(self) -> dict[str, Any]:
        """The settings of the domain that differ from the layout's defaults."""
        given = {
            "images": (self.images, "images"),
            "labels": (self.labels, "labels"),
            "image_ending": (self.image_ending, ""),
            "label_ending": (self.label_ending, ""),
            "masks": (self.masks, "pixels"),
        }
        found: dict[str, Any] = {key: value for key, (value, usual) in given.items() if value != usual}
        return found | ({"absent": list(self.classes.absent)} if self.classes.absent else {})


def classes_of_pixels(facts: PixelFacts, names: Sequence[Names]) -> tuple[Classes, str, tuple[str, ...]]:
    """The classes of masks that are images, what the masks are in words, and notes. Raises ValueError where they are
    no classes."""
    if facts.problem:
        raise ValueError(facts.problem)
    if facts.kind == "colours":
        return _of_colours(facts, names)
    if len(facts.ids) > MOST_IDS:
        raise ValueError(
            f"the masks hold {len(facts.ids)} different ids, so that they are instances or pictures; a mask of classes "
            "has a few"
        )
    ids = sorted(set(facts.ids) - {NOT_LABELLED})
    if not ids:
        raise ValueError("no pixel of any mask is labelled; label some")
    known = next((n for n in names if n.by_id and set(ids) - {VOID} <= n.by_id.keys() | n.void), None)
    if known is not None:
        void = [i for i, name in known.by_id.items() if name.casefold() in VOID_NAMES]
        void += [i for i in known.void if isinstance(i, int)]
        rest = {i: name for i, name in known.by_id.items() if i not in void and 0 <= i <= VOID}
        entries = _unique((i, name, known.colours.get(i)) for i, name in sorted(rest.items()))
        absent = tuple(e.name for e in entries if e.id not in ids)
        ignore = tuple(sorted({*void, *({VOID} & set(ids) - rest.keys())}))
        return Classes(entries, ignore, absent, known.file), "ids of classes", ()
    if ids == [0, VOID]:
        entries = (FoundClass(0, BACKGROUND), FoundClass(VOID, "foreground"))
        return Classes(entries), "0 and 255", ()
    void = [VOID] if VOID in ids else []
    own = [i for i in ids if i not in void]
    called = {0: BACKGROUND, 1: "foreground"} if own == [0, 1] else {i: f"class {i}" for i in own}
    entries = tuple(FoundClass(i, called[i], facts.palette.get(i)) for i in own)
    kind = "indices of a palette" if facts.palette else "ids of classes"
    notes = (f"no file names the classes {', '.join(map(str, own[:20]))}: write their names into classes.yaml",)
    return Classes(entries, tuple(void)), kind, notes if own != [0, 1] else ()


def _of_colours(facts: PixelFacts, names: Sequence[Names]) -> tuple[Classes, str, tuple[str, ...]]:
    used = sorted(facts.colours)
    known = next((n for n in names if n.by_colour and set(used) <= n.by_colour.keys() | n.void), None)
    if known is not None:
        void = tuple(c for c, name in known.by_colour.items() if name.casefold() in VOID_NAMES)
        void += tuple(c for c in known.void if isinstance(c, tuple))
        rest = [(c, name) for c, name in known.by_colour.items() if c not in void]
        entries = _unique((i, name, colour) for i, (colour, name) in enumerate(rest))
        absent = tuple(e.name for e in entries if e.colour not in used)
        return Classes(entries, void, absent, known.file), "colours of classes", ()
    if used == [(0, 0, 0), (255, 255, 255)]:
        entries = (FoundClass(0, BACKGROUND, (0, 0, 0)), FoundClass(1, "foreground", (255, 255, 255)))
        return Classes(entries), "black and white", ()
    entries = tuple(FoundClass(i, _called(c), c) for i, c in enumerate(used))
    notes = (f"no file names the {len(used)} colours: write the classes' names into classes.yaml",)
    return Classes(entries), "colours of classes", notes


def _called(colour: Colour) -> str:
    return BACKGROUND if colour == (0, 0, 0) else f"colour {bytes(colour).hex()}"


def classes_of_names(names: Iterable[str], used: Iterable[str], named_by: str) -> Classes:
    """The classes of drawn masks: those that are named, and the background of what nobody drew."""
    shown = set(used)
    real = [n for n in dict.fromkeys(names) if n.casefold() not in {*VOID_NAMES, BACKGROUND, "_background_"}]
    ignore = tuple(n for n in dict.fromkeys(names) if n.casefold() in VOID_NAMES)
    entries = tuple(
        FoundClass(i, name, distinct_colour(i - 1) if i else (0, 0, 0)) for i, name in enumerate([BACKGROUND, *real])
    )
    return Classes(entries, ignore, tuple(n for n in real if n not in shown), named_by)


def classes_of_numbers(names: Mapping[int, str], used: Iterable[int], named_by: str) -> Classes:
    """The classes of polygons that say an id, and after them the background."""
    ids = {i: names.get(i, f"class {i}") for i in sorted({*names, *used})}
    entries = list(_unique((i, name, None) for i, name in ids.items()))
    absent = tuple(e.name for e in entries if e.id not in set(used))
    if BACKGROUND not in ids.values():
        entries.append(FoundClass(max(ids, default=-1) + 1, BACKGROUND, (0, 0, 0)))
    return Classes(tuple(entries), (), absent, named_by)


def _unique(entries: Iterable[tuple[int, str, Colour | None]]) -> tuple[FoundClass, ...]:
    """Classes whose names are their own: of one that is another's its id is a part."""
    seen: set[str] = set()
    found = []
    for number, name, colour in entries:
        told = re.sub(r"\s+", " ", name).strip() or f"class {number}"
        told = f"{told} {number}" if told in seen else told
        seen.add(told)
        found.append(FoundClass(number, told, colour))
    return tuple(found)
