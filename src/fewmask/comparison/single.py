"""Intervals for the scores of a single run, over the images: how the same network may score on other images of the
same kind.

    se²       Var_r(score over draw r of the images, with replacement)
    interval  score ± t(N − 1)·se, within 0 … 1

The interval does not include the variance over seeds, which a single run does not show. It draws images independently
of each other. Where images are alike, such as the frames of a video, it is too narrow.

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
    """95 % intervals of one domain's scores; None for a figure that fewer than two images show."""

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
    """The intervals of a finished run; None if it has no `scores.npz`. Raises ValueError for a damaged file."""
    run = finished_run(folder)
    if not run.counts:
        return None
    intervals, drawn_miou = {}, []
    for row, (name, scores) in enumerate(run.summary["domains"].items()):
        drawn = _draws(run.counts[name], draws, row)
        values = np.array([scores["miou"], *scores["iou"].values()], float)
        images, images_per_class = len(run.counts[name].stems), (run.counts[name].counts[:, :, 1] > 0).sum(0)
        ends = _ends(values, drawn, np.array([images, *images_per_class]))
        intervals[name] = DomainIntervals(images, ends[0], dict(zip(scores["iou"], ends[1:], strict=True)))
        drawn_miou.append(drawn[:, 0])
    images = sum(domain.images for domain in intervals.values())
    average = np.array([run.summary["avg_miou"]], float)
    all_known = all(domain.miou is not None for domain in intervals.values())
    (mean,) = (
        _ends(average, np.mean(drawn_miou, 0)[:, None], np.array([images - len(intervals) + 1]))
        if all_known
        else (None,)
    )
    return Intervals(images, mean, intervals)


def _draws(counts: ImageCounts, draws: int, row: int) -> Array:
    """The figures of each draw (R,F)."""
    iou = redrawn(counts.counts, draws, generator(0, "report", 0, row))
    return np.concatenate([means(iou, np.ones((1, iou.shape[1]))), iou], 1)


def _ends(values: Array, drawn: Array, images: np.ndarray) -> list[Ends | None]:
    interval = estimate(values[None], drawn[None], images, generator(0, "report", 2)).interval
    defined = (images > 1) & ~np.isnan(interval).any(1)
    return [
        (float(max(low, 0.0)), float(min(high, 1.0))) if is_defined else None
        for (low, high), is_defined in zip(interval, defined, strict=True)
    ]
