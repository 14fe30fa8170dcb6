"""Numbers as sentences have them: `1 region`, `200 regions`, `41.5`, `2.5 h`."""

from __future__ import annotations


def agreeing(number: float, one: str, more: str) -> str:
    """The word that fits a number, such as a verb: `is` of 1, `are` of any other."""
    return one if number == 1 else more


def count(number: float, one: str, more: str | None = None) -> str:
    """A number with its noun; `more` is the plural where that is not the singular with an s."""
    told = f"{number:,.0f}" if number == round(number) else f"{number:,g}"
    return f"{told} {agreeing(number, one, more or one + 's')}"


def percent(value: float | None) -> str:
    """A fraction in percent, without the sign."""
    return "–" if value is None else f"{100 * value:.1f}"


def duration(seconds: float) -> str:
    """In seconds, minutes from two of them on, or hours."""
    if seconds >= 7200:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
