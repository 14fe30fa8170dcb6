"""Acquisition scores of the pixels of an image: a higher score means that a label is expected to help more.

Every score takes the logits of M members, which are scales, dropout draws or generations for one image. A single
network is M = 1. A score is finite and at least 0 at any finite logits and dtype. Probabilities are those of a softmax
in fp32, and p·log p is 0 where p underflows: the bare product would be NaN, and a top-k ranks NaN first. A NaN logit
gives a NaN score, which `aggregate` refuses.

Shapes: M members · B images · C classes · H×W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from typing import Literal, Protocol

import torch
from torch import Tensor

from fewmask.plugins import with_installed

By = Literal["mean", "histogram-entropy", "one-pixel"]
TINY = torch.finfo(torch.float32).tiny


class Score(Protocol):
    """Logits (M,B,C,H,W) of any floating dtype → (B,H,W) float32."""

    def __call__(self, members: Tensor, rng: torch.Generator | None = None) -> Tensor: ...


def image_by_image(score: Callable[[Tensor], Tensor]) -> Score:
    """Lift a score of one image, (M,C,H,W) → (H,W), to a batch.

    Intermediate values then take the memory of one image. On a CPU this is also 2–4 times faster.
    """

    @wraps(score)
    def batched(members: Tensor, rng: torch.Generator | None = None) -> Tensor:
        return torch.stack([score(image) for image in members.unbind(1)])

    return batched


@dataclass(frozen=True)
class OfMean:
    """A score of the mean softmax alone, so that a caller who has the mean need not compute it again."""

    of: Callable[[Tensor], Tensor]
    """(C,H,W) of one image → (H,W)."""

    def __call__(self, members: Tensor, rng: torch.Generator | None = None) -> Tensor:
        return image_by_image(lambda logits: self.of(probabilities(logits)))(members, rng)


def probabilities(logits: Tensor) -> Tensor:
    """The members' mean softmax: (M,C,H,W) logits → (C,H,W) float32."""
    p = _softmax(logits)
    return p[0] if len(p) == 1 else p.mean(0)


def _softmax(logits: Tensor) -> Tensor:
    if logits.dtype == torch.float64:  # logits may exceed the range of fp32, probabilities cannot
        return logits.softmax(1).float()
    return logits.softmax(1, dtype=torch.float32)


def _entropy(p: Tensor, dim: int) -> Tensor:
    """−Σ p·log p along `dim`, in nats, never below 0."""
    return -p.clamp_min(TINY).log_().mul_(p).sum(dim).clamp_max_(0.0)


@OfMean
def entropy(mean: Tensor) -> Tensor:
    """Shannon entropy of the mean softmax, 0 … log C nats."""
    return _entropy(mean, 0)


@OfMean
def normalised_entropy(mean: Tensor) -> Tensor:
    """`entropy` over log C, 0 … 1, so that domains with different numbers of classes can be ranked together."""
    return _entropy(mean, 0) / math.log(max(len(mean), 2))


@OfMean
def margin(mean: Tensor) -> Tensor:
    """1 − (p₁ − p₂), best versus second best (Joshi et al., CVPR 2009), 0 … 1. With a single class it is 0."""
    first, *others = mean
    best, second = first, torch.zeros_like(first)
    for p in others:  # on a CPU this takes a tenth of the time of topk, which sorts
        second = torch.maximum(second, torch.minimum(best, p))
        best = torch.maximum(best, p)
    return 1 - (best - second) if others else 0 * best


@OfMean
def least_confidence(mean: Tensor) -> Tensor:
    """1 − p₁, 0 … 1 − 1/C."""
    return (1 - mean.amax(0)).clamp_min(0.0)


@image_by_image
def bald(logits: Tensor) -> Tensor:
    """H(mean softmax) − mean H, the mutual information between prediction and member (Houlsby et al. 2011; for dropout
    draws Gal et al., ICML 2017), 0 … log min(C, M) nats. It is also the members' mean KL divergence to their mean."""
    p = _softmax(logits)
    return (_entropy(p.mean(0), 0) - _entropy(p, 1).mean(0)).clamp_min(0.0)


@image_by_image
def disagreement(logits: Tensor) -> Tensor:
    """Vote entropy of the members' most likely classes (Dagan and Engelson, ICML 1995), 0 … log min(C, M) nats.

    The other usual measure of a committee, mean KL divergence to the consensus, is `bald`.
    """
    vote = logits.max(1, keepdim=True).indices  # on a CPU several times faster than argmax
    votes = torch.zeros_like(logits, dtype=torch.float32).scatter_(1, vote, 1.0).mean(0)
    return torch.where(logits.amax((0, 1)).isnan(), torch.nan, _entropy(votes, 0))


@image_by_image
def difficulty(logits: Tensor) -> Tensor:
    """Probability of being wrong, 0 … 1, from the logits (M,1,H,W) of DEAL's difficulty branch (Xie et al., ACCV 2020).

    Its mean over a region is DEAL's DS, its "histogram-entropy" is DEAL's DE.
    """
    assert logits.shape[1] == 1, f"the difficulty branch has one channel, not {logits.shape[1]}"
    return logits.float().sigmoid().mean((0, 1))


def random(members: Tensor, rng: torch.Generator | None = None) -> Tensor:
    """Scores drawn uniformly from 0 … 1.

    A region takes the draw of one of its pixels. With a mean, large regions would lie close to one half, so that the
    small regions at the image's edge would come first and last.
    """
    assert rng is not None, "a random score needs a generator"
    _, B, _, H, W = members.shape
    return torch.rand((B, H, W), generator=rng, device=rng.device).to(members.device)


@dataclass(frozen=True)
class Scorer:
    """A score and its requirements."""

    score: Score
    members: int = 1
    """The least number of members that it compares."""
    reads: Literal["classes", "difficulty"] = "classes"
    """The logits that it reads: those of the classes, or of the difficulty branch."""
    needs_rng: bool = False
    by: By = "mean"
    """How `aggregate` computes a region's score from it."""

    def __call__(self, members: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Scores (B,H,W). Raises ValueError where there are too few members."""
        if len(members) < self.members:
            raise ValueError(
                f"the score compares at least {self.members} members and got {len(members)}; configure more scales,"
                " dropout draws or generations, or choose a score of a single network, such as entropy"
            )
        return self.score(members, rng)


SCORES = {
    "entropy": Scorer(entropy),
    "normalised-entropy": Scorer(normalised_entropy),
    "margin": Scorer(margin),
    "least-confidence": Scorer(least_confidence),
    "bald": Scorer(bald, members=2),
    "disagreement": Scorer(disagreement, members=2),
    "difficulty": Scorer(difficulty, reads="difficulty"),
    "difficulty-entropy": Scorer(difficulty, reads="difficulty", by="histogram-entropy"),
    "random": Scorer(random, needs_rng=True, by="one-pixel"),
}


@cache
def known_scores() -> dict[str, Scorer]:
    """`SCORES`, and those of installed packages. Raises ValueError for a package whose score cannot be used."""
    return with_installed("score", SCORES)
