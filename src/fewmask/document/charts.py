"""Charts over axes: lines with bands, bars with changes, and the reliability diagram. All are pure functions to SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fewmask.document.model import SERIES, Chart, Key, Table
from fewmask.document.svg import (
    Format,
    Frame,
    Scale,
    drawing,
    path,
    percent,
    plain_number,
    shortened,
    span,
    tag,
    text,
    widest,
)

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A line through `points`, with a band (x, low, high) behind it and, with `dots`, a marker at each point.

    `group` is its index among the style sheet's series. Several series may share a group, as the seeds of a method do.
    """

    name: str
    points: Sequence[Point]
    group: int = 0
    band: Sequence[tuple[float, float, float]] = ()
    dots: bool = False
    line: bool = True
    faint: bool = False
    forecast: bool = False
    legend: str = ""
    """Its name in the legend, where several series share one."""


def lines(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    description: str,
    y_format: Format = percent,
    marks: Sequence[Point | tuple[float, str]] = (),
    target: float | None = None,
    caption: str = "",
    table: Table | None = None,
    narrowest: float = 0.02,
    zero: bool = False,
    wide: bool = False,
) -> Chart:
    """Lines over a common x. `marks` are vertical rules with a word; `target` is a horizontal rule."""
    xs = [float(x) for x, _ in (*(p for s in series for p in s.points), *marks)] + [
        x for s in series for x, *_ in s.band
    ]
    ys = [y for s in series for _, y in s.points] + [v for s in series for _, *pair in s.band for v in pair]
    ys += [target] if target is not None else []
    x_span = (min(xs), max(xs)) if min(xs) < max(xs) else (min(xs) - 1, max(xs) + 1)
    room = 0.03 * (x_span[1] - x_span[0])
    # The first and the last marker need room.
    frame = Frame.around((x_span[0] - room, x_span[1] + room), span(ys, narrowest, zero), *((860, 320) if wide else ()))
    drawn: list[object] = [*frame.axes(x_label, y_label, y_format=y_format)]
    for x, word in marks:
        at = frame.x(float(x))
        drawn.append(tag("line", class_="mark", x1=at, x2=at, y1=frame.y.start, y2=frame.y.end))
        drawn.append(text(str(word), at + 4, frame.y.end + 9, "start", "small"))
    if target is not None:
        at = frame.y(target)
        drawn.append(tag("line", class_="target", x1=frame.x.start, x2=frame.x.end, y1=at, y2=at))
        drawn.append(text(f"target {percent(target)}", frame.x.start + 6, at - 5, "start", "small"))
    for line in series:
        drawn += _series(frame, line, y_format)
    named = [(s.legend or s.name, s.group) for s in series if s.name and not s.faint]
    keys_by_name = {name: Key(name, group) for name, group in named}
    keys = list(keys_by_name.values())
    return Chart(
        title,
        drawing(frame.width, frame.height, title, description, *drawn),
        description,
        keys if len(keys) > 1 else (),
        caption,
        table,
        wide,
    )


def _series(frame: Frame, series: Series, y_format: Format) -> list[Markup]:
    style = f"s{series.group % SERIES}"
    drawn = []
    if series.band:
        up = [(frame.x(x), frame.y(high)) for x, _, high in series.band]
        down = [(frame.x(x), frame.y(low)) for x, low, _ in reversed(series.band)]
        drawn.append(tag("path", d=path([*up, *down]) + "Z", class_=f"band {style}"))
    places = [(frame.x(x), frame.y(y)) for x, y in series.points]
    if series.line and len(places) > 1:
        classes = ["line", style, *(["faint"] if series.faint else []), *(["forecast"] if series.forecast else [])]
        drawn.append(tag("path", tag("title", series.name), d=path(places), class_=" ".join(classes)))
    if series.dots or len(places) == 1:
        for (x, y), (value, height) in zip(places, series.points, strict=True):
            tooltip = tag("title", f"{series.name}: {y_format(height)} at {plain_number(value)}")
            drawn.append(
                tag("path", tooltip, d=marker(series.group, x, y, 3 if series.faint else 4.5), class_=f"dot {style}")
            )
    return drawn


def marker(kind: int, x: float, y: float, r: float) -> str:
    """A closed path around (x, y): circle, triangle, square, diamond, inverted triangle, cross, pentagon, bar."""
    corners = {
        1: [(0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
        2: [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        3: [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
        4: [(0, 1.2), (1.1, -0.8), (-1.1, -0.8)],
        5: [(-.4, -1.2), (.4, -1.2), (.4, -.4), (1.2, -.4), (1.2, .4), (.4, .4), (.4, 1.2), (-.4, 1.2), (-.4, .4),
            (-1.2, .4), (-1.2, -.4), (-.4, -.4)],
        6: [(math.sin(2 * math.pi * i / 5) * 1.15, -math.cos(2 * math.pi * i / 5) * 1.15) for i in range(5)],
        7: [(-1.3, -.5), (1.3, -.5), (1.3, .5), (-1.3, .5)],
    }.get(kind % 8)  # fmt: skip
    if corners is None:
        return f"M{x - r:.1f},{y:.1f}a{r},{r} 0 1 0 {2 * r},0a{r},{r} 0 1 0 {-2 * r},0Z"
    return path((x + r * dx, y + r * dy) for dx, dy in corners) + "Z"


@dataclass(frozen=True)
class Bar:
    """A value and the value `before` it. None is a class that does not occur."""

    name: str
    value: float | None
    before: float | None = None
    colour: str | None = None


def bars(
    title: str,
    entries: Sequence[Bar],
    *,
    before: str = "",
    description: str,
    caption: str = "",
    table: Table | None = None,
) -> Chart:
    """Horizontal bars of fractions, with the change since `before` written beside each."""
    row, left = 24.0, 20 + widest([bar.name for bar in entries], 24)
    width, height = 560.0, row * len(entries) + 26
    changed = any(bar.before is not None for bar in entries)
    scale = Scale(0, 1, left, width - (110 if changed else 56))
    drawn: list[object] = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = scale(share)
        drawn.append(tag("line", class_="grid", x1=x, x2=x, y1=2, y2=row * len(entries)))
        drawn.append(text(percent(share), x, height - 8, "middle"))
    for i, bar in enumerate(entries):
        middle = row * i + row / 2
        drawn.append(tag("text", tag("title", bar.name), shortened(bar.name, 24), x=left - 8, y=middle + 4,
                         text_anchor="end", class_="name"))  # fmt: skip
        if bar.value is None:
            drawn.append(text("does not occur", left + 6, middle + 4, "start", "small"))
            continue
        end = scale(bar.value)
        drawn.append(
            tag("rect", tag("title", f"{bar.name}: {percent(bar.value)}"), x=left, y=middle - 7, height=14,
                width=max(end - left, 1.0), rx=2, class_="bar")
        )  # fmt: skip
        if bar.before is not None:
            x = scale(bar.before)
            drawn.append(tag("line", class_="before", x1=x, x2=x, y1=middle - 10, y2=middle + 10))
        drawn.append(text(f"{100 * bar.value:.1f}", width - (104 if changed else 48), middle + 4, "start", "value"))
        if bar.before is not None:
            change = 100 * (bar.value - bar.before)
            direction = "up" if change > 0.05 else "down" if change < -0.05 else "same"
            sign = {"up": "▲ +", "down": "▼ −", "same": "  ±"}[direction]
            drawn.append(text(f"{sign}{abs(change):.1f}", width - 62, middle + 4, "start", f"change {direction}"))
    keys = [Key("now", colour="var(--bar)"), Key(before, shape="tick")] if changed else []
    return Chart(title, drawing(width, height, title, description, *drawn), description, keys, caption, table)


def columns(
    title: str,
    names: Sequence[str],
    values: Mapping[str, Sequence[float]],
    y_label: str,
    *,
    description: str,
    table: Table | None = None,
    caption: str = "",
) -> Chart:
    """Stacked columns: a column for each name, with a part for each key of `values`."""
    heights = [sum(parts[i] for parts in values.values()) for i in range(len(names))]
    frame = Frame.around((0, len(names)), (0, max(max(heights), 1e-9) * 1.1))
    drawn: list[object] = [*frame.axes("", y_label, x_format=None)]
    wide = min((frame.x(1) - frame.x(0)) * 0.6, 60.0)
    for i, name in enumerate(names):
        middle, below = frame.x(i + 0.5), 0.0
        drawn.append(text(name, middle, frame.y.start + 17, "middle"))
        for group, (part, parts) in enumerate(values.items()):
            top = below + parts[i]
            drawn.append(
                tag("rect", tag("title", f"{name}, {part}: {plain_number(parts[i])}"), x=middle - wide / 2,
                    y=frame.y(top), width=wide, height=frame.y(below) - frame.y(top), class_=f"part s{group % SERIES}")
            )  # fmt: skip
            below = top
    keys = [Key(part, colour=f"var(--s{i % SERIES})") for i, part in enumerate(values)] if len(values) > 1 else []
    return Chart(
        title, drawing(frame.width, frame.height, title, description, *drawn), description, keys, caption, table
    )


def reliability(
    title: str, table: Sequence[tuple[float, float, float]], *, description: str, caption: str = ""
) -> Chart:
    """The reliability diagram of bins (pixels, correct pixels, summed confidence) of equal width over 0 … 1.

    Each bin is a bar as high as its accuracy. The gap to its mean confidence has another colour. A small bar below
    shows the bin's share of the pixels.
    """
    total = sum(pixels for pixels, _, _ in table)
    width, height, n = 460.0, 400.0, len(table)
    x, y = Scale(0, 1, 56, width - 24), Scale(0, 1, height - 110, 12)
    frame = Frame(width, height - 66, x, y)
    drawn: list[object] = [*frame.axes("confidence", "accuracy", percent, percent)]
    share = Scale(0, max((pixels for pixels, *_ in table), default=1) / max(total, 1), height - 10, height - 50)
    drawn.append(text("pixels", 50, height - 14, "end", "small"))
    rows = []
    for i, (pixels, correct, confidence) in enumerate(table):
        left, wide = x(i / n) + 1, x(1 / n) - x(0) - 2
        if not pixels:
            continue
        accuracy, mean, part = correct / pixels, confidence / pixels, pixels / total
        hint = f"confidence {percent(mean)}: {percent(accuracy)} right, {percent(part)} of the pixels"
        low, high = sorted((accuracy, mean))
        drawn.append(
            tag(
                "rect",
                tag("title", hint),
                x=left,
                y=y(accuracy),
                width=wide,
                height=y(0) - y(accuracy),
                class_="bar",
            )
        )
        drawn.append(
            tag("rect", tag("title", hint), x=left, y=y(high), width=wide, height=y(low) - y(high),
                class_="gap over" if mean > accuracy else "gap under")
        )  # fmt: skip
        top = share(part)
        drawn.append(
            tag(
                "rect",
                tag("title", hint),
                x=left,
                y=top,
                width=wide,
                height=max(share(0) - top, 0.5),
                class_="share",
            )
        )
        rows.append((f"{percent(i / n)} – {percent((i + 1) / n)}", percent(mean), percent(accuracy), percent(part)))
    drawn.append(tag("line", class_="ideal", x1=x(0), y1=y(0), x2=x(1), y2=y(1)))
    keys = [
        Key("accuracy", colour="var(--bar)"),
        Key("too sure", colour="var(--over)"),
        Key("not sure enough", colour="var(--under)"),
    ]
    behind = Table(("confidence", "mean", "accuracy", "share of pixels"), rows)
    return Chart(title, drawing(width, height, title, description, *drawn), description, keys, caption, behind)
