"""The statistics of comparisons beside slow loops, and intervals that hold what they promise.

Shapes: S seeds · N images · C classes · R draws · F figures.
"""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewmask.comparison.statistics import estimate, holm, iou, means, redrawn
from fewmask.randomness import generator


def looped_iou(counts: np.ndarray) -> list[float]:
    """IoU (C,) of counts (N,C,3), pixel by pixel of what IoU means."""
    scores = []
    for c in range(counts.shape[1]):
        right, labelled, predicted = (sum(int(image[c][k]) for image in counts) for k in range(3))
        scores.append(right / (labelled + predicted - right) if labelled else np.nan)
    return scores


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 4))
def test_redrawn_iou_equals_a_loop_over_draws(seed: int, images: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 5, (2, images, classes, 3))
    counts[..., 1:] += counts[..., :1]  # what is right is labelled and predicted
    scores = redrawn(counts, 7, generator(seed, "report"))
    weights = generator(seed, "report").multinomial(images, np.full(images, 1 / images), 7)
    for network in range(2):
        for draw in range(7):
            chosen = np.repeat(counts[network], weights[draw], axis=0)
            assert scores[network, draw].tolist() == pytest.approx(looped_iou(chosen), nan_ok=True)
    assert iou(counts[0].sum(0)).tolist() == pytest.approx(looped_iou(counts[0]), nan_ok=True)


def test_means_leave_out_absent_classes() -> None:
    scores = np.array([[0.2, np.nan, 0.6], [np.nan, np.nan, np.nan]])
    parts = np.array([[1, 1, 1], [1, 1, 0], [0, 1, 0]], float)
    assert means(scores, parts)[0].tolist() == pytest.approx([0.4, 0.2, np.nan], nan_ok=True)
    assert np.isnan(means(scores, parts)[1]).all()


def test_without_images_it_is_the_paired_t_interval() -> None:
    """By hand: t of 0.975 with two degrees of freedom is 4.3027."""
    d = [-0.015, -0.016, 0.009]
    estimates = estimate(np.array(d)[:, None], None, np.zeros(1), generator(0, "report"))
    half = 4.302653 * statistics.stdev(d) / 3**0.5
    assert estimates.difference[0] == pytest.approx(statistics.mean(d))
    assert estimates.interval[0].tolist() == pytest.approx([statistics.mean(d) - half, statistics.mean(d) + half])
    assert estimates.bootstrap[0].tolist() == pytest.approx([-0.016, 0.009])


def test_of_one_seed_only_images_vary_and_without_them_nothing_is_known() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(0.02, 0.01, (1, 4000, 1))
    estimates = estimate(np.array([[0.02]]), draws, np.array([1000]), generator(0, "report"))
    assert estimates.interval[0].tolist() == pytest.approx([0.0004, 0.0396], abs=0.001)
    assert estimates.bootstrap[0].tolist() == pytest.approx([0.0004, 0.0396], abs=0.001)
    assert estimates.p[0] == pytest.approx(0.0455, abs=0.01)
    nothing = estimate(np.array([[0.02]]), None, np.zeros(1), generator(0, "report"))
    assert np.isnan([*nothing.interval[0], *nothing.bootstrap[0], nothing.p[0]]).all()


def test_few_images_have_few_degrees_of_freedom() -> None:
    """By hand: t of 0.975 with four degrees of freedom is 2.7764."""
    draws = np.random.default_rng(0).normal(0.02, 0.01, (1, 50, 1))
    estimates = estimate(np.array([[0.02]]), draws, np.array([5]), generator(0, "report"))
    half = 2.776445 * statistics.stdev(draws.flatten().tolist())
    assert estimates.interval[0].tolist() == pytest.approx([0.02 - half, 0.02 + half])


def test_runs_that_agree_to_the_pixel_differ_by_nothing() -> None:
    estimates = estimate(np.zeros((3, 1)), np.zeros((3, 50, 1)), np.array([9]), generator(0, "report"))
    assert estimates.interval[0].tolist() == [0, 0]
    assert estimates.p[0] == 1


@pytest.mark.parametrize(
    ("seed_sd", "image_sd", "both_sd"), [(1.0, 0.01, 0.01), (1.0, 7.0, 7.0), (0.01, 10.0, 0.01), (0.01, 0.01, 10.0)]
)
def test_the_interval_holds_the_truth_as_often_as_it_says(seed_sd: float, image_sd: float, both_sd: float) -> None:
    """Three seeds, 40 images, no difference in truth: the t interval must hold zero in 95 % of trials, or in more where
    seeds and images share their luck; the percentiles hold it in about 74 % where seeds are most of it."""
    rng = np.random.default_rng(0)
    trials, seeds, images, draws = 300, 3, 40, 100
    held = {"interval": 0, "bootstrap": 0}
    for _ in range(trials):
        values = rng.normal(0, seed_sd, (seeds, 1)) + rng.normal(0, image_sd, images)
        values = values + rng.normal(0, both_sd, (seeds, images))
        weights = rng.multinomial(images, np.full(images, 1 / images), draws) / images
        estimates = estimate(values.mean(1)[:, None], (values @ weights.T)[..., None], np.array([images]), rng)
        for name in held:
            low, high = getattr(estimates, name)[0]
            held[name] += low <= 0 <= high
    assert held["interval"] / trials > 0.92
    if both_sd < image_sd or seed_sd > image_sd:
        assert held["interval"] / trials < 0.985
    if seed_sd > image_sd:
        assert 0.65 < held["bootstrap"] / trials < 0.83


@given(st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), max_size=8))
def test_holm_equals_its_definition(values: list[float]) -> None:
    """The k-th smallest of m is rejected at α when it and all smaller ones are at most α / (m − k + 1)."""
    adjusted = holm(np.array(values, float))
    numbers = sorted(v for v in values if v == v)
    for value, adjusted_value in zip(values, adjusted.tolist(), strict=True):
        if value != value:
            assert adjusted_value != adjusted_value
            continue
        smaller = [p * (len(numbers) - k) for k, p in enumerate(numbers) if p <= value]
        first = [p * (len(numbers) - k) for k, p in enumerate(numbers) if p < value]
        tied = len(numbers) - sum(p < value for p in numbers)
        assert adjusted_value == pytest.approx(min(max([*first, value * tied]), 1.0))
        assert adjusted_value >= value
        assert adjusted_value <= min(max(smaller), 1.0) + 1e-12
