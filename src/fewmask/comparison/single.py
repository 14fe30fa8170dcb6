"""How sure the scores of a single run are: what other images of the same kind would give for the same network.

    se²       Var_r(score over draw r of the images, with replacement)
    interval  score ± t(N − 1)·se, within 0 … 1

The luck of the seed is not in it: one run cannot tell that.

Shapes: N images · C classes · R draws · F figures: mIoU and each class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fewmask.comparison.runs import finished_run
from fewmask.comparison.statistics import Array, estimate, means, redrawn
from fewmask.randomness import generator
from fewmask.runs import ImageCounts

DRAWS = 2000
Ends = tuple[float, float]


@dataclass(frozen=True)
class DomainIntervals:
    """95 % intervals of one domain's scores; None where fewer than two images show what is scored."""

    images: int
    miou: Ends | None
    iou: Mapping[str, Ends | None]


@dataclass(frozen=True)
class Intervals:
    """95 % intervals of a run's scores."""

    images: int
    avg_miou: Ends | None
    domains: Mapping[str, DomainIntervals]


def score_intervals(folder: Path, draws: int = DRAWS) -> Intervals | None:
    """The intervals of a finished run; None where it has no `scores.npz`. Raises ValueError for a damaged one."""
    run = finished_run(folder)
    if not run.counts:
        return None
    found, every = {}, []
    for row, (name, scores) in enumerate(run.summary["domains"].items()):
        drawn = _draws(run.counts[name], draws, row)
        values = np.array([scores["miou"], *scores["iou"].values()], float)
        images, shown = len(run.counts[name].stems), (run.counts[name].counts[:, :, 1] > 0).sum(0)
        ends = _ends(values, drawn, np.array([images, *shown]))
        found[name] = DomainIntervals(images, ends[0], dict(zip(scores["iou"], ends[1:], strict=True)))
        every.append(drawn[:, 0])
    images = sum(one.images for one in found.values())
    average = np.array([run.summary["avg_miou"]], float)
    known = all(one.miou is not None for one in found.values())
    (mean,) = _ends(average, np.mean(every, 0)[:, None], np.array([images - len(found) + 1])) if known else (None,)
    return Intervals(images, mean, found)


def _draws(found: ImageCounts, draws: int, row: int) -> Array:
    """(R,F)"""
    iou = redrawn(found.counts, draws, generator(0, "report", 0, row))
    return np.concatenate([means(iou, np.ones((1, iou.shape[1]))), iou], 1)


def _ends(values: Array, drawn: Array, images: np.ndarray) -> list[Ends | None]:
    interval = estimate(values[None], drawn[None], images, generator(0, "report", 2)).interval
    known = (images > 1) & ~np.isnan(interval).any(1)
    return [
        (float(max(low, 0.0)), float(min(high, 1.0))) if told else None
        for (low, high), told in zip(interval, known, strict=True)
    ]
