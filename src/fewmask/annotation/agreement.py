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
    """The coincidence matrix (K,K) of votes (A,N), where pattern n was given to `pixels[n]` pixels.

    Cell (c, k) counts how often an annotator gave c and another gave k to the same pixel. Each ordered pair of a pixel
    with m votes counts 1/(m − 1), so that every vote counts once (Krippendorff, Content Analysis, 2004, ch. 11). A
    pixel with fewer than two votes counts nothing. Matrices of regions, images and domains can be added.
    """
    counts = (votes[:, :, None] == np.arange(values)).sum(axis=0).astype(np.float64)  # (N,K)
    votes_of_pixel = counts.sum(axis=1)
    weight = np.where(votes_of_pixel > 1, pixels / np.maximum(votes_of_pixel - 1, 1), 0.0)
    return (counts * weight[:, None]).T @ counts - np.diag(weight @ counts)


def share_agreed(matrix: np.ndarray) -> float | None:
    """The mean share of votes that another annotator gives too; None where no pixel has two votes."""
    total = matrix.sum()
    return float(np.trace(matrix) / total) if total > 0 else None


def alpha(matrix: np.ndarray) -> float | None:
    """Krippendorff's alpha for nominal values: 1 is full agreement, 0 is agreement by chance, below 0 is systematic
    disagreement.

    It is None where it is not defined: where no pixel has two votes, or where all votes have the same value.
    """
    total, of_value = matrix.sum(), matrix.sum(axis=1)
    expected = total**2 - (of_value**2).sum()
    if expected <= 0:
        return None
    return float(1 - (total - np.trace(matrix)) * (total - 1) / expected)


def agreement(ledger: Ledger, domains: Mapping[str, Domain], worst: int = WORST) -> dict[str, Any]:
    """The agreement of a ledger's annotators on the questions that several of them answered, as plain data.

    Fractions are of votes on pixels that at least two annotators decided; they are None where there is no such pixel.
    Classes, pairs of classes, images and regions are sorted by agreement, the least first. Pairs, images and regions
    are at most `worst`, without those of full agreement. Raises ValueError when a domain's classes differ from those
    that it was asked with.
    """
    work = ledger.work()
    records = {name: _AnnotatorRecord() for name in work}
    domain_reports = {}
    for name in ledger.classes():
        ledger.expect(domains[name])
        domain_reports[name] = _of_domain(ledger, domains[name], records, worst)
    return {
        "each": ledger.rule.each,
        "decide": ledger.rule.decide,
        "annotators": {name: asdict(work[name]) | records[name].as_dict() for name in work},
        "domains": domain_reports,
    }


def _of_domain(ledger: Ledger, domain: Domain, records: Mapping[str, _AnnotatorRecord], worst: int) -> dict[str, Any]:
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
            names_ = [answer.annotator for answer in answers]
            of_image.append(
                _question_record(question) | {"annotators": names_} | _shares(count, region) | {"undecided": open_}
            )
            for row, person in enumerate(names_):
                records[person].add(votes[:-1], row, count, votes[-1])
        total += image
        regions += of_image
        if of_image:
            summary = {"stem": stem, "image": str(domain.source.where(stem)), "questions": len(of_image)}
            images.append(summary | {"pixels": sum(r["pixels"] for r in of_image), "agreement": share_agreed(image)})
    return {
        "questions": len(regions),
        "pixels": pixels,
        "undecided": undecided,
        "agreement": share_agreed(total),
        "alpha": alpha(total),
        "trust": dict(trust),
        "classes": _class_agreement(total, names),
        "confused": _confused_pairs(total, names)[:worst],
        "images": _least_agreed(images)[:worst],
        "regions": _least_agreed(regions)[:worst],
    }


def _votes(answers: Sequence[Answer], consensus: Mask, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The patterns of votes on pixels that at least two annotators decided, with the consensus as last row, (A+1,N).

    Also returns the number of pixels (N,) of each pattern.
    """
    votes = as_votes(np.concatenate([stack(answers), consensus[None]]).reshape(len(answers) + 1, -1), classes)
    return patterns(votes[:, (votes[:-1] != NO_VOTE).sum(axis=0) > 1])


def _question_record(question: Question) -> dict[str, Any]:
    record = {"id": question.id, "round": question.round, "stem": question.stem, "kind": question.kind}
    return record | {"region": question.region, "box": list(question.box)}


def _shares(pixels: np.ndarray, matrix: np.ndarray) -> dict[str, Any]:
    return {"pixels": int(pixels.sum()), "agreement": share_agreed(matrix)}


def _class_agreement(matrix: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """For each value, its share of all votes, and the share of these votes that another annotator gives too."""
    of_value, total = matrix.sum(axis=1), matrix.sum()
    given = np.flatnonzero(of_value)
    shares = np.diag(matrix)[given] / of_value[given]
    order = np.argsort(shares, kind="stable")
    return {names[given[i]]: {"share": float(of_value[given[i]] / total), "agreement": float(shares[i])} for i in order}


def _confused_pairs(matrix: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Pairs of values that were given to the same pixels, with their share of all votes."""
    ones, others = np.nonzero(np.triu(matrix, 1))
    share = 2 * matrix[ones, others] / matrix.sum()
    order = np.argsort(-share, kind="stable")
    return [{"classes": [names[ones[i]], names[others[i]]], "share": float(share[i])} for i in order]


def _least_agreed(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort by agreement, the least first, without full agreement. At equal agreement the larger part comes first."""
    differ = [part for part in parts if part["agreement"] < 1]
    return sorted(differ, key=lambda part: (part["agreement"], -part["pixels"]))


class _AnnotatorRecord:
    """One annotator's votes on pixels that others decided too."""

    def __init__(self) -> None:
        self.shared, self.pixels, self.with_others = 0, 0.0, 0.0
        self.decided, self.with_consensus = 0, 0

    def add(self, votes: np.ndarray, row: int, pixels: np.ndarray, consensus: np.ndarray) -> None:
        """Add the votes (A,N) on a question. `row` holds the annotator's own votes, `consensus` (N,) the outcome."""
        own_votes = votes[row]
        other_votes = (votes != NO_VOTE).sum(axis=0) - 1
        shared = (own_votes != NO_VOTE) & (other_votes > 0)
        alike = (votes == own_votes).sum(axis=0) - 1
        self.shared += 1
        self.pixels += float(pixels[shared].sum())
        self.with_others += float((alike[shared] / other_votes[shared] * pixels[shared]).sum())
        comparable = shared & (consensus != NO_VOTE)
        self.decided += int(pixels[comparable].sum())
        self.with_consensus += int(pixels[comparable & (own_votes == consensus)].sum())

    def as_dict(self) -> dict[str, Any]:
        return {
            "shared": self.shared,
            "with_others": self.with_others / self.pixels if self.pixels else None,
            "with_consensus": self.with_consensus / self.decided if self.decided else None,
        }
