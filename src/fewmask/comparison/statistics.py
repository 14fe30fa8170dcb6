"""Is a difference between two methods larger than chance explains?

There are two sources of variance: the seed, which determines the labelled images and the training, and the images on
which both methods are scored. The two factors are crossed: every network is scored on the same images.

    d_s       the difference of a figure in seed s's pair of runs
    d*_s,r    the same over draw r of the images, with replacement; one draw for all runs
    se²     = Var_s(d_s) / S + Var_r(mean_s d*_s,r)                the sum counts the shared part twice: no interval
                                                                  over crossed draws is exact (Owen 2007)
    interval  mean_s d_s ± t(ν)·se, ν by Welch and Satterthwaite   t accounts for the few seeds
    bootstrap the percentiles over r of the mean of d*_s,r over S seeds drawn with replacement

The second one is Owen's pigeonhole bootstrap. With few seeds it is too narrow, as every percentile bootstrap of few
values is: for S = 3 it sees at most a spread of √(2/3), and no tail. Therefore the verdict uses the first one.

Shapes: S seeds · N images · C classes · P parts of the classes · R draws · F figures.

Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1 (2007). Hesterberg, "What Teachers Should Know About
the Bootstrap", The American Statistician 69 (2015), on small samples. Holm, "A Simple Sequentially Rejective Multiple
Test Procedure", Scandinavian Journal of Statistics 6 (1979).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewmask.runs.counts import iou

Array = NDArray[np.float64]
LEVEL = 0.95
DRAWS_AT_ONCE = 100


def means(scores: Array, parts: np.ndarray) -> Array:
    """Mean IoU (…,P) of each part of the classes (P,C), over the scores (…,C) that are not NaN; NaN for no score."""
    defined = ~np.isnan(scores)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (np.nan_to_num(scores) @ parts.T) / (defined.astype(np.float64) @ parts.T)


def redrawn(counts: np.ndarray, draws: int, rng: np.random.Generator) -> Array:
    """IoU (…,R,C) of counts (…,N,C,3) over `draws` draws of the N images with replacement, the same for all of `…`."""
    *lead, n, c, _ = counts.shape
    by_image = np.moveaxis(counts.reshape(-1, n, c * 3), 1, 0).reshape(n, -1).astype(np.float64)
    blocks = []
    for start in range(0, draws, DRAWS_AT_ONCE):
        weights = rng.multinomial(n, np.full(n, 1 / n), min(DRAWS_AT_ONCE, draws - start)).astype(np.float64)
        blocks.append(iou(np.moveaxis((weights @ by_image).reshape(len(weights), -1, c, 3), 0, 1)))
    return np.concatenate(blocks, 1).reshape(*lead, draws, c)


@dataclass(frozen=True)
class Estimate:
    """For F figures: the mean difference, both intervals (F,2) and the two-sided p of no difference; NaN if unknown."""

    difference: Array
    interval: Array
    bootstrap: Array
    p: Array


def estimate(by_seed: Array, by_draw: Array | None, images: np.ndarray, rng: np.random.Generator) -> Estimate:
    """Estimate the mean difference from the differences by seed (S,F) and by seed and draw (S,R,F).

    `images` (F,) is the number of images behind each figure. Without `by_draw` the intervals hold for other seeds on
    the same images. With a single seed they hold for the same networks on other images. With neither they are NaN.
    """
    from scipy.special import stdtr, stdtrit

    seeds, figures = by_seed.shape
    mean = by_seed.mean(0)
    variances, freedom = [], []
    if seeds > 1:
        variances.append(by_seed.var(0, ddof=1) / seeds)
        freedom.append(np.full(figures, seeds - 1.0))
    if by_draw is not None:
        variances.append(_ignoring_nan(np.nanvar, by_draw.mean(0), ddof=1))
        freedom.append(np.maximum(images - 1.0, 1.0))
    if not variances:
        nothing = np.full((figures, 2), np.nan)
        return Estimate(mean, nothing, nothing, nothing[:, 0])
    each, total = np.stack(variances), np.sum(variances, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        # Two runs that agree in every pixel have no variance, and any ν gives the same interval.
        nu = np.where(total > 0, total**2 / (each**2 / np.stack(freedom)).sum(0), freedom[0])
        t = np.where(mean == 0, 0.0, np.abs(mean) / np.sqrt(total))
    half = stdtrit(nu, (1 + LEVEL) / 2) * np.sqrt(total)
    return Estimate(
        mean, np.stack([mean - half, mean + half], 1), _pigeonhole(by_seed, by_draw, rng), 2 * stdtr(nu, -t)
    )


def _pigeonhole(by_seed: Array, by_draw: Array | None, rng: np.random.Generator, draws: int = 2000) -> Array:
    by_draw = np.repeat(by_seed[:, None], draws, 1) if by_draw is None else by_draw
    seeds, draws, _ = by_draw.shape
    chosen = rng.integers(0, seeds, (seeds, draws))
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    return _ignoring_nan(np.nanquantile, by_draw[chosen, np.arange(draws)].mean(0), q=ends).T


def _ignoring_nan(statistic: Callable[..., Array], values: Array, **options: Any) -> Array:
    """A statistic over the first axis that ignores NaN. A rare class is missing in some draws of the images."""
    empty = np.isnan(values).all(0)
    return np.where(empty, np.nan, statistic(np.where(empty, 0.0, values), axis=0, **options))


def holm(p: Array) -> Array:
    """Holm's adjusted p of a family (F,), ignoring NaN. Rejecting below α keeps the family's chance of any false alarm
    at α or less."""
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted = np.full_like(p, np.nan)
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
