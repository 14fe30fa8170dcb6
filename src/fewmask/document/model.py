"""The content of a page, as plain data. `document.html` renders it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

SERIES = 8
"""The number of series in the page's style sheet. Each has its own colour, dash and marker."""


@dataclass(frozen=True)
class Note:
    """A sentence. The `kind` "missing" says what is not shown and why; "verdict" gives the conclusion."""

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
    """A table of text. Columns from `text_columns` on hold numbers and are aligned to the right."""

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
    """A colour of CSS."""
    shape: str | None = None
    """A marker of `document.maps`, "tick" (a rule across bars) or "hatch"."""


@dataclass(frozen=True)
class Chart:
    """An inline SVG with its title, keys and caption. Screen readers read `description`."""

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
    """A picture. `data` is a whole data: URI; screen readers read `alt`; `caption` stands below the picture."""

    data: str
    alt: str
    caption: str = ""
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Row:
    """Pictures of one image or region side by side, below its `name`. Readers filter by `classes` and sort by
    `error`."""

    name: str
    pictures: Sequence[Picture]
    classes: Sequence[str] = ()
    error: float = 0.0


@dataclass(frozen=True)
class Gallery:
    """Rows of pictures, whose columns have the `heads`. Where rows have classes, a reader chooses one of the classes
    and an order by error or by name."""

    title: str
    rows: Sequence[Row]
    heads: Sequence[str] = ()
    keys: Sequence[Key] = ()
    caption: str = ""
    narrow: bool = False
    """Show two rows beside each other where there is room."""

    @property
    def classes(self) -> list[str]:
        """The classes that can be chosen, in the order of the rows that have them first."""
        return list(dict.fromkeys(name for row in self.rows for name in row.classes))

    def places(self, row: Row) -> dict[str, int]:
        """The position of a row in each order."""
        by_error = sorted(self.rows, key=lambda r: -r.error)
        by_name = sorted(self.rows, key=lambda r: r.name)
        return {"worst": by_error.index(row), "best": len(self.rows) - 1 - by_error.index(row),
                "name": by_name.index(row)}  # fmt: skip


Block = Note | Figures | Table | Charts | Gallery


@dataclass(frozen=True)
class Section:
    """A section of the page. `name` is its anchor and has letters and dashes alone."""

    name: str
    title: str
    blocks: Sequence[Block]
    lead: str = ""

    @property
    def missing(self) -> list[Note]:
        """The notes about what the section does not show."""
        return [block for block in self.blocks if isinstance(block, Note) and block.kind == "missing"]

    @property
    def empty(self) -> bool:
        """Whether the section shows nothing."""
        return len(self.missing) == len(self.blocks)


@dataclass(frozen=True)
class Page:
    title: str
    subtitle: str
    sections: Sequence[Section]
    foot: Sequence[str] = field(default=())

    @property
    def choices(self) -> int:
        """The largest number of classes that a gallery of the page lets a reader choose from."""
        return max((len(b.classes) for s in self.sections for b in s.blocks if isinstance(b, Gallery)), default=0)

    @property
    def missing(self) -> list[str]:
        """The notes about what the page does not show."""
        return [note.text for section in self.sections for note in section.missing]
