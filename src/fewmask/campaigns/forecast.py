"""What a campaign's learning curve says about further labels: one verdict, in one wording for terminal and report.

Labels are counted in the budget's unit and mIoU as a fraction. An interval is (low, median, high) at 80 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from fewmask.acquisition.curve import fit, unexplained_change
from fewmask.campaigns.history import unit_of
from fewmask.config import CampaignSettings
from fewmask.runs import Forecast

HOPELESS = 1000  # times the labels there are: nobody will ever label so many, however slowly the curve rises
WORTH_LABELLING = 0.005  # mIoU: less than this is hidden by the scatter of two runs


class Scored(NamedTuple):
    """A round: its labels in all, and the mIoU on validation, which is the mean of so many runs."""

    labels: float
    score: float | None
    runs: int = 1


def forecast(rounds: Sequence[Scored], settings: CampaignSettings, pool: float | None = None) -> Forecast | None:
    """The forecast of a campaign's rounds in their order; None as long as fewer than three of them differ in labels.

    `pool`: the number of labels that there can be in all, where that is known.
    """
    known = [one for one in rounds if one.score is not None and one.labels > 0]
    costs, scores = [one.labels for one in known], [one.score for one in known if one.score is not None]
    runs = [float(one.runs) for one in known]
    curve = fit(costs, scores, runs) if known else None
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


def forecast_words(found: Forecast | None) -> str:
    """The verdict: label more, train longer, or stop."""
    if found is None:
        return "Three rounds with different labels say whether more labels help."
    if found.change is not None and found.change < 0:
        return (
            f"Train longer or repeat seeds before labelling: the last round lost {_points(-found.change)} points, "
            "and more labels do not explain a loss."
        )
    if found.change is not None:
        return (
            f"Repeat seeds before labelling: the last round gained {_points(found.change)} points, more than its "
            "labels explain."
        )
    if found.flat:
        return "Train longer or repeat seeds before labelling: no gain from labels shows in these rounds."
    return " ".join([*_target(found), *_next(found)])


def _target(found: Forecast) -> list[str]:
    if found.target is None or found.needed is None:
        least, middle, most = (f"{100 * miou:.0f}" for miou in found.limit)
        return [f"Ever more labels lead to about {middle} % (80 % interval: {least} to {most})."]
    target = f"{100 * found.target:g} %"
    if found.needed[1] == 0:
        return [f"Stop labelling: the curve has reached the target of {target}."]
    left = HOPELESS * found.labels if found.pool is None else max(found.pool - found.labels, 0.0)
    low, median, high = (None if number is None or number > left else number for number in found.needed)
    beyond = "out of reach" if found.pool is None else "more than the whole pool"
    if low is None:
        return [f"The target of {target} is {beyond} (90 % sure)."]
    if median is None:
        most = f"{_about(low)} more {found.unit} or fewer"
        return [f"The target of {target} is probably {beyond}: one likely curve in ten needs {most}."]
    upper = beyond if high is None else _about(high)
    return [f"About {_about(median)} more {found.unit} reach {target} (80 % interval: {_about(low)} to {upper})."]


def _next(found: Forecast) -> list[str]:
    if found.gain is None or found.budget is None or (found.needed is not None and found.needed[1] == 0):
        return []
    low, median, high = (_points(gain) for gain in found.gain)
    told = f"the next {found.budget:,.0f} {found.unit} add about {median} points (80 % interval: {low} to {high})."
    if found.gain[2] < WORTH_LABELLING:
        return [f"Stop labelling or train longer: {told}"]
    return [f"Label more: {told}"]


def _points(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _about(number: float) -> str:
    """Two digits are more than the curve knows."""
    return f"{round(number, min(2 - len(f'{number:.0f}'), 0)):,.0f}"
