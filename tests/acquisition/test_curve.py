"""The learning curve: it finds what made the points, says how sure it is, and says when it does not know."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fewmask.acquisition.curve import Curve, fit_curve

CURVES = st.tuples(st.floats(0.3, 1.0), st.floats(0.05, 0.9), st.floats(0.1, 1.9), st.floats(1e-3, 1e7))


def heights(a: float, share: float, c: float, n: np.ndarray) -> np.ndarray:
    """A curve that reaches `share` of its limit a at its first point."""
    points: np.ndarray = a - a * (1 - share) * (n / n[0]) ** -c
    return points


def fitted(costs: list[float], scores: list[float], noise: float = 0.01) -> Curve:
    curve = fit_curve(costs, scores, noise=noise)
    assert curve is not None
    return curve


@given(CURVES, st.integers(3, 8))
def test_the_parameters_of_a_noiseless_curve_are_found(made: tuple[float, float, float, float], points: int) -> None:
    a, share, c, unit = made
    n = unit * np.geomspace(1, 20, points)
    curve = fitted(n.tolist(), heights(a, share, c, n).tolist())
    assert curve.a == pytest.approx(a, abs=1e-4)
    assert curve.c == pytest.approx(c, rel=1e-3)
    assert curve.b == pytest.approx(a * (1 - share) * unit**c, rel=1e-2)
    assert curve(2 * n[-1]) == pytest.approx(heights(a, share, c, np.append(n, 2 * n[-1]))[-1], abs=1e-5)


@given(st.lists(st.tuples(st.floats(0.1, 1e6), st.floats(0, 1)), min_size=3, max_size=8))
def test_any_points_give_a_curve_within_its_bounds(points: list[tuple[float, float]]) -> None:
    """Also those that fall, that are all equal, that lie at 0 and 1, or whose costs hardly differ."""
    costs, scores = [n for n, _ in points], [y for _, y in points]
    curve = fit_curve(costs, scores)
    assume(curve is not None)
    assert curve is not None
    assert 0 <= curve.a <= 1
    assert curve.b >= 0
    assert 0.05 <= curve.c <= 2
    more = max(costs) * 2
    low, median, high = curve.interval(more)
    assert low <= median <= high <= 1
    assert median <= curve.limit()[1] <= curve.limit()[2] <= 1
    assert curve.gain(max(costs), more) >= 0
    low, median, high = curve.needed(0.5)
    assert 0 <= low <= median <= high
    assert not math.isnan(high)


@pytest.mark.parametrize("more", [1e-9, 1e-6, 1e-3])
def test_labels_that_are_few_beside_those_there_were_leave_it_open_where_the_curve_ends(more: float) -> None:
    """Whole masks at the start count as all their pixels, 20 points in each image as next to nothing."""
    n = 6_393_600 * (1 + more * np.arange(4))
    curve = fitted(n.tolist(), [0.45, 0.47, 0.485, 0.49])
    low, _, high = curve.limit()
    assert low < 0.55 and high > 0.9
    low, _, high = curve.interval(float(n[-1]))
    assert 0.45 < low < high < 0.53
    assert curve.needed(0.6)[2] == math.inf


def test_where_the_curve_ends_is_told_as_often_as_it_says() -> None:
    rng, held, runs = np.random.default_rng(1), 0, 100
    n = 0.05 * 1.6 ** np.arange(5)
    for _ in range(runs):
        a = rng.uniform(0.5, 0.9)
        truth = heights(a, rng.uniform(0.6, 0.95), math.exp(rng.uniform(-1.6, 0.4)), n)
        low, _, high = fitted(n.tolist(), np.clip(truth + rng.normal(0, 0.01, 5), 0, 1).tolist()).limit()
        held += low <= a <= high
    assert 0.72 <= held / runs <= 0.98


def test_the_least_squares_estimate_is_the_best_of_the_bounded_curves() -> None:
    """Beside brute force, on points whose best straight fit is out of bounds in either way."""
    for scores in ([0.6, 0.9, 0.97, 1.0], [0.5, 0.45, 0.46, 0.42], [0.2, 0.9, 0.4, 0.5], [0.1, 0.2, 0.4, 0.8]):
        n = np.array([1.0, 2, 4, 8])
        curve = fitted(n.tolist(), scores)
        residual = ((curve.a - curve.b * n**-curve.c - scores) ** 2).sum()
        a, b, c = np.meshgrid(np.linspace(0, 1, 101), np.linspace(0, 2, 101), np.linspace(0.05, 2, 40))
        every = ((a[..., None] - b[..., None] * n ** -c[..., None] - scores) ** 2).sum(-1)
        assert residual <= every.min() + 1e-9, scores


@pytest.mark.parametrize("sigma", [0.004, 0.01, 0.02])
@pytest.mark.parametrize("points", [3, 5])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(points: int, sigma: float) -> None:
    """80 % intervals of twice the last cost, and of the labels that the truth there needs, over simulated campaigns.

    Runs that scatter less than expected get intervals that are too wide; twice the expected scatter costs coverage.
    """
    rng = np.random.default_rng(0)
    covered, needs_covered, runs = 0, 0, 60
    n = 0.05 * 1.6 ** np.arange(points + 1)
    n[-1] = 2 * n[-2]
    for _ in range(runs):
        truth = heights(rng.uniform(0.5, 0.9), rng.uniform(0.6, 0.95), math.exp(rng.uniform(-1.6, 0.4)), n)
        curve = fitted(n[:-1].tolist(), np.clip(truth[:-1] + rng.normal(0, sigma, points), 0, 1).tolist())
        low, _, high = curve.interval(n[-1])
        covered += low <= truth[-1] <= high
        low, _, high = curve.needed(truth[-1])
        needs_covered += low <= n[-1] <= high
    assert covered / runs >= (0.6 if sigma > 0.01 else 0.72)
    assert covered / runs <= (1.0 if sigma < 0.01 else 0.97)  # an interval of 0 … 1 would hold everything
    assert needs_covered / runs >= (0.6 if sigma > 0.01 else 0.72)


def test_more_noise_and_fewer_runs_leave_it_less_sure() -> None:
    n = np.array([1.0, 2, 4, 8])
    y = heights(0.7, 0.6, 0.5, n).tolist()

    def width(curve: Curve | None) -> float:
        assert curve is not None
        low, _, high = curve.interval(32)
        return high - low

    once, thrice = width(fit_curve(n.tolist(), y)), width(fit_curve(n.tolist(), y, weights=[9] * 4))
    assert thrice < 0.6 * once
    assert width(fit_curve(n.tolist(), y, noise=0.03)) > 1.5 * once
    bent = [y[0], y[1] + 0.05, y[2] - 0.05, y[3]]
    assert width(fit_curve(n.tolist(), bent)) > 1.5 * once


def test_a_weight_counts_a_point_again() -> None:
    n, y = [1.0, 2, 4, 8], [0.4, 0.52, 0.55, 0.61]
    one, other = fit_curve(n, y, weights=[1, 3, 1, 2]), fit_curve([*n, 2, 2, 8], [*y, y[1], y[1], y[3]])
    assert one is not None
    assert other is not None
    assert (one.a, one.b, one.c) == pytest.approx((other.a, other.b, other.c), rel=1e-5)


def test_what_a_target_needs() -> None:
    n = np.array([10.0, 20, 40, 80, 160])
    curve = fitted(n.tolist(), heights(0.7, 0.5, 0.7, n).tolist(), noise=0.002)
    reached = heights(0.7, 0.5, 0.7, np.append(n, 320))[-1]
    low, median, high = curve.needed(reached)
    assert low < 320 < high < 500
    assert median == pytest.approx(320, rel=0.15)
    assert curve.needed(0.35)[1] == pytest.approx(10, rel=0.05)
    assert curve.needed(0.99) == (math.inf, math.inf, math.inf)
    targets = [curve.needed(t)[1] for t in (0.4, 0.5, 0.6, 0.65)]
    assert targets == sorted(targets)
    wide, narrow = curve.needed(reached, level=0.95), curve.needed(reached, level=0.5)
    assert wide[0] < narrow[0] < narrow[2] < wide[2]


def test_the_next_labels_gain_less_and_less_and_the_domain_in_need_gains_more() -> None:
    n = np.array([10.0, 20, 40, 80])
    curve = fitted(n.tolist(), heights(0.7, 0.5, 0.7, n).tolist())
    gains = [curve.gain(at, 10) for at in (10, 20, 80, 300)]
    assert gains == sorted(gains, reverse=True)
    assert curve.gain(20, 20) == pytest.approx(curve(40) - curve(20), abs=0.01)
    full = fitted(n.tolist(), [0.7, 0.701, 0.7, 0.7])
    assert full.gain(80, 40) < 0.3 * curve.gain(80, 40)


@pytest.mark.parametrize(
    ("n", "y"), [([], []), ([5], [0.5]), ([5, 9], [0.5, 0.6]), ([5, 5, 9, 9], [0.5, 0.5, 0.6, 0.6])]
)
def test_fewer_costs_than_parameters_are_not_known(n: list[float], y: list[float]) -> None:
    assert fit_curve(n, y) is None


@pytest.mark.parametrize(
    ("n", "y", "w", "message"),
    [
        ([1, 2, 3], [0.1, 0.2], None, "one of each a point"),
        ([1, 2, 3], [0.1, 0.2, 0.3], [1, 1], "one of each a point"),
        ([0, 2, 3], [0.1, 0.2, 0.3], None, "above 0"),
        ([1, 2, math.inf], [0.1, 0.2, 0.3], None, "above 0"),
        ([1, 2, 3], [51, 52, 53], None, "fractions"),
        ([1, 2, 3], [0.1, math.nan, 0.3], None, "fractions"),
        ([1, 2, 3], [0.1, 0.2, 0.3], [1, 0, 1], "above 0"),
    ],
)
def test_numbers_that_are_no_points_are_refused(
    n: list[float], y: list[float], w: list[float] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit_curve(n, y, w)
