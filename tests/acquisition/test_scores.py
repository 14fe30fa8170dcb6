"""Every score beside a slow loop over its definition, and one template that each of the registry's scores passes.

Shapes: M members · B images · C classes · H×W pixels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fewmask.acquisition.regions import aggregate, squares
from fewmask.acquisition.scores import SCORES, probabilities

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

# ── What each score is, slowly: one pixel's logits as a list of C for each member ────────────────────────────────────

Pixel = list[list[float]]


def softmax(values: list[float]) -> list[float]:
    exp = [math.exp(v - max(values)) for v in values]
    return [e / sum(exp) for e in exp]


def mean_softmax(members: Pixel) -> list[float]:
    return [sum(column) / len(members) for column in zip(*map(softmax, members), strict=True)]


def entropy(p: list[float]) -> float:
    return -sum(v * math.log(v) for v in p if v > 0)


def best_and_second(p: list[float]) -> tuple[float, float]:
    best, second = sorted(p, reverse=True)[:2]
    return best, second


def loop_margin(members: Pixel) -> float:
    p = mean_softmax(members)
    if len(p) == 1:
        return 0.0
    best, second = best_and_second(p)
    return 1 - (best - second)


def vote_entropy(members: Pixel) -> float:
    votes = Counter(max(range(len(m)), key=m.__getitem__) for m in members)
    return entropy([n / len(members) for n in votes.values()])


def mean_sigmoid(members: Pixel) -> float:
    return sum(1 / (1 + math.exp(-min(max(m[0], -700), 700))) for m in members) / len(members)


# Every score of the registry, with its definition (None where there is none: it is drawn) and its highest value.
DEFINITIONS: dict[str, tuple[Callable[[Pixel], float] | None, Callable[[int, int], float]]] = {
    "entropy": (lambda m: entropy(mean_softmax(m)), lambda C, M: math.log(C)),
    "normalised-entropy": (
        lambda m: entropy(mean_softmax(m)) / math.log(max(len(m[0]), 2)),
        lambda C, M: min(C - 1, 1),
    ),
    "margin": (loop_margin, lambda C, M: min(C - 1, 1)),
    "least-confidence": (lambda m: 1 - max(mean_softmax(m)), lambda C, M: 1 - 1 / C),
    "bald": (
        lambda m: entropy(mean_softmax(m)) - sum(entropy(softmax(v)) for v in m) / len(m),
        lambda C, M: math.log(min(C, M)),
    ),
    "disagreement": (vote_entropy, lambda C, M: math.log(min(C, M))),
    "difficulty": (mean_sigmoid, lambda C, M: 1),
    "difficulty-entropy": (mean_sigmoid, lambda C, M: 1),
    "random": (None, lambda C, M: 1),
}
EVERY = sorted(DEFINITIONS)


def test_every_score_goes_through_the_template() -> None:
    assert set(DEFINITIONS) == set(SCORES), "give a new score its slow definition and its highest value here"


def members_of(name: str, M: int, C: int, scale: float = 3.0, seed: int = 0, size: tuple[int, int] = (3, 4)) -> Tensor:
    channels = 1 if SCORES[name].reads == "difficulty" else C
    rng = torch.Generator().manual_seed(seed)
    return scale * torch.randn((max(M, SCORES[name].members), 2, channels, *size), generator=rng)


def score_of(name: str, members: Tensor, seed: int = 0) -> Tensor:
    return SCORES[name](members, torch.Generator().manual_seed(seed) if SCORES[name].needs_rng else None)


# ── The template ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("C", [1, 2, 5])
@pytest.mark.parametrize("M", [1, 2, 4])
@pytest.mark.parametrize("name", EVERY)
def test_it_is_its_definition_within_its_range(name: str, M: int, C: int) -> None:
    members = members_of(name, M, C)
    score = score_of(name, members)
    M, B, C, H, W = members.shape
    assert score.dtype == torch.float32
    assert tuple(score.shape) == (B, H, W)
    slow, highest = DEFINITIONS[name]
    assert score.min() >= 0
    assert score.max() <= highest(C, M) + 1e-6
    if slow is not None:
        pixels = members.permute(1, 3, 4, 0, 2).reshape(-1, M, C).tolist()
        expected = torch.tensor([slow(pixel) for pixel in pixels]).view(B, H, W)
        torch.testing.assert_close(score, expected.float(), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gap", [0, 18, 104, 1e3, 1e4])
@pytest.mark.parametrize("name", EVERY)
def test_it_is_finite_at_any_gap_and_dtype(name: str, gap: float, dtype: torch.dtype) -> None:
    members = torch.zeros_like(members_of(name, 3, 4)).to(dtype)
    members[:, :, 0], members[1:, :, -1] = gap, -gap
    members[0, 0, 0] = -gap
    score = score_of(name, members)
    assert score.isfinite().all()
    assert score.min() >= 0
    assert score.max() <= DEFINITIONS[name][1](members.shape[2], len(members)) + 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EVERY)
def test_it_is_finite_at_the_ends_of_the_dtype(name: str, dtype: torch.dtype) -> None:
    members = members_of(name, 3, 4).sign().to(dtype) * torch.finfo(dtype).max
    assert score_of(name, members).isfinite().all()


@pytest.mark.parametrize("name", [n for n in EVERY if DEFINITIONS[n][0] is not None])
def test_a_logit_that_is_not_a_number_is_seen_and_refused(name: str) -> None:
    members = members_of(name, 2, 3)
    members[1, 1, 0, 2, 1] = torch.nan
    score = score_of(name, members)
    assert score.isnan().nonzero().tolist() == [[1, 2, 1]]
    regions = squares((3, 4), 2)
    aggregate(score[0], regions, by=SCORES[name].by)
    with pytest.raises(ValueError, match="1 pixels have a score that is not finite"):
        aggregate(score[1], regions, by=SCORES[name].by)


@pytest.mark.parametrize("name", EVERY)
def test_it_leaves_its_input_alone_and_repeats_itself(name: str) -> None:
    members = members_of(name, 3, 4)
    before = members.clone()
    one, other = score_of(name, members, seed=5), score_of(name, members, seed=5)
    assert torch.equal(members, before)
    assert torch.equal(one, other)


@pytest.mark.parametrize("name", [n for n in EVERY if not SCORES[n].needs_rng])
def test_an_image_has_the_score_that_it_has_alone(name: str) -> None:
    members = members_of(name, 3, 4)
    assert torch.equal(score_of(name, members)[1:], score_of(name, members[:, 1:]))


@pytest.mark.parametrize("name", [n for n in EVERY if not SCORES[n].needs_rng])
def test_the_order_of_members_and_of_classes_means_nothing(name: str) -> None:
    members = members_of(name, 3, 4)
    score = score_of(name, members)
    torch.testing.assert_close(score_of(name, members.flip(0)), score)
    torch.testing.assert_close(score_of(name, members.flip(2)), score)


@pytest.mark.parametrize("name", [n for n in EVERY if SCORES[n].reads == "classes" and not SCORES[n].needs_rng])
def test_one_class_leaves_no_doubt(name: str) -> None:
    assert not score_of(name, members_of(name, 2, 1)).any()


@pytest.mark.parametrize("name", EVERY)
def test_members_that_it_lacks_and_a_generator_that_it_lacks_are_refused(name: str) -> None:
    scorer, members = SCORES[name], members_of(name, 1, 3)
    if scorer.members > 1:
        with pytest.raises(ValueError, match=f"at least {scorer.members}"):
            scorer(members[: scorer.members - 1])
    if scorer.needs_rng:
        with pytest.raises(AssertionError):
            scorer(members)


# ── What single scores are for ───────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.lists(st.floats(-30, 30), min_size=3, max_size=3), min_size=1, max_size=4))
def test_probabilities_are_the_mean_of_the_members(members: Pixel) -> None:
    p = probabilities(torch.tensor(members).view(len(members), 3, 1, 1)).flatten()
    np.testing.assert_allclose(p.numpy(), mean_softmax(members), atol=1e-6)


def test_a_doubtful_pixel_ranks_above_a_sure_one() -> None:
    sure, doubtful = torch.tensor([9.0, 0, 0]), torch.tensor([0.1, 0, 0])
    members = torch.stack([sure, doubtful], -1).view(1, 1, 3, 1, 2)
    for name in ("entropy", "normalised-entropy", "margin", "least-confidence"):
        left, right = SCORES[name](members).flatten().tolist()
        assert right > left, name


def test_members_that_agree_on_their_doubt_are_no_disagreement() -> None:
    """All members say one half each: much entropy, nothing that another label could settle between them."""
    members = torch.zeros(4, 1, 2, 1, 1)
    assert SCORES["bald"](members).item() == pytest.approx(0, abs=1e-6)
    assert SCORES["disagreement"](members).item() == 0
    assert SCORES["entropy"](members).item() == pytest.approx(math.log(2))


def test_equal_members_tell_nothing_and_rounding_does_not_make_it_less() -> None:
    score = SCORES["bald"](members_of("bald", 1, 19, size=(40, 50))[:1].expand(3, -1, -1, -1, -1))
    assert score.min() >= 0
    assert score.max() < 1e-5


def test_bald_is_the_mean_divergence_from_the_consensus() -> None:
    members = members_of("bald", 3, 4)
    log_p = members.log_softmax(2)
    consensus = log_p.exp().mean(0)
    divergence = (log_p.exp() * (log_p - consensus.log())).sum(2).mean(0)
    torch.testing.assert_close(SCORES["bald"](members), divergence, atol=1e-6, rtol=1e-4)


def test_random_is_uniform_and_reads_no_logit() -> None:
    members = members_of("random", 1, 3, size=(40, 50))
    score = score_of("random", members, seed=1)
    assert torch.equal(score, score_of("random", torch.full_like(members, torch.nan), seed=1))
    assert not torch.equal(score, score_of("random", members, seed=2))
    assert score.mean().item() == pytest.approx(0.5, abs=0.03)
    assert score.std().item() == pytest.approx(math.sqrt(1 / 12), abs=0.02)


def test_random_asks_for_small_regions_as_often_as_for_large_ones() -> None:
    """The mean of noise would bring the 4 pixels of the corner first far more often than the 900 of a whole square."""
    regions = squares((62, 62), 30)
    first: Counter[int] = Counter()
    for seed in range(900):
        score = score_of("random", torch.zeros(1, 1, 1, 62, 62), seed)[0]
        first[int(aggregate(score, regions, by=SCORES["random"].by).score.argmax())] += 1
    expected, spread = 900 / 9, math.sqrt(900 / 9 * 8 / 9)
    assert all(abs(first[region] - expected) < 4 * spread for region in range(9))
