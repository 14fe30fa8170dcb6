"""Label spaces: the meaning of the pixel values in a domain's masks, and their relation to those of another domain.

Shapes: H×W pixels of a mask · C classes.

Inside fewmask every mask, in the files of a run or in a tensor, holds 0 … C−1 for the classes, `NOT_LABELLED` (254) for
pixels without a label and `VOID` (255) for pixels that were labelled as none of the classes. `LabelSpace.encode` is the
only place that converts a dataset's ids to these values. It raises an error for an id that the space does not have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from fewmask import strict_yaml
from fewmask.class_list import MAX_CLASSES, ClassList, Colour, read_class_list
from fewmask.files import write_text
from fewmask.paths import AnyPath

NOT_LABELLED = 254
VOID = 255

Mask = np.ndarray
UNKNOWN = -1


@dataclass(frozen=True)
class LabelSpace:
    """Ordered classes of one domain, with their colours and the raw ids that stand for them in the dataset's files.

    `raw_ids` maps a raw id to a class index; several raw ids may mean one class. `void_ids` are raw ids that mean "no
    class". Raw 254 means "not labelled yet" and 255 "void". Where the dataset claims one of them for something else,
    that meaning has the id `not_labelled_id` or `void_id`.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    raw_ids: Mapping[int, int]
    void_ids: frozenset[int] = frozenset()
    _table: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        problems = self._problems()
        if problems:
            raise ValueError("label space: " + "; ".join(problems))
        object.__setattr__(self, "raw_ids", MappingProxyType(dict(self.raw_ids)))
        object.__setattr__(self, "void_ids", frozenset(self.void_ids))
        object.__setattr__(self, "_table", self._lookup())

    def __reduce__(self) -> tuple[Any, ...]:
        return LabelSpace, (self.names, self.colours, dict(self.raw_ids), self.void_ids)

    def __hash__(self) -> int:
        return hash((self.names, self.colours, tuple(sorted(self.raw_ids.items())), self.void_ids))

    def _problems(self) -> list[str]:
        problems = []
        if not self.names:
            problems.append("it has no classes; name at least one")
        if len(self.names) > MAX_CLASSES:
            problems.append(f"{len(self.names)} classes; at most {MAX_CLASSES} fit beside the values 254 and 255")
        twice = sorted({n for n in self.names if self.names.count(n) > 1})
        if twice:
            problems.append(f"class names given twice: {', '.join(twice)}; every class needs its own name")
        if len(self.colours) != len(self.names):
            problems.append(f"{len(self.colours)} colours for {len(self.names)} classes; give one each")
        problems += [f"raw id {i} is outside 0..255; masks are 8-bit" for i in self.raw_ids if not 0 <= i <= 255]
        problems += [
            f"raw id {i} stands for class {c}, but classes are 0..{len(self.names) - 1}"
            for i, c in self.raw_ids.items()
            if not 0 <= c < len(self.names)
        ]
        ambiguous = sorted(set(self.raw_ids) & set(self.void_ids))
        if ambiguous:
            problems.append(f"raw ids {ambiguous} are both a class and void; keep one meaning")
        unused = [n for i, n in enumerate(self.names) if i not in set(self.raw_ids.values())]
        if unused:
            problems.append(f"no raw id stands for {', '.join(unused)}; give each class an id")
        if not problems and (self.not_labelled_id == UNKNOWN or self.void_id == UNKNOWN):
            problems.append("all 256 ids are claimed, and none is left for void or not labelled; free two of them")
        return problems

    @property
    def not_labelled_id(self) -> int:
        """The raw id of pixels without a label: 254, or the highest free id below it if the dataset uses 254."""
        return self._free(NOT_LABELLED, {*self.raw_ids, *self.void_ids})

    @property
    def void_id(self) -> int:
        """The raw id with which void is written: 255. If a class has the id 255, it is the smallest void id, or the
        highest free id if there is no void id."""
        if VOID in self.raw_ids and self.void_ids:
            return min(self.void_ids)
        return self._free(VOID, {*self.raw_ids, self.not_labelled_id})

    @staticmethod
    def _free(wanted: int, taken: Set[int]) -> int:
        if wanted not in taken:
            return wanted
        return next((i for i in range(NOT_LABELLED - 1, -1, -1) if i not in taken), UNKNOWN)

    def _lookup(self) -> np.ndarray:
        table = np.full(256, UNKNOWN, dtype=np.int16)
        table[self.not_labelled_id], table[self.void_id] = NOT_LABELLED, VOID
        for raw, index in self.raw_ids.items():
            table[raw] = index
        for raw in self.void_ids:
            if 0 <= raw <= 255:
                table[raw] = VOID
        return table

    @property
    def num_classes(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """The index of a class. Raises ValueError with the classes' names for an unknown one."""
        if name not in self.names:
            raise ValueError(f"no class {name!r}; the classes are {', '.join(self.names)}")
        return self.names.index(name)

    def unknown_ids(self, raw: Mask) -> dict[int, int]:
        """The raw ids of a mask that this space does not have, each with its number of pixels."""
        counts = np.bincount(raw.reshape(-1), minlength=256)
        return {int(i): int(counts[i]) for i in np.flatnonzero(counts) if i > 255 or self._table[i] == UNKNOWN}

    def encode(self, raw: Mask, source: str | Path = "mask") -> Mask:
        """Turn raw ids (H,W) uint8 into 0 … C−1, 254, 255 (H,W) uint8.

        Raises ValueError that names `source` and the ids, with their counts, that the space does not have.
        """
        if raw.dtype != np.uint8 or raw.ndim != 2:
            raise ValueError(f"{source}: a mask is 8-bit with one channel, this is {raw.dtype} of shape {raw.shape}")
        import cv2  # opening a ledger and its page must not import it

        encoded = cv2.LUT(raw, self._table)  # it takes a quarter of numpy's time
        if (encoded == UNKNOWN).any():
            ids = ", ".join(f"{i} ({n} pixels)" for i, n in self.unknown_ids(raw).items())
            raise ValueError(
                f"{source}: ids outside the label space: {ids}; add them to its classes or to its void ids"
            )
        return encoded.astype(np.uint8)

    def decode(self, mask: Mask) -> Mask:
        """The inverse of `encode`: each class becomes its smallest raw id.

        Raises ValueError for a value that is no class of the space.
        """
        table = np.full(256, UNKNOWN, dtype=np.int16)
        table[NOT_LABELLED], table[VOID] = self.not_labelled_id, self.void_id
        for value in range(self.num_classes):
            table[value] = np.flatnonzero(self._table == value)[0]
        decoded = table[mask]
        if (decoded == UNKNOWN).any():
            lost = sorted({int(v) for v in np.unique(mask[decoded == UNKNOWN])})
            raise ValueError(f"mask values {lost} have no raw id in this label space of {self.num_classes} classes")
        return decoded.astype(np.uint8)

    def palette(self) -> np.ndarray:
        """Colours by mask value, (256,3) uint8 RGB: not labelled is grey, void is black."""
        colours = np.zeros((256, 3), dtype=np.uint8)
        colours[: self.num_classes] = self.colours
        colours[NOT_LABELLED] = (90, 90, 90)
        return colours

    def colourise(self, mask: Mask) -> np.ndarray:
        """An encoded mask (H,W) as a picture (H,W,3) uint8 RGB."""
        return self.palette()[mask]

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` reads back to an equal space."""
        return {
            "names": list(self.names),
            "colours": [list(c) for c in self.colours],
            "raw_ids": {int(k): int(v) for k, v in sorted(self.raw_ids.items())},
            "void_ids": sorted(int(i) for i in self.void_ids),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LabelSpace:
        return cls(
            names=tuple(data["names"]),
            colours=tuple((int(r), int(g), int(b)) for r, g, b in data["colours"]),
            raw_ids={int(k): int(v) for k, v in data["raw_ids"].items()},
            void_ids=frozenset(int(i) for i in data["void_ids"]),
        )

    @classmethod
    def from_yaml(cls, path: AnyPath) -> LabelSpace:
        """Read a `classes.yaml`, see `class_list`; classes are ordered by id.

        Raises ValueError that names the file, the entry and the fix.
        """
        path = Path(path)
        listed = read_class_list(path)
        try:
            return cls.from_class_list(listed)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def from_class_list(cls, listed: ClassList) -> LabelSpace:
        """The space of a list of classes. A class without a colour gets one."""
        colours = tuple(distinct_colour(i) if c is None else c for i, c in enumerate(listed.colours))
        return cls(listed.names, colours, {raw: i for i, raw in enumerate(listed.ids)}, listed.void_ids)

    def write_yaml(self, path: AnyPath) -> None:
        """Write a `classes.yaml` that `from_yaml` reads. Only the smallest raw id of each class is kept."""
        smallest = {c: min(r for r, i in self.raw_ids.items() if i == c) for c in range(self.num_classes)}
        classes = {smallest[i]: {"name": n, "color": list(self.colours[i])} for i, n in enumerate(self.names)}
        ignore = self.void_ids if self.void_id == VOID else self.void_ids | {self.void_id}  # annotators need to know it
        write_text(Path(path), strict_yaml.dump({"ignore": sorted(ignore), "classes": classes}))


@dataclass(frozen=True)
class ClassMapping:
    """A checked many→one mapping of one label space onto another. "Missing in the target" is `None`, never background.

    `table` (C_source,) holds for each source class its class in the target, or −1 where the target has none.
    """

    source: LabelSpace
    target: LabelSpace
    table: tuple[int, ...]

    @classmethod
    def by_name(
        cls, source: LabelSpace, target: LabelSpace, names: Mapping[str, str | None] | None = None
    ) -> ClassMapping:
        """Map every source class to a target class, by `names` or else to the class of equal name.

        Raises ValueError that lists every class which neither has a class of equal name nor is in `names`, and every
        class in `names` that does not exist.
        """
        names = dict(names or {})
        problems = [f"no class {n!r} to map from" for n in names if n not in source.names]
        problems += [f"{n} → {t}: no class {t!r} to map to" for n, t in names.items() if t and t not in target.names]
        full = {n: names.get(n, n if n in target.names else UNKNOWN) for n in source.names}
        problems += [f"{n}: say which class it is, or `null` if there is none" for n, t in full.items() if t == UNKNOWN]
        if problems:
            raise ValueError("class mapping: " + "; ".join(problems) + f"; the target has {', '.join(target.names)}")
        table = tuple(UNKNOWN if t is None else target.index(str(t)) for t in full.values())
        return cls(source, target, table)

    @property
    def reachable(self) -> frozenset[int]:
        """The target classes to which a source class is mapped."""
        return frozenset(i for i in self.table if i != UNKNOWN)

    def translate(self, mask: Mask) -> Mask:
        """A mask (H,W) of the source's classes in the target's classes. A class without a counterpart becomes void."""
        table = np.full(256, VOID, dtype=np.uint8)
        table[NOT_LABELLED] = NOT_LABELLED
        table[: len(self.table)] = [VOID if t == UNKNOWN else t for t in self.table]
        return table[mask]


@dataclass(frozen=True)
class LabelUnion:
    """The classes of several label spaces in one space of U classes. Classes that mean the same are one class.

    `tables` holds, by domain, the union's class of each of the domain's classes. `aliases` holds, for each class of the
    union, all names with its meaning, including those that no domain uses.
    """

    space: LabelSpace
    tables: Mapping[str, tuple[int, ...]]
    aliases: tuple[frozenset[str], ...]

    @classmethod
    def build(cls, spaces: Mapping[str, LabelSpace], synonyms: Iterable[Iterable[str]] = ()) -> LabelUnion:
        """Build the union. Classes are the same if `shared_classes` says so. Each class has the name and the colour of
        the first domain that has it. A colour that is taken is replaced by a free one. Raises ValueError for more than
        254 classes."""
        groups = meanings(synonyms)
        index: dict[str, int] = {}
        names: list[str] = []
        colours: list[Colour] = []
        for space in spaces.values():
            for name, colour in zip(space.names, space.colours, strict=True):
                if (meaning := min(groups.get(name, {name}))) not in index:
                    index[meaning] = len(names)
                    names.append(name)
                    free = (c for c in map(distinct_colour, count(len(colours))) if c not in colours)
                    colours.append(colour if colour not in colours else next(free))
        tables = {d: tuple(index[min(groups.get(n, {n}))] for n in s.names) for d, s in spaces.items()}
        aliases = tuple(frozenset(groups.get(n, {n})) for n in names)
        return cls(LabelSpace(tuple(names), tuple(colours), {i: i for i in range(len(names))}), tables, aliases)

    def onto(self, target: LabelSpace, names: Mapping[str, str | None] | None = None) -> ClassMapping:
        """The mapping of the union's classes to the target's, by `names` (of any domain's classes) or by equal meaning.

        Raises ValueError that lists every class without a mapping or with two, and every name in `names` that does not
        exist.
        """
        names = dict(names or {})
        everything = frozenset().union(*self.aliases)
        problems = [f"no class {n!r} to map from" for n in names if n not in everything]
        problems += [f"{n} → {t}: no class {t!r} to map to" for n, t in names.items() if t and t not in target.names]
        table = []
        for name, aliases in zip(self.space.names, self.aliases, strict=True):
            targets = {names[n] for n in aliases if n in names} or {t for t in target.names if t in aliases}
            if not targets:
                problems.append(f"{name}: say which class it is, or `null` if there is none")
            if len(targets) > 1:
                meanings_text = " and ".join(sorted(map(str, targets)))
                problems.append(f"{name}: {meanings_text}; it is one class in all domains and has one meaning")
            table.append(UNKNOWN if (first := next(iter(targets), None)) is None else _position(target, first))
        if problems:
            raise ValueError("class mapping: " + "; ".join(problems) + f"; the target has {', '.join(target.names)}")
        return ClassMapping(self.space, target, tuple(table))


def shared_classes(
    spaces: Mapping[str, LabelSpace], synonyms: Iterable[Iterable[str]] = ()
) -> dict[str, frozenset[str]]:
    """By domain, the names of its classes that at least one other domain also has. The others are private to the
    domain.

    Classes are the same if their names are equal or in one group of `synonyms`.
    """
    groups = meanings(synonyms)
    by_domain = {d: {n: min(groups.get(n, {n})) for n in space.names} for d, space in spaces.items()}
    return {
        d: frozenset(
            n for n, m in classes.items() if any(m in other.values() for o, other in by_domain.items() if o != d)
        )
        for d, classes in by_domain.items()
    }


def meanings(synonyms: Iterable[Iterable[str]]) -> dict[str, frozenset[str]]:
    """For each name in the groups, all names that mean the same. Groups with a common name are merged."""
    groups: list[frozenset[str]] = []
    for group in map(frozenset, synonyms):
        groups = [g for g in groups if not g & group] + [group.union(*(g for g in groups if g & group))]
    return {name: group for group in groups for name in group}


def distinct_colour(index: int) -> Colour:
    """A stable colour for the class at `index`, far from the others (golden-angle steps around the hue circle)."""
    hue = (index * 0.618033988749895) % 1.0
    value, saturation = (0.95, 0.65) if index % 2 == 0 else (0.75, 0.85)
    sector, rest = int(hue * 6), hue * 6 % 1
    low, fall, rise = 1 - saturation, 1 - saturation * rest, 1 - saturation * (1 - rest)
    rgb = [(1, rise, low), (fall, 1, low), (low, 1, rise), (low, fall, 1), (rise, low, 1), (1, low, fall)][sector % 6]
    return (round(255 * value * rgb[0]), round(255 * value * rgb[1]), round(255 * value * rgb[2]))


def _position(space: LabelSpace, name: str) -> int:
    return space.names.index(name) if name in space.names else UNKNOWN
