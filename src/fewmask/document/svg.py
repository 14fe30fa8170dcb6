"""The parts that SVG charts share: escaped elements, scales with round ticks, and a frame with axes.

A colour is always a class of the page's style sheet, so that a chart follows the page's light or dark theme.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Format = Callable[[float], str]


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """An element. Text in it is escaped; markup is not.

    The attributes `class_` and `text_anchor` are written `class` and `text-anchor`. An attribute of None is left out.
    """
    attribute_text = Markup("").join(
        Markup(' {}="{}"').format(Markup(key.rstrip("_").replace("_", "-")), number(value))
        for key, value in attributes.items()
        if value is not None
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), attribute_text, Markup("").join(map(escape, children)))


def number(value: object) -> str:
    """A float with one decimal, as fine as a screen's pixels; anything else as it is."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{number(float(x))},{number(float(y))}" for x, y in points)


def drawing(width: float, height: float, title: str, description: str, *children: object) -> Markup:
    """A whole SVG that scales with its container, with a title and a description for screen readers."""
    box = f"0 0 {number(width)} {number(height)}"
    return tag(
        "svg", tag("title", title), tag("desc", description), *children, viewBox=box, role="img", width=number(width)
    )


@dataclass(frozen=True)
class Scale:
    """Maps values from `low` to `high` to the screen from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between low and high: 1, 2, 2.5 or 5 times a power of ten apart."""
    assert low < high
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def span(values: Iterable[float], at_least: float, zero: bool = False) -> tuple[float, float]:
    """The interval that shows all values with a little room and has a width of `at_least` or more."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite), max(finite)
    if zero and low >= 0:
        return 0.0, max(1.05 * high, at_least)
    if zero:
        high = max(high, 0.0)
    room = max(at_least - (high - low), 0.0) / 2
    room += 0.05 * (high - low + 2 * room)
    return low - room, high + room


def plain_number(value: float) -> str:
    """A number in a few characters: 1,200 · 45k · 3.2M · 0.05."""
    size = abs(value)
    for least, unit, sign in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if size >= least:
            return f"{value / unit:.3g}{sign}"
    return f"{value:,.0f}" if size >= 100 or value == int(value) else f"{value:.3g}"


def percent(value: float) -> str:
    return f"{100 * value:g} %" if abs(100 * value - round(100 * value)) < 1e-6 else f"{100 * value:.1f} %"


@dataclass(frozen=True)
class Frame:
    """A plot area with axes."""

    width: float
    height: float
    x: Scale
    y: Scale

    @classmethod
    def around(
        cls, x: tuple[float, float], y: tuple[float, float], width: float = 560, height: float = 320, left: float = 70
    ) -> Frame:
        return cls(width, height, Scale(*x, left, width - 14), Scale(*y, height - 44, 12))

    def axes(
        self, x_label: str, y_label: str, x_format: Format | None = plain_number, y_format: Format = plain_number
    ) -> list[Markup]:
        """Grid, ticks and labels. The x axis has no ticks where `x_format` is None."""
        drawn = []
        for value in ticks(self.y.low, self.y.high):
            y = self.y(value)
            drawn.append(tag("line", class_="grid", x1=self.x.start, x2=self.x.end, y1=y, y2=y))
            drawn.append(text(y_format(value), self.x.start - 7, y + 4, "end"))
        if x_format is not None:
            for value in ticks(self.x.low, self.x.high, about=6):
                x = self.x(value)
                drawn.append(tag("line", class_="tick", x1=x, x2=x, y1=self.y.start, y2=self.y.start + 4))
                drawn.append(text(x_format(value), x, self.y.start + 17, "middle"))
        drawn.append(tag("line", class_="axis", x1=self.x.start, x2=self.x.end, y1=self.y.start, y2=self.y.start))
        middle = (self.x.start + self.x.end) / 2
        drawn.append(text(x_label, middle, self.height - 6, "middle", "label"))
        up = (self.y.start + self.y.end) / 2
        drawn.append(
            tag("text", y_label, class_="label", text_anchor="middle", transform=f"translate(13,{up:.0f}) rotate(-90)")
        )
        return drawn


def text(content: str, x: float, y: float, anchor: str = "start", class_: str | None = None) -> Markup:
    return tag("text", content, x=float(x), y=float(y), text_anchor=anchor, class_=class_)


def shortened(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def widest(names: Sequence[str], most: int) -> float:
    """The approximate width in pixels of the longest name, cut to `most` letters."""
    return 6.4 * max((min(len(w), most) for w in names), default=0)
