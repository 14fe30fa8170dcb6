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
class Gallery:
    """Pictures in rows of `columns`, with a head over each column where there is one; 0 columns: as many as fit."""

    title: str
    pictures: Sequence[Picture]
    columns: int = 0
    heads: Sequence[str] = ()
    keys: Sequence[Key] = ()
    caption: str = ""


Block = Note | Figures | Table | Charts | Gallery


@dataclass(frozen=True)
class Section:
    """`name` is its anchor: letters and dashes."""

    name: str
    title: str
    blocks: Sequence[Block]
    lead: str = ""


@dataclass(frozen=True)
class Page:
    title: str
    subtitle: str
    sections: Sequence[Section]
    foot: Sequence[str] = field(default=())

    @property
    def missing(self) -> list[str]:
        """What the page says is not there."""
        return [b.text for s in self.sections for b in s.blocks if isinstance(b, Note) and b.kind == "missing"]
