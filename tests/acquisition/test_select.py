"""One template that every way of selecting passes, what each adds to it, and what a question costs.

Shapes: N candidates · D embedding size.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import fields, replace
from itertools import product
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewmask.acquisition.budget import RATES, SECONDS_PER_CLICK, Budget, CostModel, Per, Rate, Unit
from fewmask.acquisition.selection import (
    BLOCK,
    SLACK,
    Balance,
    Candidates,
    _nearest,
    class_balanced,
    concatenate,
    select,
)

# Every balance with every scope of the budget.
WAYS: list[tuple[Balance, Per]] = [
    ("none", "pool"),
    ("none", "image"),
    ("class", "pool"),
    ("class", "image"),
    ("diverse", "pool"),
    ("diverse", "image"),
]
way = pytest.mark.parametrize(("balance", "per"), WAYS)


def test_every_way_of_selecting_goes_through_the_template() -> None:
    assert set(WAYS) == set(product(get_args(Balance), get_args(Per)))


def candidates(
    images: int = 4, regions: int = 10, seed: int = 0, *, equal: bool = False, cost: float | None = None
) -> Candidates:
    rng = np.random.default_rng(seed)
    N = images * regions
    return Candidates(
        image=np.repeat(np.arange(images, dtype=np.int32), regions),
        region=np.tile(np.arange(regions, dtype=np.int32), images),
        score=np.full(N, 0.5, np.float32) if equal else rng.permutation(N).astype(np.float32) / N,
        cost=rng.integers(1, 20, N).astype(np.float64) if cost is None else np.full(N, cost),
        group=rng.integers(-1, 4, N).astype(np.int16),
        embedding=rng.normal(size=(N, 3)).astype(np.float16),
        domain=rng.integers(0, 2, N).astype(np.int16),
    )


def ask(pool: Candidates, amount: float, balance: Balance, per: Per, seed: int = 0) -> np.ndarray:
    return select(pool, Budget(amount, "pixels", per), balance, rng=np.random.default_rng(seed))


def named(pool: Candidates, chosen: np.ndarray) -> list[tuple[int, int]]:
    return [(int(pool.image[i]), int(pool.region[i])) for i in chosen]


# ── The template ─────────────────────────────────────────────────────────────────────────────────────────────────────


@way
@given(st.integers(1, 5), st.integers(1, 12), st.floats(0, 150), st.booleans(), st.integers(0, 99))
def test_it_spends_what_it_may_and_never_more(
    balance: Balance, per: Per, images: int, regions: int, amount: float, equal: bool, seed: int
) -> None:
    pool = candidates(images, regions, seed, equal=equal)
    chosen = ask(pool, amount, balance, per)
    assert len(set(chosen.tolist())) == len(chosen)
    for image in range(images) if per == "image" else [None]:
        group = np.arange(len(pool)) if image is None else np.flatnonzero(pool.image == image)
        mine = np.intersect1d(group, chosen)
        spent = pool.cost[mine].sum()
        allowed = amount * (1 + SLACK)
        assert spent <= allowed
        if balance != "diverse":  # which keeps to its shortlist
            assert (pool.cost[np.setdiff1d(group, mine)] > allowed - spent).all()


@way
def test_the_same_seed_asks_the_same_and_leaves_its_input_alone(balance: Balance, per: Per) -> None:
    pool = candidates(equal=True)
    before = pool.take(np.arange(len(pool)))
    assert (ask(pool, 30, balance, per, seed=3) == ask(pool, 30, balance, per, seed=3)).all()
    for name in (f.name for f in fields(Candidates)):
        assert (getattr(pool, name) == getattr(before, name)).all()


@way
@pytest.mark.parametrize("equal", [False, True])
def test_the_order_of_the_candidates_means_nothing(balance: Balance, per: Per, equal: bool) -> None:
    pool = candidates(equal=equal)
    shuffled = pool.take(np.random.default_rng(9).permutation(len(pool)))
    assert named(pool, ask(pool, 40, balance, per)) == named(shuffled, ask(shuffled, 40, balance, per))


@way
def test_a_budget_for_more_than_the_pool_gives_all_of_it(balance: Balance, per: Per) -> None:
    pool = candidates()
    assert sorted(ask(pool, 1e9, balance, per)) == list(range(len(pool)))


@way
@pytest.mark.parametrize("amount", [0, 6.99])
def test_a_budget_below_the_cheapest_gives_nothing(balance: Balance, per: Per, amount: float) -> None:
    chosen = ask(candidates(cost=7), amount, balance, per)
    assert chosen.tolist() == []
    assert chosen.dtype == np.int64


@way
def test_an_empty_pool_gives_nothing(balance: Balance, per: Per) -> None:
    assert ask(candidates().take(np.arange(0)), 10, balance, per).tolist() == []


@way
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_refused_by_name(balance: Balance, per: Per, value: float) -> None:
    pool = candidates()
    score = pool.score.copy()
    score[13] = value
    with pytest.raises(ValueError, match=r"1 candidates .* not finite \(image 1 region 3\)"):
        ask(replace(pool, score=score), 10, balance, per)


@way
@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf])
def test_a_cost_that_is_no_cost_is_refused(balance: Balance, per: Per, value: float) -> None:
    pool = candidates()
    cost = pool.cost.copy()
    cost[5] = value
    with pytest.raises(ValueError, match="rates of the cost model"):
        ask(replace(pool, cost=cost), 10, balance, per)


@way
def test_a_candidate_that_is_there_twice_is_our_mistake(balance: Balance, per: Per) -> None:
    pool = candidates()
    with pytest.raises(AssertionError, match="twice"):
        ask(concatenate([pool, pool.take(np.array([3]))]), 10, balance, per)


@way
def test_ten_questions_cost_ten_times_one(balance: Balance, per: Per) -> None:
    """The floating-point sum of ten times 2.4 is above 24."""
    assert len(ask(candidates(1, 20, cost=2.4), 24, balance, per)) == 10
    assert len(ask(candidates(1, 20, cost=0.1), 0.3, balance, per)) == 3


@way
def test_equal_candidates_are_asked_alike(balance: Balance, per: Per) -> None:
    if balance == "diverse":
        pool = replace(candidates(1, 12, cost=1, equal=True), embedding=np.zeros((12, 2), np.float32))
    else:
        pool = replace(candidates(1, 12, cost=1, equal=True), group=np.zeros(12, np.int16))
    counts: Counter[int] = Counter()
    for seed in range(480):
        counts.update(ask(pool, 3, balance, per, seed).tolist())
    assert all(abs(counts[i] - 120) < 5 * math.sqrt(120) for i in range(12))


# ── What each adds ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_best_come_first_over_the_pool_and_in_every_image() -> None:
    pool = candidates(cost=1)
    order = np.argsort(-pool.score)
    assert ask(pool, 7, "none", "pool").tolist() == order[:7].tolist()
    chosen = ask(pool, 2, "none", "image")
    assert Counter(pool.image[chosen].tolist()) == dict.fromkeys(range(4), 2)
    assert (np.diff(pool.score[chosen]) < 0).all()
    for image in range(4):
        mine = order[pool.image[order] == image]
        assert set(mine[:2]) <= set(chosen)


def test_what_does_not_fit_is_passed_over_and_does_not_end_the_round() -> None:
    pool = replace(
        candidates(1, 5),
        score=np.array([5, 4, 3, 2, 1], np.float32),
        cost=np.array([6.0, 9, 3, 2, 1]),
    )
    assert ask(pool, 10, "none", "pool").tolist() == [0, 2, 4]


def test_class_balance_is_the_published_weight() -> None:
    """Cai et al., CVPR 2021: score · exp(−share of the class)."""
    pool = replace(
        candidates(1, 5, cost=1),
        score=np.array([1, 0.9, 0.8, 0.7, 0.6], np.float32),
        group=np.array([2, 2, 2, 0, -1], np.int16),
    )
    expected = [1 * math.exp(-0.6), 0.9 * math.exp(-0.6), 0.8 * math.exp(-0.6), 0.7 * math.exp(-0.2), 0.6 * math.exp(-0.2)]  # fmt: skip # noqa: E501
    np.testing.assert_allclose(class_balanced(pool), expected)
    assert ask(pool, 3, "class", "pool").tolist() == [3, 0, 1]
    assert ask(pool, 3, "none", "pool").tolist() == [0, 1, 2]


def test_class_balance_of_scores_below_zero_is_refused() -> None:
    pool = candidates()
    with pytest.raises(ValueError, match="below 0"):
        ask(replace(pool, score=pool.score - 0.5), 10, "class", "pool")


@given(st.integers(0, 99), st.integers(1, 12), st.booleans())
def test_diverse_is_k_center_greedy(seed: int, k: int, with_covered: bool) -> None:
    """Beside a loop over its definition, on a shortlist of twice the budget."""
    pool = candidates(3, 10, seed, cost=1)
    covered = np.random.default_rng(seed).normal(size=(2, 3)).astype(np.float32) if with_covered else None
    indices = select(pool, Budget(k), "diverse", rng=np.random.default_rng(0), factor=2, covered=covered)
    assert pool.embedding is not None
    points = pool.embedding.astype(np.float32)
    listed = np.argsort(-pool.score)[: 2 * k].tolist()
    centres = [] if covered is None else list(covered)
    expected: list[int] = []
    while len(expected) < k:
        left = [i for i in listed if i not in expected]
        distance = [min((((points[i] - c) ** 2).sum() for c in centres), default=np.inf) for i in left]
        expected.append(left[int(np.argmax(distance))])
        centres.append(points[expected[-1]])
    assert indices.tolist() == expected


def test_diverse_takes_one_of_each_cluster_and_the_best_one_first() -> None:
    centre = np.repeat(np.eye(4, dtype=np.float32) * 9, 10, axis=0)
    pool = replace(candidates(4, 10, cost=1), embedding=centre)
    chosen = ask(pool, 4, "diverse", "pool")
    assert chosen[0] == pool.score.argmax()
    spread = select(pool, Budget(4), "diverse", rng=np.random.default_rng(0), factor=10)
    assert len({tuple(centre[i]) for i in spread}) == 4


def test_nearest_to_what_is_covered_block_by_block() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(30, 5)).astype(np.float32)
    covered = np.concatenate([rng.normal(size=(2 * BLOCK + 3, 5)), points[:2]]).astype(np.float32)
    expected = [min(((p - c) ** 2).sum() for c in covered) for p in points]
    distances = _nearest(points, covered)
    np.testing.assert_allclose(distances, expected, rtol=1e-4, atol=1e-5)
    assert (distances >= 0).all()
    assert np.isinf(_nearest(points, None)).all() and np.isinf(_nearest(points, covered[:0])).all()


def test_diverse_without_a_finite_embedding_is_refused() -> None:
    pool = candidates()
    with pytest.raises(ValueError, match="needs an embedding"):
        ask(replace(pool, embedding=None), 10, "diverse", "pool")
    with pytest.raises(ValueError, match="embedding is not finite"):
        ask(replace(pool, embedding=np.full((40, 3), np.nan)), 10, "diverse", "pool")
    covered = np.full((1, 3), np.inf, np.float16)
    with pytest.raises(ValueError, match="a labelled region's embedding is not finite"):
        select(pool, Budget(10), "diverse", rng=np.random.default_rng(0), covered=covered)


def test_candidates_are_joined_field_by_field() -> None:
    pool = candidates()
    halves = concatenate([pool.take(np.arange(15)), pool.take(np.arange(15, 40))])
    for name in (f.name for f in fields(Candidates)):
        assert (getattr(pool, name) == getattr(halves, name)).all()
    bare = replace(pool, embedding=None, domain=None)
    assert concatenate([bare, replace(bare, image=bare.image + 4)]).embedding is None
    with pytest.raises(AssertionError):
        concatenate([pool, bare])
    with pytest.raises(AssertionError):
        replace(pool, cost=pool.cost[:-1])


# ── Costs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("amount", [-1, math.nan, math.inf])
def test_a_budget_that_is_no_amount_is_refused(amount: float) -> None:
    with pytest.raises(ValueError, match="0 or more"):
        Budget(amount)


def test_a_budget_in_an_unknown_unit_or_scope_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="pixels, regions, clicks, seconds"):
        Budget(1, "hours")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pool, image"):
        Budget(1, "pixels", "domain")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", RATES)
def test_every_kind_of_region_has_a_cost_above_zero_in_every_unit(kind: str) -> None:
    pixels = np.array([1, 900])
    for unit in get_args(Unit):
        cost = CostModel().cost(kind, pixels, unit)
        assert cost.shape == (2,)
        assert (cost > 0).all()
        assert cost[1] >= cost[0]
    assert CostModel().cost(kind, pixels, "pixels").tolist() == [1, 900]
    assert CostModel().cost(kind, pixels, "regions").tolist() == [1, 1]


def test_the_published_costs() -> None:
    model = CostModel()
    assert model.cost("superpixels", np.array([500]), "clicks") == 1  # Cai et al., CVPR 2021
    assert model.cost("points", np.array([1]), "seconds") == SECONDS_PER_CLICK  # Bearman et al., ECCV 2016
    whole = model.cost("image", np.array([1024 * 2048]), "seconds")
    assert whole == pytest.approx(90 * 60, rel=1e-3)  # Cordts et al., CVPR 2016


def test_stated_rates_are_used_and_an_unknown_kind_is_refused() -> None:
    model = CostModel({"squares": Rate(per_region=2, per_pixel=0.5)}, seconds_per_click=3)
    assert model.cost("squares", np.array([10]), "clicks") == 7
    assert model.cost("squares", np.array([10]), "seconds") == 21
    with pytest.raises(ValueError, match="no rate for 'points'; there are rates for squares"):
        model.cost("points", np.array([1]), "clicks")
