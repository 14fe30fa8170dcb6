"""Selects a round's questions from the candidates of all domains. The domains share one pool and one budget.

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
    pool_scores: Mapping[str, PoolScores], domains: Mapping[str, Domain], need: Mapping[str, float] | None
) -> Candidates:
    """All domains' candidates as one pool, whose images and classes have consecutive numbers.

    Scores of different label spaces have different scales: log C differs, and so does the mean confidence of a head.
    Each score is therefore divided by the mean score of its domain's regions and multiplied by the domain's need. One
    domain alone keeps its scores. So do all domains where `need` is None, because random scores have one scale.
    """
    parts, images, classes = [], 0, 0
    for k, (name, domain) in enumerate(domains.items()):
        part = pool_scores[name].candidates if name in pool_scores else None
        if part is not None and len(part):
            score = part.score
            if need is not None and len(domains) > 1:
                mean = pool_scores[name].score_sum / pool_scores[name].score_count
                score = (score * (need[name] / mean if mean > 0 else 1.0)).astype(np.float32)
            group = np.where(part.group >= 0, part.group + classes, -1).astype(np.int16)
            owner = np.full(len(part), k, np.int16)
            parts.append(replace(part, image=part.image + images, group=group, score=score, domain=owner))
        images += len(domain.splits["train"])
        classes += domain.space.num_classes
    return concatenate(parts)


def questions(
    pool_scores: Mapping[str, PoolScores],
    domains: Mapping[str, Domain],
    settings: AskSettings,
    earlier: Sequence[Question],
    cost: CostModel,
    need: Mapping[str, float],
    cache: Path,
    rng: np.random.Generator,
) -> list[Question]:
    """The questions of a round, in the order of asking. The list is empty where nothing is left to ask.

    `pool_scores` holds the scores of each domain's pool, `earlier` the questions of earlier rounds.
    """
    if not any(len(scores.candidates) for scores in pool_scores.values()):
        return []
    by_chance = known_scores()[settings.score].needs_rng
    pool, budget = ranked_together(pool_scores, domains, None if by_chance else need), settings.budget
    pool = replace(pool, cost=cost.cost(parse_regions(settings.regions).kind, pool.cost, budget.unit))
    # All embeddings come from one network, so that they lie in one space.
    embeddings = [scores.covered for scores in pool_scores.values() if scores.covered is not None]
    covered = np.concatenate(embeddings) if embeddings else None
    limit = Budget(budget.amount, budget.unit, budget.per)
    chosen = select(pool, limit, settings.balance, rng=rng, covered=covered)
    return _QuestionMaker(pool, domains, settings, earlier, cache).all(chosen)


@dataclass(frozen=True)
class _QuestionMaker:
    """Makes questions from the selected candidates."""

    pool: Candidates
    domains: Mapping[str, Domain]
    settings: AskSettings
    earlier: Sequence[Question]
    cache: Path

    def all(self, chosen: np.ndarray) -> list[Question]:
        by_image = chosen[np.argsort(self.pool.image[chosen], kind="stable")]
        changes = np.flatnonzero(np.diff(self.pool.image[by_image])) + 1
        questions_by_row = dict[int, Question]()
        for rows in np.split(by_image, changes):
            if len(rows):
                questions_by_row.update(zip(rows.tolist(), self._of_image(rows), strict=True))
        return [questions_by_row[row] for row in chosen.tolist()]

    def _of_image(self, rows: np.ndarray) -> Iterator[Question]:
        """The questions about candidates of one image."""
        pool = self.pool
        assert pool.domain is not None
        domains, k = list(self.domains.values()), int(pool.domain[rows[0]])
        domain, preceding = domains[k], domains[:k]
        stem = domain.splits["train"][int(pool.image[rows[0]]) - sum(len(d.splits["train"]) for d in preceding)]
        first_class = sum(d.space.num_classes for d in preceding)
        image = domain.image(stem)
        regions = tile(domain, stem, image, parse_regions(self.settings.regions), self.cache)
        unavailable = _unavailable_pixels(domain, stem, image, self.earlier)
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


def _unavailable_pixels(domain: Domain, stem: str, image: np.ndarray, earlier: Sequence[Question]) -> np.ndarray:
    """The pixels (H,W) bool of an image that are labelled, or were asked for."""
    pixels = asked_pixels([q for q in earlier if (q.domain, q.stem) == (domain.name, stem)], image.shape[:2])
    return pixels | (domain.mask(stem) != NOT_LABELLED) if stem in domain.partial else pixels


def no_question_reason(
    by_domain: Mapping[str, Candidates],
    domains: Mapping[str, Domain],
    answerable: Mapping[str, frozenset[str]],
    settings: AskSettings,
    earlier: Sequence[Question],
    cost: CostModel,
) -> str:
    """Why a budget buys no question though pixels are open, and the fix, as `key: …`.

    The text is empty where the budget is 0 or no pixel is open. `answerable` holds, by domain, the images that the
    annotator can answer about.
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
    answerable_images = [
        stem in answerable[name]
        for name, domain in domains.items()
        for stem in domain.unlabelled
        if not _unavailable_pixels(domain, stem, domain.image(stem), earlier).all()
    ]
    if any(answerable_images):
        return f"border: false leaves out every open region of {regions}; set true, or take smaller regions"
    if answerable_images:
        return "budget: the oracle has no mask for the open pixels; add masks, or set campaign.annotator: people"
    return ""


def domains_without_label(selected: Sequence[Question], domains: Mapping[str, Domain]) -> list[str]:
    """The domains that have no label and would get none from the selected questions."""
    return [name for name, d in domains.items() if not d.labelled and all(q.domain != name for q in selected)]
