"""The forecast: one verdict from the rounds of a campaign, and none that its data does not carry."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewmask.acquisition.curve import unexplained_change
from fewmask.campaigns.forecast import Scored, forecast, forecast_words
from fewmask.config import AskSettings, BudgetSettings, CampaignSettings
from fewmask.runs import Forecast

KNOWN = Forecast(
    a=0.7, b=1.0, c=0.5, labels=100_000, unit="pixels", pool=None, limit=(0.61, 0.713, 0.9), target=None, needed=None,
    budget=None, gain=None, change=None, flat=False,
)  # fmt: skip


def forecast_with(**changes: Any) -> Forecast:
    return KNOWN.model_copy(update=changes)


def rounds(costs: list[float], scores: list[float | None]) -> list[Scored]:
    return [Scored(cost, score) for cost, score in zip(costs, scores, strict=True)]


def settings(target: float | None = None, budget: float | None = None) -> CampaignSettings:
    ask = AskSettings(budget=BudgetSettings(amount=budget, unit="regions")) if budget else None
    return CampaignSettings(target=target, ask=ask)


@pytest.mark.parametrize(
    ("needed", "words"),
    [
        ((10_400, 123_456, 2_000_000), "About 120,000 more pixels reach 60 % (80 % interval: 10,000 to 2,000,000)."),
        ((3, 17.6, 234), "About 18 more pixels reach 60 % (80 % interval: 3 to 230)."),
        ((0, 17.6, None), "About 18 more pixels reach 60 % (80 % interval: 0 to out of reach)."),
        (
            (900, None, None),
            "The target of 60 % is probably out of reach: one likely curve in ten needs 900 more pixels or fewer.",
        ),
        (
            (900, 1e22, None),
            "The target of 60 % is probably out of reach: one likely curve in ten needs 900 more pixels or fewer.",
        ),
        ((None, None, None), "The target of 60 % is out of reach (90 % sure)."),
        ((0, 0, 44), "Stop labelling: the curve has reached the target of 60 %."),
    ],
)
def test_how_many_labels_a_target_needs(needed: tuple[float | None, ...], words: str) -> None:
    assert forecast_words(forecast_with(target=0.6, needed=needed)) == words


@pytest.mark.parametrize(
    ("needed", "words"),
    [
        (
            (9, 52_000, None),
            "The target of 60 % is probably more than the whole pool: one likely curve in ten needs 9 more regions or "
            "fewer.",
        ),
        ((1_400, None, None), "The target of 60 % is more than the whole pool (90 % sure)."),
        ((900, 1_200, 2_000), "About 1,200 more regions reach 60 % (80 % interval: 900 to more than the whole pool)."),
        ((900, 1_200, 1_300), "About 1,200 more regions reach 60 % (80 % interval: 900 to 1,300)."),
        ((0, 0, None), "Stop labelling: the curve has reached the target of 60 %."),
    ],
)
def test_nobody_labels_more_than_the_pool(needed: tuple[float | None, ...], words: str) -> None:
    assert forecast_words(forecast_with(target=0.6, needed=needed, labels=261, unit="regions", pool=1_600)) == words


def test_without_a_target_the_curve_says_where_it_ends() -> None:
    assert (
        forecast_words(forecast_with(unit="clicks")) == "Ever more labels lead to about 71 % (80 % interval: 61 to 90)."
    )
    assert "Three rounds" in forecast_words(None)


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (
            (0.003, 0.012, 0.02),
            "Label more: the next 30 regions add about 1.2 points (80 % interval: 0.3 to 2.0).",
        ),
        (
            (0.0, 0.001, 0.004),
            "Stop labelling or train longer: the next 30 regions add about 0.1 points (80 % interval: 0.0 to 0.4).",
        ),
    ],
)
def test_the_next_labels_are_worth_it_or_not(gain: tuple[float, float, float], words: str) -> None:
    assert forecast_words(forecast_with(budget=30, gain=gain, unit="regions")).endswith(words)


def test_a_round_that_lost_points_forecasts_nothing() -> None:
    """A campaign whose last round lost 3.6 points, and whose curve was flat and above its last point."""
    prediction = forecast(rounds([30, 60, 90], [0.31, 0.318, 0.282]), settings(0.4, 30))
    assert prediction is not None
    assert prediction.change == pytest.approx(-0.036)
    words = forecast_words(prediction)
    assert words.startswith("Train longer or repeat seeds before labelling: the last round lost 3.6 points")
    assert "30" not in words


def test_a_curve_that_does_not_rise_forecasts_nothing() -> None:
    prediction = forecast(rounds([30, 60, 90], [0.31, 0.3, 0.3]), settings(0.4, 30))
    assert prediction is not None and prediction.flat and prediction.change is None
    words = forecast_words(prediction)
    assert words == "Train longer or repeat seeds before labelling: no gain from labels shows in these rounds."


def test_a_round_that_gained_more_than_its_labels_explain_forecasts_nothing() -> None:
    prediction = forecast(rounds([100, 200, 300, 400, 500], [0.3, 0.34, 0.36, 0.372, 0.5]), settings(budget=100))
    assert prediction is not None
    assert "Repeat seeds before labelling: the last round gained 12.8 points" in forecast_words(prediction)


def test_scatter_and_labels_explain_small_changes() -> None:
    assert unexplained_change([1.0], [0.3]) is None
    assert unexplained_change([1.0, 2], [0.3, 0.28]) is None
    assert unexplained_change([1.0, 2], [0.3, 0.26]) == pytest.approx(-0.04)
    assert unexplained_change([1.0, 2], [0.3, 0.9]) is None  # two rounds do not say how fast labels help
    # The mean of nine runs scatters a third as much.
    assert unexplained_change([1.0, 2], [0.3, 0.28], [9, 9]) == pytest.approx(-0.02)


def test_it_needs_three_rounds_with_different_labels() -> None:
    rising = rounds([1000, 2000, 3000, 4000], [0.2, 0.35, 0.45, 0.5])
    assert forecast(rising[:2], settings(0.6)) is None
    assert forecast([], settings(0.6)) is None
    assert forecast([rising[0], rising[0], rising[0], rising[1]], settings(0.6)) is None
    assert forecast(rounds([1000, 2000, 3000], [None, None, None]), settings(0.6)) is None
    prediction = forecast(rising, settings(0.55))
    assert prediction is not None and prediction.needed is not None
    low, median, high = prediction.needed
    assert low is not None and median is not None
    assert 0 < low < median and (high is None or high > median)
    reached = forecast(rising, settings(0.3))
    assert reached is not None and reached.needed is not None and reached.needed[1] == 0
    beyond = forecast(rounds([1000, 2000, 3000, 4000], [0.4, 0.41, 0.41, 0.41]), settings(0.99))
    assert beyond is not None and beyond.needed is not None and beyond.needed[2] is None
    assert Forecast.model_validate(json.loads(json.dumps(beyond.to_dict(), allow_nan=False))) == beyond


def test_it_is_in_the_budgets_unit_beyond_what_there_is() -> None:
    scores: list[float | None] = [0.2, 0.35, 0.45, 0.5]
    one = forecast(rounds([1000, 2000, 3000, 4000], scores), settings(0.55))
    other = forecast(rounds([10, 20, 30, 40], scores), settings(0.55))
    assert one is not None and other is not None and one.needed is not None and other.needed is not None
    assert [n and n / 100 for n in one.needed] == pytest.approx(other.needed, rel=1e-6)


@given(
    st.lists(st.tuples(st.floats(1, 1e6), st.floats(0, 1)), min_size=0, max_size=7),
    st.none() | st.floats(0.01, 1),
    st.none() | st.floats(1, 1e5),
)
def test_any_campaign_has_a_verdict(
    drawn: list[tuple[float, float]], target: float | None, budget: float | None
) -> None:
    costs = sorted(cost for cost, _ in drawn)
    prediction = forecast(rounds(costs, [score for _, score in drawn]), settings(target, budget), pool=1e6)
    assert (prediction is None) == (len(set(costs)) < 3)
    words = forecast_words(prediction)
    assert words.endswith(".") and "nan" not in words and "inf" not in words.replace("info", "")
