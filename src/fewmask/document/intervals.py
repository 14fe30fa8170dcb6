"""Differences with their intervals, one below the other, around a line at zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fewmask.document.charts import marker
from fewmask.document.model import Chart, Table
from fewmask.document.svg import Scale, drawing, shortened, span, tag, text, ticks, widest


@dataclass(frozen=True)
class Difference:
    """`sure` differences are beyond noise; `head` rows stand out."""

    name: str
    value: float
    ends: tuple[float, float] | None
    sure: bool = False
    head: bool = False


def intervals(
    title: str,
    given: Sequence[Difference],
    x_label: str,
    *,
    description: str,
    caption: str = "",
    table: Table | None = None,
) -> Chart:
    """Values and ends are fractions and are written as points."""
    row, left = 22.0, 24 + 1.12 * widest([d.name for d in given], 34)
    width, height = 600.0, row * len(given) + 44
    low, high = span([v for d in given for v in (d.value, *(d.ends or ()))], 0.02, zero=True)
    x, bottom = Scale(low, high, left, width - 64), row * len(given)
    drawn: list[object] = []
    for value in ticks(low, high):
        at = x(value)
        drawn.append(tag("line", class_="axis" if abs(value) < 1e-12 else "grid", x1=at, x2=at, y1=2, y2=bottom))
        drawn.append(text(signed(value), at, bottom + 17, "middle"))
    for i, d in enumerate(given):
        y, style = row * i + row / 2, f"s{(2 if d.value > 0 else 1) if d.sure else 6}"
        name = tag("tspan", shortened(d.name, 34), font_weight="600" if d.head else None)
        drawn.append(tag("text", tag("title", d.name), name, x=left - 8, y=y + 4, text_anchor="end", class_="name"))
        told = f"{d.name}: {signed(d.value)}" + (f", 95 %: {signed(d.ends[0])} … {signed(d.ends[1])}" if d.ends else "")
        if d.ends is not None:
            line = f"M{x(d.ends[0]):.1f},{y:.1f}H{x(d.ends[1]):.1f}"
            drawn.append(tag("path", tag("title", told), d=line, class_=f"line {style}"))
        shape = marker(2 if d.sure else 0, x(d.value), y, 4.5)
        drawn.append(tag("path", tag("title", told), d=shape, class_=f"dot {style}"))
        drawn.append(text(signed(d.value), width - 8, y + 4, "end", "value"))
    drawn.append(text(x_label, (left + width - 64) / 2, height - 6, "middle", "label"))
    return Chart(title, drawing(width, height, title, description, *drawn), description, (), caption, table)


def signed(value: float) -> str:
    """In points: +1.2, −0.3, 0."""
    return "0" if abs(value) < 1e-12 else f"{100 * value:+.1f}".replace("-", "−")
