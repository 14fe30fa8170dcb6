"""Draws differences with their intervals, one below the other, around a line at zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fewmask.document.charts import marker
from fewmask.document.model import Chart, Table
from fewmask.document.svg import Scale, drawing, shortened, span, tag, text, ticks, widest

ROW, FOOT = 22.0, 44.0  # pixels
POSSIBLE = 1.0  # the largest difference of two IoUs; an interval may be wider


@dataclass(frozen=True)
class Difference:
    """A difference. `sure` says that it is beyond noise; `head` rows stand out, on a scale of their own."""

    name: str
    value: float
    ends: tuple[float, float] | None
    sure: bool = False
    head: bool = False

    @property
    def drawn(self) -> tuple[float, float] | None:
        """The part of the interval that is possible."""
        if self.ends is None:
            return None
        low, high = (min(max(end, -POSSIBLE), POSSIBLE) for end in self.ends)
        return low, high

    @property
    def tooltip(self) -> str:
        ends = f", 95 %: {signed(self.ends[0])} … {signed(self.ends[1])}" if self.ends else ""
        return f"{self.name}: {signed(self.value)}{ends}"


def intervals(
    title: str,
    differences: Sequence[Difference],
    x_label: str,
    *,
    description: str,
    caption: str = "",
    table: Table | None = None,
) -> Chart:
    """Differences on one or two scales. Values and ends are fractions and are written as points.

    Head rows come first and have their own scale: they are means, whose intervals are much narrower than a class's.
    """
    width, left = 600.0, 24 + 1.12 * widest([d.name for d in differences], 34)
    drawn, top = list[Markup](), 0.0
    for part in ([d for d in differences if d.head], [d for d in differences if not d.head]):
        if part:
            drawn += _rows(part, x_label, left, width, top)
            top += ROW * len(part) + FOOT
    return Chart(title, drawing(width, top, title, description, *drawn), description, (), caption, table)


def _rows(differences: Sequence[Difference], x_label: str, left: float, width: float, top: float) -> list[Markup]:
    """Differences on one scale, from `top` down, with the scale below them."""
    low, high = span([v for d in differences for v in (d.value, *(d.drawn or ()))], 0.02, zero=True)
    x, bottom = Scale(low, high, left, width - 64), top + ROW * len(differences)
    drawn = []
    for value in ticks(low, high):
        at = x(value)
        drawn.append(tag("line", class_="axis" if abs(value) < 1e-12 else "grid", x1=at, x2=at, y1=top + 2, y2=bottom))
        drawn.append(text(signed(value), at, bottom + 17, "middle"))
    for i, d in enumerate(differences):
        y, style = top + ROW * (i + 0.5), f"s{(2 if d.value > 0 else 1) if d.sure else 6}"
        name = tag("tspan", shortened(d.name, 34), font_weight="600" if d.head else None)
        drawn.append(tag("text", tag("title", d.name), name, x=left - 8, y=y + 4, text_anchor="end", class_="name"))
        if d.drawn is not None:
            line = f"M{x(d.drawn[0]):.1f},{y:.1f}H{x(d.drawn[1]):.1f}"
            drawn.append(tag("path", tag("title", d.tooltip), d=line, class_=f"line {style}"))
        shape = marker(2 if d.sure else 0, x(d.value), y, 4.5)
        drawn.append(tag("path", tag("title", d.tooltip), d=shape, class_=f"dot {style}"))
        drawn.append(text(signed(d.value), width - 8, y + 4, "end", "value"))
    drawn.append(text(x_label, (left + width - 64) / 2, bottom + FOOT - 6, "middle", "label"))
    return drawn


def signed(value: float) -> str:
    """A fraction in points: +1.2, −0.3, 0."""
    return "0" if abs(value) < 1e-12 else f"{100 * value:+.1f}".replace("-", "−")
