"""The content of a page, as plain data: `document.html` makes the file of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

SERIES = 8
"""Colours of series that the page's style sheet has; each comes with a dash and a marker of its own."""


@dataclass(frozen=True)
class Note:
    """A sentence. `kind` "missing" says what is not shown and why, "verdict" what to take away."""

    text: str
    kind: str = "plain"


@dataclass(frozen=True)
class Figure:
    """A headline figure: `value` large, `label` above it, `detail` below."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Figures:
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Table:
    """Cells are text. Columns from `text_columns` on hold numbers and are set to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    text_columns: int = 1


@dataclass(frozen=True)
class Key:
    """An entry of a legend: a series of the style sheet, or a colour of its own."""

    name: str
    series: int | None = None
    colour: str | None = None
    """Of CSS."""
    shape: str | None = None
    """The marker of `document.maps`, where that is what tells; or "tick", a rule across bars, or "hatch"."""


@dataclass(frozen=True)
class Chart:
    """An inline SVG with what stands beside it. `description` is read to people who do not see it."""

    title: str
    svg: Markup
    description: str
    keys: Sequence[Key] = ()
    caption: str = ""
    table: Table | None = None
    wide: bool = False


@dataclass(frozen=True)
class Charts:
    """Charts side by side, as many as fit."""

    charts: Sequence[Chart]


@dataclass(frozen=True)
class Picture:
    """`data` is a whole data: URI; `alt` is read to people who do not see it; `caption` stands below."""

    data: str
    alt: str
    caption: str = ""
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Row:
    """Pictures of one image or region side by side. `classes` are the names that it can be filtered by, `error` is what
    it can be sorted by; `name` stands above the pictures."""

    name: str
    pictures: Sequence[Picture]
    classes: Sequence[str] = ()
    error: float = 0.0


@dataclass(frozen=True)
class Gallery:
    """Rows of pictures; a row's pictures have these heads. Where rows have classes, a reader chooses one of them, and
    whether the rows stand by their error or by their names."""

    title: str
    rows: Sequence[Row]
    heads: Sequence[str] = ()
    keys: Sequence[Key] = ()
    caption: str = ""
    narrow: bool = False
    """Two rows beside each other, where there is room."""

    @property
    def classes(self) -> list[str]:
        """What can be chosen, in the order of its first row."""
        return list(dict.fromkeys(name for row in self.rows for name in row.classes))

    def places(self, row: Row) -> dict[str, int]:
        """Where a row stands in each order."""
        by_error = sorted(self.rows, key=lambda r: -r.error)
        by_name = sorted(self.rows, key=lambda r: r.name)
        return {"worst": by_error.index(row), "best": len(self.rows) - 1 - by_error.index(row),
                "name": by_name.index(row)}  # fmt: skip


Block = Note | Figures | Table | Charts | Gallery


@dataclass(frozen=True)
class Section:
    """`name` is its anchor: letters and dashes."""

    name: str
    title: str
    blocks: Sequence[Block]
    lead: str = ""

    @property
    def missing(self) -> list[Note]:
        """What it says is not there."""
        return [block for block in self.blocks if isinstance(block, Note) and block.kind == "missing"]

    @property
    def empty(self) -> bool:
        """Whether it shows nothing."""
        return len(self.missing) == len(self.blocks)


@dataclass(frozen=True)
class Page:
    title: str
    subtitle: str
    sections: Sequence[Section]
    foot: Sequence[str] = field(default=())

    @property
    def choices(self) -> int:
        """Of how many classes a gallery of the page lets a reader choose, at most."""
        return max((len(b.classes) for s in self.sections for b in s.blocks if isinstance(b, Gallery)), default=0)

    @property
    def missing(self) -> list[str]:
        """What the page says is not there."""
        return [note.text for section in self.sections for note in section.missing]
