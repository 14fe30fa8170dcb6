"""Formatting of numbers on the page."""

from __future__ import annotations

from collections.abc import Iterable


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def between(ends: tuple[float, float] | None) -> str:
    """An interval of a score, in percent."""
    return "–" if ends is None else f"{100 * ends[0]:.1f} … {100 * ends[1]:.1f}"


def points(value: float) -> str:
    """A difference of fractions, in percentage points."""
    return f"{'+' if value >= 0 else '−'}{abs(100 * value):.1f}"


def cosine(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def whole(value: float) -> str:
    return f"{value:,.0f}"


def css(colour: Iterable[int]) -> str:
    """RGB in 0–255 in CSS notation."""
    return "#{:02x}{:02x}{:02x}".format(*map(int, colour))
