"""The description of a detected dataset: where images and masks are, the kind of the masks, and the classes."""

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
"""The largest number of ids in all masks together. With more, the ids are instances, or the masks are pictures."""


@dataclass(frozen=True)
class DetectedClass:
    id: int
    name: str
    colour: Colour | None = None


@dataclass(frozen=True)
class Classes:
    """The content of `classes.yaml`, and the file that it comes from."""

    entries: tuple[DetectedClass, ...]
    ignore: tuple[int | str | Colour, ...] = ()
    absent: tuple[str, ...] = ()
    """Named classes that no mask shows."""
    named_by: str = ""
    """The file that holds the names; empty where they were made up."""

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
class DetectedDataset:
    """Images and their masks, as settings of the layout `folder`."""

    root: str
    """The root, relative to the given folder."""
    images: str
    labels: str
    masks: MaskKind
    classes: Classes
    kind: str
    """The kind of the masks as a phrase for people."""
    image_ending: str = ""
    label_ending: str = ""
    notes: tuple[str, ...] = field(default=())
    """Notes for the user: what was assumed, or could not be determined."""

    def settings(self) -> dict[str, Any]:
        """The settings of the domain that differ from the layout's defaults."""
        given = {
            "images": (self.images, "images"),
            "labels": (self.labels, "labels"),
            "image_ending": (self.image_ending, ""),
            "label_ending": (self.label_ending, ""),
            "masks": (self.masks, "pixels"),
        }
        settings: dict[str, Any] = {key: value for key, (value, default) in given.items() if value != default}
        return settings | ({"absent": list(self.classes.absent)} if self.classes.absent else {})


def classes_of_pixels(facts: PixelFacts, names: Sequence[Names]) -> tuple[Classes, str, tuple[str, ...]]:
    """The classes of masks that are images, the kind of the masks as a phrase, and notes. Raises ValueError where the
    pixels do not hold classes."""
    if facts.problem:
        raise ValueError(facts.problem)
    if facts.kind == "colours":
        return _of_colours(facts, names)
    if len(facts.ids) > MOST_IDS:
        raise ValueError(
            f"the masks hold {len(facts.ids)} different ids, so they show instances or are pictures; give masks of "
            f"classes, with at most {MOST_IDS} ids"
        )
    ids = sorted(set(facts.ids) - {NOT_LABELLED})
    if not ids:
        raise ValueError("no pixel of any mask is labelled; label some")
    naming = next((n for n in names if n.by_id and set(ids) - {VOID} <= n.by_id.keys() | n.void), None)
    if naming is not None:
        void = [i for i, name in naming.by_id.items() if name.casefold() in VOID_NAMES]
        void += [i for i in naming.void if isinstance(i, int)]
        rest = {i: name for i, name in naming.by_id.items() if i not in void and 0 <= i <= VOID}
        entries = _unique((i, name, naming.colours.get(i)) for i, name in sorted(rest.items()))
        absent = tuple(e.name for e in entries if e.id not in ids)
        ignore = tuple(sorted({*void, *({VOID} & set(ids) - rest.keys())}))
        return Classes(entries, ignore, absent, naming.file), "ids of classes", ()
    if ids == [0, VOID]:
        entries = (DetectedClass(0, BACKGROUND), DetectedClass(VOID, "foreground"))
        return Classes(entries), "0 and 255", ()
    void = [VOID] if VOID in ids else []
    class_ids = [i for i in ids if i not in void]
    class_names = {0: BACKGROUND, 1: "foreground"} if class_ids == [0, 1] else {i: f"class {i}" for i in class_ids}
    entries = tuple(DetectedClass(i, class_names[i], facts.palette.get(i)) for i in class_ids)
    kind = "indices of a palette" if facts.palette else "ids of classes"
    notes = (f"no file names the classes {', '.join(map(str, class_ids[:20]))}: write their names into classes.yaml",)
    return Classes(entries, tuple(void)), kind, notes if class_ids != [0, 1] else ()


def _of_colours(facts: PixelFacts, names: Sequence[Names]) -> tuple[Classes, str, tuple[str, ...]]:
    used = sorted(facts.colours)
    naming = next((n for n in names if n.by_colour and set(used) <= n.by_colour.keys() | n.void), None)
    if naming is not None:
        void = tuple(c for c, name in naming.by_colour.items() if name.casefold() in VOID_NAMES)
        void += tuple(c for c in naming.void if isinstance(c, tuple))
        rest = [(c, name) for c, name in naming.by_colour.items() if c not in void]
        entries = _unique((i, name, colour) for i, (colour, name) in enumerate(rest))
        absent = tuple(e.name for e in entries if e.colour not in used)
        return Classes(entries, void, absent, naming.file), "colours of classes", ()
    if used == [(0, 0, 0), (255, 255, 255)]:
        entries = (DetectedClass(0, BACKGROUND, (0, 0, 0)), DetectedClass(1, "foreground", (255, 255, 255)))
        return Classes(entries), "black and white", ()
    entries = tuple(DetectedClass(i, _called(c), c) for i, c in enumerate(used))
    notes = (f"no file names the {len(used)} colours: write the classes' names into classes.yaml",)
    return Classes(entries), "colours of classes", notes


def _called(colour: Colour) -> str:
    return BACKGROUND if colour == (0, 0, 0) else f"colour {bytes(colour).hex()}"


def classes_of_names(names: Iterable[str], used: Iterable[str], named_by: str) -> Classes:
    """The classes of drawn masks: the named ones, and the background for pixels that are not drawn."""
    shown = set(used)
    real = [n for n in dict.fromkeys(names) if n.casefold() not in {*VOID_NAMES, BACKGROUND, "_background_"}]
    ignore = tuple(n for n in dict.fromkeys(names) if n.casefold() in VOID_NAMES)
    entries = tuple(
        DetectedClass(i, name, distinct_colour(i - 1) if i else (0, 0, 0)) for i, name in enumerate([BACKGROUND, *real])
    )
    return Classes(entries, ignore, tuple(n for n in real if n not in shown), named_by)


def classes_of_numbers(names: Mapping[int, str], used: Iterable[int], named_by: str) -> Classes:
    """The classes of polygons with ids, and the background after them."""
    ids = {i: names.get(i, f"class {i}") for i in sorted({*names, *used})}
    entries = list(_unique((i, name, None) for i, name in ids.items()))
    absent = tuple(e.name for e in entries if e.id not in set(used))
    if BACKGROUND not in ids.values():
        entries.append(DetectedClass(max(ids, default=-1) + 1, BACKGROUND, (0, 0, 0)))
    return Classes(tuple(entries), (), absent, named_by)


def _unique(entries: Iterable[tuple[int, str, Colour | None]]) -> tuple[DetectedClass, ...]:
    """The classes with unique names. A repeated name gets the id of its class as a suffix."""
    taken_names: set[str] = set()
    classes = []
    for number, name, colour in entries:
        unique_name = re.sub(r"\s+", " ", name).strip() or f"class {number}"
        unique_name = f"{unique_name} {number}" if unique_name in taken_names else unique_name
        taken_names.add(unique_name)
        classes.append(DetectedClass(number, unique_name, colour))
    return tuple(classes)
