"""Charts without axes: heat maps of matrices, and scatters of embedded points."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from fewmask.document.charts import marker
from fewmask.document.model import Chart, Table
from fewmask.document.svg import Scale, drawing, shortened, tag, text, widest

NAME = 22  # letters of a class's name that a heat map shows
LARGE = 60  # a map of this many classes leaves out cells that round to 0, which most of its thousands of cells do
SHAPES = ("circle", "triangle", "square", "diamond", "inverted triangle", "cross", "pentagon", "bar")


def heat_map(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    x_label: str,
    y_label: str,
    *,
    description: str,
    format_value: Callable[[float], str],
    marked: tuple[Sequence[bool], Sequence[bool]] | None = None,
    caption: str = "",
    table: Table | None = None,
    diverging: bool = False,
) -> Chart:
    """Cells from 0 to 1 (−1 to 1 where `diverging`), darker the larger; None is a cell without a value.

    `format_value` writes a value into the cell's tooltip. `marked` rows and columns have a ring before their names.
    """
    cell = min(max(440.0 / max(len(rows), len(columns)), 13.0), 46.0)
    marks = marked or ([False] * len(rows), [False] * len(columns))
    left = 40 + widest(rows, NAME) + 12
    top = 30 + widest(columns, NAME) * 0.75 + 12
    width, height = left + cell * len(columns) + 0.5 * widest(columns[-1:], NAME) + 12, top + cell * len(rows) + 8
    drawn: list[object] = []
    for j, name in enumerate(columns):
        x = left + cell * (j + 0.5)
        label = ("○ " if marks[1][j] else "") + shortened(name, NAME)
        drawn.append(
            tag("text", tag("title", name), label, transform=f"translate({x + 3:.1f},{top - 6:.1f}) rotate(-50)",
                class_="name")
        )  # fmt: skip
    for i, name in enumerate(rows):
        y = top + cell * i
        label = ("○ " if marks[0][i] else "") + shortened(name, NAME)
        drawn.append(
            tag("text", tag("title", name), label, x=left - 7, y=y + cell / 2 + 4, text_anchor="end", class_="name")
        )
        for j, value in enumerate(values[i]):
            x = left + cell * j
            if value is None:
                drawn.append(tag("rect", x=x, y=y, width=cell - 1, height=cell - 1, class_="cell none"))
            elif abs(value) >= 0.005 or max(len(rows), len(columns)) < LARGE:
                cold = diverging and value < 0
                drawn.append(_cell(x, y, cell, value, f"{name} → {columns[j]}: {format_value(value)}", cold))
    drawn.append(text(x_label, left + cell * len(columns) / 2, 14, "middle", "label"))
    up = top + cell * len(rows) / 2
    drawn.append(
        tag("text", y_label, class_="label", text_anchor="middle", transform=f"translate(13,{up:.0f}) rotate(-90)")
    )
    return Chart(title, drawing(width, height, title, description, *drawn), description, (), caption, table)


def _cell(x: float, y: float, side: float, value: float, tooltip: str, cold: bool) -> Markup:
    """A cell that is darker the farther its value is from 0, with the value in it where there is room.

    The style sheet chooses the colour of the text by the colour of the cell and the theme.
    """
    strength = round(100 * min(abs(value), 1.0))
    drawn = [tag("title", tooltip), tag("rect", x=x, y=y, width=side - 1, height=side - 1)]
    if side >= 27 and strength >= 1:
        word = f"{100 * value:.0f}".replace("-", "−")
        drawn.append(text(word, x + side / 2 - 0.5, y + side / 2 + 4, "middle", "in"))
    return tag("g", *drawn, class_="cell cold" if cold else "cell", style=f"--v:{strength}%")


@dataclass(frozen=True)
class Cloud:
    """Points (N,2) of one class of one domain. `shape` is the domain's index in `SHAPES`."""

    name: str
    points: np.ndarray
    colour: str
    shape: int
    private: bool = False


def scatter(title: str, clouds: Sequence[Cloud], *, description: str, caption: str = "") -> Chart:
    """Points coloured by class and shaped by domain. Each cloud has its name at its median.

    There are no axes: distances between points have a meaning, directions have none.
    """
    width, edge = 520.0, 18.0
    all_points = np.concatenate([cloud.points for cloud in clouds])
    (left, below), (right, above) = all_points.min(0).tolist(), all_points.max(0).tolist()
    height = 0.8 * width
    # One scale for both axes.
    unit = max((right - left) / (width - 2 * edge), (above - below) / (height - 2 * edge), 1e-9)
    wide, high = unit * (width / 2 - edge), unit * (height / 2 - edge)
    x = Scale((left + right) / 2 - wide, (left + right) / 2 + wide, edge, width - edge)
    y = Scale((below + above) / 2 - high, (below + above) / 2 + high, height - edge, edge)
    drawn: list[object] = [tag("rect", x=0.5, y=0.5, width=width - 1, height=height - 1, rx=6, class_="field")]
    for cloud in clouds:
        d = "".join(marker(cloud.shape, x(float(p)), y(float(q)), 3) for p, q in cloud.points)
        drawn.append(tag("path", tag("title", cloud.name), d=d, class_="point", style=f"fill:{cloud.colour}"))
    occupied: list[tuple[float, float]] = []
    for cloud in clouds:
        place = np.median(cloud.points, 0)
        at = _free(x(float(place[0])), y(float(place[1])), occupied, width, height)
        occupied.append(at)
        label = ("○ " if cloud.private else "") + shortened(cloud.name.partition(": ")[2] or cloud.name, 18)
        drawn.append(text(label, *at, "middle", "cloud"))
    return Chart(title, drawing(width, height, title, description, *drawn), description, (), caption)


def _free(x: float, y: float, taken: Sequence[tuple[float, float]], width: float, height: float) -> tuple[float, float]:
    """The position nearest to (x, y), above or below it, at which a label covers no other label."""
    x = min(max(x, 40.0), width - 40.0)
    for step in range(24):
        shift = (step + 1) // 2 * 11 * (1 if step % 2 else -1)
        if 12 < y + shift < height - 6 and all(abs(x - a) > 52 or abs(y + shift - b) > 10 for a, b in taken):
            return x, y + shift
    return x, y


def shape_key(shape: int) -> str:
    """A single marker, as the path of a 12×12 drawing."""
    return marker(shape, 6, 6, 4)


def class_colour(index: int) -> str:
    """A colour that stands out from light and from dark paper: hues by the golden angle, in two strengths."""
    hue = (0.58 + index * 0.618033988749895) % 1.0
    light, saturation = (0.55, 0.72) if index % 2 == 0 else (0.47, 0.5)
    red, green, blue = colorsys.hls_to_rgb(hue, light, saturation)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
