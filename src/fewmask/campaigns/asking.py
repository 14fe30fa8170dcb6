"""Selects a round's questions from the candidates of all domains, which share one pool and one budget.

Shapes: N candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fewmask.acquisition.budget import Budget, CostModel, buys_nothing
from fewmask.acquisition.regions import parse_regions
from fewmask.acquisition.scores import known_scores
from fewmask.acquisition.selection import Candidates, concatenate, select
from fewmask.annotation.questions import Question
from fewmask.config import AskSettings
from fewmask.data.domain import Domain
from fewmask.engine.pool import asked_pixels, tile
from fewmask.engine.pool_scores import PoolScores
from fewmask.labels import NOT_LABELLED


def ranked_together(
    found: Mapping[str, PoolScores], domains: Mapping[str, Domain], need: Mapping[str, float] | None
) -> Candidates:
    """All domains' candidates as one pool, with images and classes numbered through.

    Scores of different label spaces are no numbers of one scale: log C differs, and so does how sure a head is on the
    whole. Each is therefore divided by the mean score of its domain's regions, and weighed by how much the domain needs
    labels. With one domain nothing changes, nor where `need` is None: scores drawn by chance are of one scale.
    """
    parts, images, classes = [], 0, 0
    for k, (name, domain) in enumerate(domains.items()):
        part = found[name].candidates if name in found else None
        if part is not None and len(part):
            score = part.score
            if need is not None and len(domains) > 1:
                mean = found[name].score_sum / found[name].score_count
                score = (score * (need[name] / mean if mean > 0 else 1.0)).astype(np.float32)
            group = np.where(part.group >= 0, part.group + classes, -1).astype(np.int16)
            owner = np.full(len(part), k, np.int16)
            parts.append(replace(part, image=part.image + images, group=group, score=score, domain=owner))
        images += len(domain.splits["train"])
        classes += domain.space.num_classes
    return concatenate(parts)


def questions(
    found: Mapping[str, PoolScores],
    domains: Mapping[str, Domain],
    settings: AskSettings,
    before: Sequence[Question],
    cost: CostModel,
    need: Mapping[str, float],
    cache: Path,
    rng: np.random.Generator,
) -> list[Question]:
    """The questions of a round, in the order of asking; none where there is nothing left to ask.

    `found` holds the scores of each domain's pool, `before` the questions of earlier rounds.
    """
    if not any(len(one.candidates) for one in found.values()):
        return []
    by_chance = known_scores()[settings.score].needs_rng
    pool, budget = ranked_together(found, domains, None if by_chance else need), settings.budget
    pool = replace(pool, cost=cost.cost(parse_regions(settings.regions).kind, pool.cost, budget.unit))
    # An embedding is of one network, so that all domains' lie in one space.
    known = [one.covered for one in found.values() if one.covered is not None]
    covered = np.concatenate(known) if known else None
    limit = Budget(budget.amount, budget.unit, budget.per)
    chosen = select(pool, limit, settings.balance, rng=rng, covered=covered)
    return _Asking(pool, domains, settings, before, cache).all(chosen)


@dataclass(frozen=True)
class _Asking:
    """Makes questions of chosen candidates."""

    pool: Candidates
    domains: Mapping[str, Domain]
    settings: AskSettings
    before: Sequence[Question]
    cache: Path

    def all(self, chosen: np.ndarray) -> list[Question]:
        by_image = chosen[np.argsort(self.pool.image[chosen], kind="stable")]
        changes = np.flatnonzero(np.diff(self.pool.image[by_image])) + 1
        asked = dict[int, Question]()
        for rows in np.split(by_image, changes):
            if len(rows):
                asked.update(zip(rows.tolist(), self._of_image(rows), strict=True))
        return [asked[row] for row in chosen.tolist()]

    def _of_image(self, rows: np.ndarray) -> Iterator[Question]:
        """The questions about candidates of one image."""
        pool = self.pool
        assert pool.domain is not None
        domains, k = list(self.domains.values()), int(pool.domain[rows[0]])
        domain, before = domains[k], domains[:k]
        stem = domain.splits["train"][int(pool.image[rows[0]]) - sum(len(d.splits["train"]) for d in before)]
        first_class = sum(d.space.num_classes for d in before)
        image = domain.image(stem)
        regions = tile(domain, stem, image, parse_regions(self.settings.regions), self.cache)
        unavailable = _unavailable_pixels(domain, stem, image, self.before)
        for row in rows.tolist():
            region, group = int(pool.region[row]), int(pool.group[row])
            y0, x0, y1, x1 = box = regions.box(region)
            inside = (regions.map[y0:y1, x0:x1] == region) & ~unavailable[y0:y1, x0:x1]
            yield Question(
                domain.name,
                stem,
                regions.spec,
                region,
                box,
                score=float(pool.score[row]),
                cost=float(pool.cost[row]),
                shape=None if inside.all() else inside,
                guess=group - first_class if group >= 0 else None,
            )


def _unavailable_pixels(domain: Domain, stem: str, image: np.ndarray, before: Sequence[Question]) -> np.ndarray:
    """The pixels (H,W) bool of an image that are labelled, or were asked for."""
    pixels = asked_pixels([q for q in before if (q.domain, q.stem) == (domain.name, stem)], image.shape[:2])
    return pixels | (domain.mask(stem) != NOT_LABELLED) if stem in domain.partial else pixels


def why_nothing(
    by_domain: Mapping[str, Candidates],
    domains: Mapping[str, Domain],
    answerable: Mapping[str, frozenset[str]],
    settings: AskSettings,
    before: Sequence[Question],
    cost: CostModel,
) -> str:
    """Why a budget buys no question though pixels are open, and the fix, as `key: …`; empty where it is 0 or none is.

    `answerable` are, by domain, the images that the annotator can answer about.
    """
    budget, regions = settings.budget, settings.regions
    if not budget.amount:
        return ""
    if sizes := [part.cost for part in by_domain.values() if len(part)]:
        cheapest = cost.cost(parse_regions(regions).kind, np.concatenate(sizes), budget.unit).min()
        each = " an image" if budget.per == "image" else ""
        return (
            f"budget: {buys_nothing(budget.amount, budget.unit, each)}, the cheapest of {regions} costs "
            f"{cheapest:g}; raise it or take smaller regions"
        )
    left = [
        stem in answerable[name]
        for name, domain in domains.items()
        for stem in domain.unlabelled
        if not _unavailable_pixels(domain, stem, domain.image(stem), before).all()
    ]
    if any(left):
        return f"border: false leaves out every open region of {regions}; set true, or take smaller regions"
    if left:
        return "budget: the oracle has no mask for what is open; add masks, or set campaign.annotator: people"
    return ""


def bare(asked: Sequence[Question], domains: Mapping[str, Domain]) -> list[str]:
    """Domains that have no label and would get none."""
    return [name for name, d in domains.items() if not d.labelled and all(q.domain != name for q in asked)]
