"""Numbers with their nouns: `1 region`, `200 regions`."""

from __future__ import annotations


def agreeing(number: float, one: str, more: str) -> str:
    """The word that fits a number, such as a verb: `is` of 1, `are` of any other."""
    return one if number == 1 else more


def count(number: float, one: str, more: str | None = None) -> str:
    """A number with its noun; `more` is the plural where that is not the singular with an s."""
    told = f"{number:,.0f}" if number == round(number) else f"{number:,g}"
    return f"{told} {agreeing(number, one, more or one + 's')}"
