"""Selection of the candidates to ask for: the best that a budget pays for, balanced over classes or spread over the
embedding.

    scores      S = s                              none
                S = s · exp(−share of the candidates with its predicted class)        class
    ranking     S from high to low, ties by chance
    picking     down the ranking, whatever the budget still pays for                  none, class
                the best, then again and again the one farthest from all picked       diverse

The order of the candidates does not matter, so the number of processes that scored the pool does not change the
questions.

Shapes: N candidates · k of them picked · D embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np

from fewmask.acquisition.budget import Budget

Balance = Literal["none", "class", "diverse"]
BLOCK = 256  # labelled regions that are compared with all listed candidates at once
SLACK = 1e-9  # relative tolerance for floating-point sums: ten times 2.4 seconds are 24 seconds


@dataclass(frozen=True, eq=False)
class Candidates:
    """Regions of a pool that may be asked for, as arrays of N."""

    image: np.ndarray
    """int32, position in the pool."""
    region: np.ndarray
    """int32, id within the image."""
    score: np.ndarray
    """float32, a higher score is asked for first."""
    cost: np.ndarray
    """float64, in the budget's unit, above 0."""
    group: np.ndarray
    """int16, predicted class; −1 for none. The classes of several domains are numbered consecutively."""
    embedding: np.ndarray | None = None
    """(N,D) float16 or float32."""
    domain: np.ndarray | None = None
    """int16."""

    def __post_init__(self) -> None:
        assert all(len(a) == len(self.image) for a in self._arrays().values()), "arrays of different lengths"

    def _arrays(self) -> dict[str, np.ndarray]:
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in named.items() if value is not None}

    def __len__(self) -> int:
        return len(self.image)

    def take(self, which: np.ndarray) -> Candidates:
        """The candidates at the indices or where the mask is set."""
        return replace(self, **{name: value[which] for name, value in self._arrays().items()})


def concatenate(parts: Sequence[Candidates]) -> Candidates:
    """The candidates of several images or processes in one. All of them have an embedding or none has, and likewise for
    domains."""
    names = parts[0]._arrays().keys()
    assert all(part._arrays().keys() == names for part in parts)
    return Candidates(**{name: np.concatenate([part._arrays()[name] for part in parts]) for name in names})


def select(
    candidates: Candidates,
    budget: Budget,
    balance: Balance = "none",
    *,
    rng: np.random.Generator,
    factor: float = 4.0,
    covered: np.ndarray | None = None,
) -> np.ndarray:
    """Indices (k,) int64 of the candidates to ask for, in the order of asking; their cost never exceeds the budget.

    "diverse" picks among the best-scored candidates that `factor` budgets would pay for. It also keeps away from
    `covered` (A,D), the embeddings of labelled regions. Raises ValueError for a score or an embedding that is not
    finite, a cost that is not above 0, and class balance of scores below 0.
    """
    _check(candidates, balance, covered)
    S = class_balanced(candidates) if balance == "class" else candidates.score
    ranking = _ranking(candidates, S, rng)
    groups = [ranking] if budget.per == "pool" else _by_image(candidates, ranking)
    pick = _diverse(candidates, factor, covered) if balance == "diverse" else _affordable
    picked = [group[pick(candidates.cost[group], budget.amount, group)] for group in groups]
    chosen = np.concatenate([*picked, ranking[:0]])
    if budget.per == "pool":
        return chosen
    position = np.empty(len(candidates), dtype=np.int64)
    position[ranking] = np.arange(len(ranking))
    return chosen[np.argsort(position[chosen])]


def class_balanced(candidates: Candidates) -> np.ndarray:
    """Scores (N,) weighted by exp(−share of the candidates that have the same predicted class), which favours rare
    classes (Cai et al., CVPR 2021). The weights lie between 1/e and 1."""
    group = candidates.group.astype(np.int64) + 1
    share = np.bincount(group) / max(len(candidates), 1)
    weighted: np.ndarray = candidates.score * np.exp(-share)[group]
    return weighted


def _check(candidates: Candidates, balance: Balance, covered: np.ndarray | None) -> None:
    broken = np.flatnonzero(~np.isfinite(candidates.score))
    if len(broken):
        where = ", ".join(f"image {candidates.image[i]} region {candidates.region[i]}" for i in broken[:3])
        raise ValueError(
            f"{len(broken)} candidates have a score that is not finite ({where}), because the network's logits are not"
            " finite; check the training run of the network"
        )
    if not (np.isfinite(candidates.cost) & (candidates.cost > 0)).all():
        raise ValueError("a candidate costs nothing, or its cost is not finite; fix the rates of the cost model")
    if balance == "class" and (candidates.score < 0).any():
        raise ValueError("class balance multiplies scores, so none may be below 0; add a constant to them")
    if balance == "diverse":
        if candidates.embedding is None:
            raise ValueError("diverse selection needs an embedding of each candidate; choose none or class without one")
        for owner, embedding in (("a candidate", candidates.embedding), ("a labelled region", covered)):
            if embedding is not None and not np.isfinite(embedding).all():
                raise ValueError(f"{owner}'s embedding is not finite; check the training run of the network")


def _ranking(candidates: Candidates, S: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices from the highest score to the lowest. The generator orders equal scores, starting from (image,
    region)."""
    key = candidates.image.astype(np.int64) << 32 | candidates.region.astype(np.int64)
    given = np.argsort(key, kind="stable")
    assert len(key) < 2 or (np.diff(key[given]) > 0).all(), "a candidate occurs twice"
    shuffled = given[rng.permutation(len(given))]
    return shuffled[np.argsort(-S[shuffled], kind="stable")]


def _by_image(candidates: Candidates, ranking: np.ndarray) -> list[np.ndarray]:
    """The ranking of each image."""
    image = candidates.image[ranking]
    grouped = np.argsort(image, kind="stable")
    return np.split(ranking[grouped], np.flatnonzero(np.diff(image[grouped])) + 1)


Pick = Callable[[np.ndarray, float, np.ndarray], np.ndarray]
"""(costs of ranked candidates (n,), amount, their indices (n,)) → positions that the amount pays for, in order."""


def _affordable(cost: np.ndarray, amount: float, _: np.ndarray) -> np.ndarray:
    """Go down the ranking and pick every candidate that the rest of the amount pays for. The work is done in runs of
    candidates that fit: a candidate that does not fit is out for good."""
    left, open_ = amount * (1 + SLACK), np.flatnonzero(cost <= amount * (1 + SLACK))
    picked = []
    while len(open_):
        spent = np.cumsum(cost[open_])
        run = int(np.searchsorted(spent, left, side="right"))
        picked.append(open_[:run])
        left -= float(spent[run - 1])
        open_ = open_[run:]
        open_ = open_[cost[open_] <= left]
    return np.concatenate(picked) if picked else open_


def _diverse(candidates: Candidates, factor: float, covered: np.ndarray | None) -> Pick:
    """k-center greedy (Sener and Savarese, ICLR 2018) on a shortlist. Each step computes one row of distances."""
    assert factor >= 1
    embedding = candidates.embedding
    assert embedding is not None

    def pick(cost: np.ndarray, amount: float, group: np.ndarray) -> np.ndarray:
        listed = _affordable(cost, amount * factor, group)
        listed = listed[cost[listed] <= amount * (1 + SLACK)]
        points = embedding[group[listed]].astype(np.float32)
        nearest = _nearest(points, covered)
        left, price, picked = amount * (1 + SLACK), cost[listed], []
        while len(listed):
            nearest[price > left] = -1  # no distance is below 0, so these are out for good
            best = int(nearest.argmax())  # the best-scored among equals
            if nearest[best] < 0:
                break
            picked.append(best)
            left -= float(price[best])
            np.minimum(nearest, _distances(points, points[best]), out=nearest)
            nearest[best] = -1
        return listed[np.array(picked, dtype=np.int64)]

    return pick


def _nearest(points: np.ndarray, covered: np.ndarray | None) -> np.ndarray:
    """Squared distance of each point to the nearest covered embedding, (n,) float32; infinite where nothing is covered.

    The distances are computed in blocks, since all pairs of a large pool would take gigabytes.
    """
    nearest = np.full(len(points), np.inf, dtype=np.float32)
    norms = np.einsum("nd,nd->n", points, points)
    for start in range(0, 0 if covered is None else len(covered), BLOCK):
        assert covered is not None
        centres = covered[start : start + BLOCK].astype(np.float32)
        squared = np.einsum("nd,nd->n", centres, centres) - 2 * points @ centres.T
        np.minimum(nearest, norms + squared.min(1), out=nearest)
    return nearest.clip(0)  # rounding could give a value below 0


def _distances(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Squared Euclidean, (n,)."""
    difference = points - centre
    squared: np.ndarray = np.einsum("nd,nd->n", difference, difference)
    return squared
