"""Measures where annotators disagree: by class, by image, by region and by pair.

Shapes: A annotators · K values that a pixel can be given: the classes and void · N patterns of votes, counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from fewmask.annotation.consensus import NO_VOTE, as_votes, decide, patterns, stack
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Answer, Question
from fewmask.data.domain import Domain
from fewmask.labels import Mask

WORST = 10


def coincidences(votes: np.ndarray, pixels: np.ndarray, values: int) -> np.ndarray:
    """The coincidence matrix (K,K) of votes (A,N). Each pattern of votes was given to so many pixels (N,).

    Cell c, k: how often one annotator said c and another k of the same pixel, each ordered pair of a pixel with m votes
    counting 1/(m − 1), so that every vote counts once (Krippendorff, Content Analysis, 2004, ch. 11). Where fewer than
    two voted nothing coincides. It adds up over regions, images and domains.
    """
    counts = (votes[:, :, None] == np.arange(values)).sum(axis=0).astype(np.float64)  # (N,K)
    given = counts.sum(axis=1)
    weight = np.where(given > 1, pixels / np.maximum(given - 1, 1), 0.0)
    return (counts * weight[:, None]).T @ counts - np.diag(weight @ counts)


def share_agreed(matrix: np.ndarray) -> float | None:
    """The mean share of votes that another annotator gives too; None where nothing coincides."""
    total = matrix.sum()
    return float(np.trace(matrix) / total) if total > 0 else None


def alpha(matrix: np.ndarray) -> float | None:
    """Krippendorff's alpha for nominal values: 1 is full agreement, 0 is agreement by chance, below 0 is systematic
    disagreement.

    It is None where it is not defined: where nothing coincides, or where all votes have the same value.
    """
    total, of_value = matrix.sum(), matrix.sum(axis=1)
    expected = total**2 - (of_value**2).sum()
    if expected <= 0:
        return None
    return float(1 - (total - np.trace(matrix)) * (total - 1) / expected)


def agreement(ledger: Ledger, domains: Mapping[str, Domain], worst: int = WORST) -> dict[str, Any]:
    """The agreement of a ledger's annotators on the questions that several of them answered, as plain data.

    Fractions are of votes on pixels that at least two annotators decided; None where there is no such pixel. Classes,
    pairs of classes, images and regions come with the least agreement first; of the last three no more than `worst`,
    and none on which all agree. Raises ValueError when a domain has other classes than it was asked with.
    """
    work = ledger.work()
    seen = {name: _Seen() for name in work}
    found = {}
    for name in ledger.classes():
        ledger.expect(domains[name])
        found[name] = _of_domain(ledger, domains[name], seen, worst)
    return {
        "each": ledger.rule.each,
        "decide": ledger.rule.decide,
        "annotators": {name: asdict(work[name]) | seen[name].told() for name in work},
        "domains": found,
    }


def _of_domain(ledger: Ledger, domain: Domain, seen: Mapping[str, _Seen], worst: int) -> dict[str, Any]:
    names, trust = [*domain.space.names, "void"], ledger.trust(domain.name)
    total, images, regions = np.zeros((len(names), len(names))), [], list[dict[str, Any]]()
    pixels = undecided = 0
    for stem in ledger.sizes(domain.name):
        image, of_image = np.zeros_like(total), list[dict[str, Any]]()
        for question, answers in ledger.given(domain.name, stem):
            votes, count = _votes(answers, decide(answers, ledger.rule, trust), len(names) - 1)
            if not count.size:
                continue
            region = coincidences(votes[:-1], count, len(names))
            open_ = int(count[votes[-1] == NO_VOTE].sum())
            pixels, undecided, image = pixels + int(count.sum()), undecided + open_, image + region
            people = [answer.annotator for answer in answers]
            of_image.append(_plain(question) | {"annotators": people} | _told(count, region) | {"undecided": open_})
            for row, person in enumerate(people):
                seen[person].hear(votes[:-1], row, count, votes[-1])
        total += image
        regions += of_image
        if of_image:
            where = {"stem": stem, "image": str(domain.source.where(stem)), "questions": len(of_image)}
            images.append(where | {"pixels": sum(r["pixels"] for r in of_image), "agreement": share_agreed(image)})
    return {
        "questions": len(regions),
        "pixels": pixels,
        "undecided": undecided,
        "agreement": share_agreed(total),
        "alpha": alpha(total),
        "trust": dict(trust),
        "classes": _classes(total, names),
        "confused": _confused(total, names)[:worst],
        "images": _least(images)[:worst],
        "regions": _least(regions)[:worst],
    }


def _votes(answers: Sequence[Answer], consensus: Mask, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the pixels that at least two annotators decided: their votes with what they come to, (A+1,N), and how many
    pixels were given these, (N,)."""
    votes = as_votes(np.concatenate([stack(answers), consensus[None]]).reshape(len(answers) + 1, -1), classes)
    return patterns(votes[:, (votes[:-1] != NO_VOTE).sum(axis=0) > 1])


def _plain(question: Question) -> dict[str, Any]:
    what = {"id": question.id, "round": question.round, "stem": question.stem, "kind": question.kind}
    return what | {"region": question.region, "box": list(question.box)}


def _told(pixels: np.ndarray, matrix: np.ndarray) -> dict[str, Any]:
    return {"pixels": int(pixels.sum()), "agreement": share_agreed(matrix)}


def _classes(matrix: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """For each value: its share of all votes, and the share of these that others give too."""
    of_value, total = matrix.sum(axis=1), matrix.sum()
    there = np.flatnonzero(of_value)
    agreed = np.diag(matrix)[there] / of_value[there]
    order = np.argsort(agreed, kind="stable")
    return {names[there[i]]: {"share": float(of_value[there[i]] / total), "agreement": float(agreed[i])} for i in order}


def _confused(matrix: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Pairs of values that were given to the same pixels, with their share of all votes."""
    ones, others = np.nonzero(np.triu(matrix, 1))
    share = 2 * matrix[ones, others] / matrix.sum()
    order = np.argsort(-share, kind="stable")
    return [{"classes": [names[ones[i]], names[others[i]]], "share": float(share[i])} for i in order]


def _least(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sorts by agreement, the least first, and leaves out full agreement. Of equal ones the larger comes first."""
    differ = [part for part in parts if part["agreement"] < 1]
    return sorted(differ, key=lambda part: (part["agreement"], -part["pixels"]))


class _Seen:
    """One annotator's votes on pixels that others decided too."""

    def __init__(self) -> None:
        self.shared, self.pixels, self.with_others = 0, 0.0, 0.0
        self.decided, self.with_consensus = 0, 0

    def hear(self, votes: np.ndarray, row: int, pixels: np.ndarray, consensus: np.ndarray) -> None:
        """The votes (A,N) of a question of which one row is their own; `consensus` (N,) is what they come to."""
        own = votes[row]
        others = (votes != NO_VOTE).sum(axis=0) - 1
        voted = (own != NO_VOTE) & (others > 0)
        alike = (votes == own).sum(axis=0) - 1
        self.shared += 1
        self.pixels += float(pixels[voted].sum())
        self.with_others += float((alike[voted] / others[voted] * pixels[voted]).sum())
        known = voted & (consensus != NO_VOTE)
        self.decided += int(pixels[known].sum())
        self.with_consensus += int(pixels[known & (own == consensus)].sum())

    def told(self) -> dict[str, Any]:
        return {
            "shared": self.shared,
            "with_others": self.with_others / self.pixels if self.pixels else None,
            "with_consensus": self.with_consensus / self.decided if self.decided else None,
        }
