"""Forecasts from a campaign's learning curve whether more labels help, in the same words for terminal and report.

Labels are counted in the budget's unit, mIoU is a fraction. An interval is (low, median, high) at 80 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from fewmask.acquisition.curve import fit_curve, unexplained_change
from fewmask.campaigns.history import unit_of
from fewmask.config import CampaignSettings
from fewmask.runs import Forecast

HOPELESS = 1000  # times the present labels: nobody will ever label so many
WORTH_LABELLING = 0.005  # mIoU: the scatter of two runs hides a smaller gain


class Scored(NamedTuple):
    """A round: all its labels, and its mIoU on validation as the mean of `runs` runs."""

    labels: float
    score: float | None
    runs: int = 1


def forecast(rounds: Sequence[Scored], settings: CampaignSettings, pool: float | None = None) -> Forecast | None:
    """The forecast from a campaign's rounds in their order; None while fewer than three of them differ in labels.

    `pool` is the largest possible number of labels, where that is known.
    """
    scored_rounds = [r for r in rounds if r.score is not None and r.labels > 0]
    costs, scores = [r.labels for r in scored_rounds], [r.score for r in scored_rounds if r.score is not None]
    runs = [float(r.runs) for r in scored_rounds]
    curve = fit_curve(costs, scores, runs) if scored_rounds else None
    if curve is None:
        return None
    labels, target, ask = costs[-1], settings.target, settings.ask
    needed = None
    if target is not None:
        low, median, high = (max(n - labels, 0.0) if math.isfinite(n) else None for n in curve.needed(target))
        needed = (low, median, high)
    budget = ask.budget.amount if ask is not None and ask.budget.per == "pool" else None
    return Forecast(
        a=curve.a,
        b=curve.b,
        c=curve.c,
        labels=labels,
        unit=unit_of(settings),
        pool=pool,
        limit=curve.limit(),
        target=target,
        needed=needed,
        budget=budget,
        gain=None if budget is None else curve.gain_interval(labels, budget),
        change=unexplained_change(costs, scores, runs),
        flat=curve.flat,
    )


def forecast_words(result: Forecast | None) -> str:
    """The verdict: label more, train longer, or stop."""
    if result is None:
        return "Three rounds with different labels say whether more labels help."
    if result.change is not None and result.change < 0:
        return (
            f"Train longer or repeat seeds before labelling: the last round lost {_points(-result.change)} points, "
            "and more labels do not explain a loss."
        )
    if result.change is not None:
        return (
            f"Repeat seeds before labelling: the last round gained {_points(result.change)} points, more than its "
            "labels explain."
        )
    if result.flat:
        return "Train longer or repeat seeds before labelling: no gain from labels shows in these rounds."
    return " ".join([*_target(result), *_next(result)])


def _target(result: Forecast) -> list[str]:
    if result.target is None or result.needed is None:
        least, middle, most = (f"{100 * miou:.0f}" for miou in result.limit)
        return [f"Ever more labels lead to about {middle} % (80 % interval: {least} to {most})."]
    target = f"{100 * result.target:g} %"
    if result.needed[1] == 0:
        return [f"Stop labelling: the curve has reached the target of {target}."]
    remaining = HOPELESS * result.labels if result.pool is None else max(result.pool - result.labels, 0.0)
    low, median, high = (None if number is None or number > remaining else number for number in result.needed)
    beyond = "out of reach" if result.pool is None else "more than the whole pool"
    if low is None:
        return [f"The target of {target} is {beyond} (90 % sure)."]
    if median is None:
        most = f"{_about(low)} more {result.unit} or fewer"
        return [f"The target of {target} is probably {beyond}: one likely curve in ten needs {most}."]
    upper = beyond if high is None else _about(high)
    return [f"About {_about(median)} more {result.unit} reach {target} (80 % interval: {_about(low)} to {upper})."]


def _next(result: Forecast) -> list[str]:
    if result.gain is None or result.budget is None or (result.needed is not None and result.needed[1] == 0):
        return []
    low, median, high = (_points(gain) for gain in result.gain)
    gain = f"the next {result.budget:,.0f} {result.unit} add about {median} points (80 % interval: {low} to {high})."
    if result.gain[2] < WORTH_LABELLING:
        return [f"Stop labelling or train longer: {gain}"]
    return [f"Label more: {gain}"]


def _points(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _about(number: float) -> str:
    """Two digits: the curve supports no more."""
    return f"{round(number, min(2 - len(f'{number:.0f}'), 0)):,.0f}"
