"""Combines several annotators' answers to one question into one, pixel by pixel.

Shapes: A annotators · h×w pixels of a region's box · P pixels · N patterns of votes, each with the number of its pixels
· K values that a pixel can be given: the classes and void.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fewmask.annotation.questions import Answer
from fewmask.config import AnswerSettings
from fewmask.labels import NOT_LABELLED, VOID, Mask

NO_VOTE = -1
# The prior counts every annotator as correct in three of four earlier questions: nobody is infallible after two.
PRIOR_CORRECT, PRIOR_VOTES = 3.0, 4.0
LEAST_TRUST = 1e-3
MAX_STEPS = 1000


def decide(answers: Sequence[Answer], rule: AnswerSettings, trust: Mapping[str, float]) -> Mask:
    """Combine the answers to one question, in the order of arrival, into values (h,w) by a rule.

    `trust` holds the weights of annotators whose weight is not 1.
    """
    values = stack(answers)
    if rule.decide == "latest":
        return values[-1]
    return by_trust(values, np.array([trust.get(answer.annotator, 1.0) for answer in answers]))


def stack(answers: Sequence[Answer]) -> np.ndarray:
    """The values (A,h,w) of answers to one question."""
    return np.stack([answer.values for answer in answers if answer.values is not None])


def by_trust(values: np.ndarray, trust: np.ndarray) -> Mask:
    """The value of each pixel with the greatest sum of trust (A,) among the answers (A,h,w), as (h,w) uint8. Trust is 0
    or more.

    254 is not a vote, but void is. A tie, and votes with no trust at all, also give 254.
    """
    present = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    best, runner_up = np.zeros((2, *values.shape[1:]))
    winner = np.full(values.shape[1:], NOT_LABELLED, dtype=np.uint8)
    for value in present[present != NOT_LABELLED]:
        votes = np.einsum("a,ahw->hw", trust, values == value)
        runner_up = np.maximum(runner_up, np.minimum(votes, best))
        best = np.maximum(best, votes)
        winner[votes == best] = value
    # Sums of the same numbers in another order differ in their last digits.
    winner[best <= runner_up * (1 + 1e-9)] = NOT_LABELLED
    return winner


@dataclass(frozen=True, eq=False)
class Ballot:
    """The votes of several annotators on those pixels of one region that at least two of them decided."""

    names: tuple[str, ...]
    votes: np.ndarray
    """(A,N), numbers of the values. A class has its own number, void has the last one, and `NO_VOTE` marks a pixel
    without a vote."""
    pixels: np.ndarray
    """(N,), the number of pixels with these votes."""

    def votes_of(self, names: Sequence[str]) -> np.ndarray:
        """The votes of these annotators, in their order. Those who did not answer have `NO_VOTE`."""
        rows = np.full((len(names), self.votes.shape[1]), NO_VOTE, dtype=self.votes.dtype)
        rows[[names.index(name) for name in self.names]] = self.votes
        return rows


def ballot(answers: Sequence[Answer], classes: int) -> Ballot | None:
    """The votes of the answers to one question; None where no two answers decide the same pixel."""
    votes = as_votes(stack(answers).reshape(len(answers), -1), classes)
    votes = votes[:, (votes != NO_VOTE).sum(axis=0) > 1]
    return Ballot(tuple(a.annotator for a in answers), *patterns(votes)) if votes.size else None


def as_votes(values: np.ndarray, classes: int) -> np.ndarray:
    """Mask values of any shape as indices of the K = classes + 1 values. Void is the last; 254 becomes `NO_VOTE`."""
    numbers = np.arange(256, dtype=np.int16)
    numbers[VOID], numbers[NOT_LABELLED] = classes, NO_VOTE
    return numbers[values]


def patterns(votes: np.ndarray, weight: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The different columns of votes (A,P), as (A,N), and the summed weight (N,) of their pixels, by default 1 each."""
    code = np.zeros(votes.shape[1], dtype=np.int64)
    for row in votes:
        code = np.unique(code * 256 + (row - NO_VOTE), return_inverse=True)[1]
    first, place = np.unique(code, return_index=True, return_inverse=True)[1:]
    return votes[:, first], np.bincount(place, weight, minlength=len(first)).astype(np.float64)


def estimate_trust(votes: np.ndarray, weight: np.ndarray, values: int) -> np.ndarray:
    """Estimate the trust (A,) in annotators from their votes (A,N) among K `values`. Pattern n counts `weight[n]`.

    This is expectation–maximisation after Dawid and Skene (1979, Applied Statistics 28) with one parameter p for each
    annotator: the probability of giving the true value. Each other value has the probability (1 − p)/(K − 1). The trust
    in an annotator is log(p (K − 1) / (1 − p)). The posterior of a value is the softmax of the summed trust of the
    annotators who gave it.
    """
    given = votes[:, :, None] == np.arange(values)  # (A,N,K)
    voted = (votes != NO_VOTE) @ weight
    trust = np.full(len(votes), _log_odds(np.float64(PRIOR_CORRECT / PRIOR_VOTES), values))
    for _ in range(MAX_STEPS):
        score = np.einsum("a,ank->nk", trust, given)
        posterior = np.exp(score - score.max(axis=1, keepdims=True))
        posterior *= (weight / posterior.sum(axis=1))[:, None]
        correct = np.einsum("ank,nk->a", given, posterior)
        before, trust = trust, _log_odds((correct + PRIOR_CORRECT) / (voted + PRIOR_VOTES), values)
        if np.allclose(before, trust, rtol=0, atol=1e-6):
            break
    return trust


def trust_of(ballots: Sequence[Ballot], classes: int) -> dict[str, float]:
    """Estimates the trust in each annotator, by name, from their votes on the same pixels.

    Each question has the same weight, however many pixels it has, because its pixels are not answered one by one. An
    annotator who shares no question with others is left out.
    """
    names = sorted({name for ballot in ballots for name in ballot.names})
    if not names:
        return {}
    votes = np.concatenate([ballot.votes_of(names) for ballot in ballots], axis=1)
    weight = np.concatenate([ballot.pixels / ballot.pixels.sum() for ballot in ballots])
    return dict(zip(names, estimate_trust(*patterns(votes, weight), classes + 1).tolist(), strict=True))


def _log_odds(p: np.ndarray | np.float64, values: int) -> np.ndarray:
    """An annotator who is worse than chance gets almost no trust, but never a negative one. A unanimous vote therefore
    keeps its value."""
    return np.maximum(np.log(p * (values - 1) / (1 - p)), LEAST_TRUST)
