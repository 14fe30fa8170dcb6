"""What a learning curve says of the labels that are still missing, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HOPELESS = 1000  # times the labels there are: nobody will ever label so many, however slowly the curve rises


def forecast_words(forecast: Mapping[str, Any] | None, there: float, unit: str, pool: float | None = None) -> str:
    """`forecast` is that of `campaign.history`; `there` are the labels in all and `pool` all that there can be, where
    that is known, in its unit."""
    if forecast is None:
        return "How many more labels are needed: three rounds with different labels say so."
    if forecast["target"] is None:
        least, middle, most = (f"{100 * miou:.0f}" for miou in forecast["limit"])
        told = f"about {middle} % (80 % sure: {least} … {most})"
        return f"With ever more labels: {told}. Set campaign.target to hear how many it takes."
    target = f"{100 * forecast['target']:g} %"
    if forecast["needed"][1] == 0:
        return f"{target}: reached, by the curve."
    left = HOPELESS * there if pool is None else max(pool - there, 0.0)
    low, median, high = (None if number is None or number > left else number for number in forecast["needed"])
    beyond = "out of reach" if pool is None else "more than the whole pool"
    if low is None:
        return f"{target}: {beyond}, by the curve (90 % sure)."
    if median is None:
        return f"{target}: probably {beyond}; one likely curve in ten needs {_about(low)} more {unit} or fewer."
    upper = beyond if high is None else _about(high)
    return f"About {_about(median)} more {unit} for {target} (80 % sure: {_about(low)} … {upper})."


def _about(number: float) -> str:
    """Two digits are more than the curve knows."""
    return f"{round(number, min(2 - len(f'{number:.0f}'), 0)):,.0f}"
