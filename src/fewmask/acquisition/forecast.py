"""What a learning curve says of the labels that are still missing, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def forecast_words(forecast: Mapping[str, Any] | None, there: float, unit: str) -> str:
    """`forecast` is that of `campaign.history`; `there` are the labels in all, in its unit."""
    if forecast is None:
        return "How many more labels are needed: three rounds with different labels say so."
    if forecast["target"] is None:
        most = f"{100 * forecast['a']:.1f}"
        return f"With ever more labels: {most} %. Set campaign.target to hear how many it takes."
    target = f"{100 * forecast['target']:g} %"
    low, median, high = (_reachable(number, there) for number in forecast["needed"])
    if median == 0:
        return f"{target}: reached, by the curve."
    if median is None:
        chance = "" if low is None else f", at best {_about(low)} more {unit}"
        return f"{target}: out of reach, by the curve (80 % sure{chance})."
    upper = "out of reach" if high is None else _about(high)
    return f"About {_about(median)} more {unit} for {target} (80 % sure: {_about(low or 0)} … {upper})."


def _reachable(number: float | None, there: float) -> float | None:
    """None as well where the curve rises so slowly that nobody will ever label so many."""
    return None if number is None or number > 1000 * there else number


def _about(number: float) -> str:
    """Two digits are more than the curve knows."""
    return f"{round(number, min(2 - len(f'{number:.0f}'), 0)):,.0f}"
