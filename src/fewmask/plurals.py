"""Numbers for sentences: `1 region`, `200 regions`, `41.5`, `2.5 h`."""

from __future__ import annotations


def agreeing(number: float, singular: str, plural: str) -> str:
    """The word that agrees with a number, such as the verb `is` for 1 and `are` for any other."""
    return singular if number == 1 else plural


def count(number: float, singular: str, plural: str | None = None) -> str:
    """A number with its noun. `plural` is given where it is not the singular with an s."""
    figure = f"{number:,.0f}" if number == round(number) else f"{number:,g}"
    return f"{figure} {agreeing(number, singular, plural or singular + 's')}"


def percent(value: float | None) -> str:
    """A fraction in percent, without the sign."""
    return "–" if value is None else f"{100 * value:.1f}"


def duration(seconds: float) -> str:
    """A duration in seconds, in minutes from 120 seconds on, or in hours from 7,200 seconds on."""
    if seconds >= 7200:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
