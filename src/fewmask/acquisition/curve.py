"""The learning curve: how many more labels a target mIoU needs, with the uncertainty of that number.

    mIoU(n) = a − b·n^(−c),   0 ≤ a ≤ 1,  b ≥ 0,  0.05 ≤ c ≤ 2        n labels, in any unit of cost

The point estimate is least squares. The uncertainty is the posterior over curves, summed on a grid. There are three
parameters and often only four or five rounds. A bootstrap of so few points mostly repeats them and underestimates the
scatter. A covariance linearises a curve whose bounds matter (a ≤ 1). The grid respects the bounds and needs no
generator. Its prior is flat over the curve's height at the first and the last point, and over log c. The variance of
the runs is unknown. Its prior expectation (`noise`) weighs as much as 3 points: without it, three points that happen to
lie on a curve would look certain.

Shapes: n points · G curves of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

STEEPNESS = (0.05, 2.0)  # of c
NOISE_WEIGHT = 3.0
HEIGHTS, EXPONENTS = 41, 32  # of the grid


@dataclass(frozen=True, eq=False)
class Curve:
    """`a`, `b`, `c` are the least-squares estimate; intervals come from the posterior's curves."""

    a: float
    b: float
    c: float
    _unit: float = field(repr=False)
    """Labels of the first point, in which the posterior counts n."""
    _curves: np.ndarray = field(repr=False)
    """a, b, c and weight of the posterior's curves, (4,G); the weights sum to 1."""

    def __call__(self, n: float) -> float:
        """The estimated mIoU after n labels."""
        return float(self.a - self.b * n**-self.c)

    def interval(self, n: float, level: float = 0.8) -> tuple[float, float, float]:
        """(low, median, high) of the curve's mIoU after n labels."""
        return _quantiles(self._heights(n), self._curves[3], level)

    def needed(self, target: float, level: float = 0.8) -> tuple[float, float, float]:
        """(low, median, high) of the labels, in total, that a target mIoU needs; inf where it is out of reach."""
        a, b, c, weight = self._curves
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            n = self._unit * (b / (a - target)) ** (1 / c)
        return _quantiles(np.where(a > target, n, np.where((b == 0) & (a == target), 0.0, np.inf)), weight, level)

    def limit(self, level: float = 0.8) -> tuple[float, float, float]:
        """(low, median, high) of the mIoU in the limit of infinitely many labels, the curve's a."""
        return _quantiles(self._curves[0], self._curves[3], level)

    def gain(self, n: float, more: float) -> float:
        """The mIoU that `more` labels are expected to add to n."""
        return float(self._curves[3] @ (self._heights(n + more) - self._heights(n)))

    def gain_interval(self, n: float, more: float, level: float = 0.8) -> tuple[float, float, float]:
        """(low, median, high) of the mIoU that `more` labels add to n."""
        return _quantiles(self._heights(n + more) - self._heights(n), self._curves[3], level)

    @property
    def flat(self) -> bool:
        """The best curve does not rise: the points show no effect of the labels, and a, b, c describe nothing."""
        return self.b == 0

    def _heights(self, n: float) -> np.ndarray:
        a, b, c, _ = self._curves
        heights: np.ndarray = a - b * (n / self._unit) ** -c
        return heights


def fit_curve(
    costs: Sequence[float], scores: Sequence[float], weights: Sequence[float] | None = None, noise: float = 0.01
) -> Curve | None:
    """The curve through (labels, mIoU) points, mIoU as fractions. None where there are fewer than three different
    costs, since the curve has three parameters.

    `weights`: how many runs a point is the mean of. `noise`: the expected standard deviation of one run's mIoU.
    Raises ValueError for numbers that cannot be such points.
    """
    n, y = np.asarray(costs, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    w = np.ones_like(n) if weights is None else np.asarray(weights, dtype=np.float64)
    if not n.shape == y.shape == w.shape or n.ndim != 1:
        raise ValueError(f"{n.shape} costs, {y.shape} scores and {w.shape} weights; give one of each a point")
    if not (np.isfinite(n).all() and (n > 0).all()):
        raise ValueError(f"costs {n.tolist()}; each must be above 0")
    if not ((y >= 0) & (y <= 1)).all():
        raise ValueError(f"scores {y.tolist()}; give mIoU as fractions, 0 to 1")
    if not (np.isfinite(w).all() and (w > 0).all()) or not 0 < noise < math.inf:
        raise ValueError(f"weights {w.tolist()} and noise {noise}; each must be above 0")
    if len(np.unique(n)) < 3:
        return None
    unit = float(n.min())
    a, b, c = _least_squares(n / unit, y, w)
    return Curve(a, b * unit**c, c, unit, _posterior(n / unit, y, w, noise))


def unexplained_change(
    costs: Sequence[float], scores: Sequence[float], weights: Sequence[float] | None = None, noise: float = 0.01
) -> float | None:
    """The change of the last score, if labels do not explain it. None if they do, and for a first score.

    `costs` do not fall. Labels alone never lower a learning curve. From the fourth different cost on, the curve through
    the earlier points bounds the rise (95 % interval). A change may exceed the bounds by twice the scatter of the two
    runs, which is √2·`noise` for single runs. The arguments are those of `fit`.
    """
    if len(scores) < 2:
        return None
    w = [1.0] * len(scores) if weights is None else list(weights)
    before = fit_curve(costs[:-1], scores[:-1], w[:-1], noise)
    low, high = scores[-2], 1.0
    if before is not None:
        low, _, high = before.interval(costs[-1], 0.95)
    allowed = 2 * noise * math.sqrt(1 / w[-1] + 1 / w[-2])
    return None if low - allowed <= scores[-1] <= high + allowed else scores[-1] - scores[-2]


def _least_squares(u: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[float, float, float]:
    """The best a, b and c: a and b in closed form for each exponent c, c on successively finer grids."""
    low, high = STEEPNESS
    for _ in range(9):
        c = np.linspace(low, high, 129)
        a, b, error = _best_line(u[None] ** -c[:, None], y, w)
        best = int(error.argmin())
        low, high = c[max(best - 1, 0)], c[min(best + 1, len(c) - 1)]
    return float(a[best]), float(b[best]), float(c[best])


def _best_line(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """a, b and the weighted squared error (E,) of the best y = a − b·x with a ≤ 1, b ≥ 0, for x (E,n).

    The error is a parabola. So if the best line violates the bounds, the better of the lines on the bounds is the best.
    """
    total = w.sum()
    mean_x, mean_y = x @ w / total, float(y @ w / total)
    spread = ((x - mean_x[:, None]) ** 2) @ w
    free_b = -((x - mean_x[:, None]) * (y - mean_y)) @ w / spread
    free_a = mean_y + free_b * mean_x
    flat = np.full_like(free_b, mean_y), np.zeros_like(free_b)
    full = np.ones_like(free_b), (x * (1 - y)) @ w / (x**2 @ w)
    inside = (free_b >= 0) & (free_a <= 1)
    on_bound = np.where(_error(*flat, x, y, w) <= _error(*full, x, y, w), flat, full)
    a, b = np.where(inside, (free_a, free_b), on_bound)
    return a, b, _error(a, b, x, y, w)


def _error(a: np.ndarray, b: np.ndarray, x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    error: np.ndarray = ((a[..., None] - b[..., None] * x - y) ** 2) @ w
    return error


def _posterior(u: np.ndarray, y: np.ndarray, w: np.ndarray, noise: float) -> np.ndarray:
    """a, b, c and weight (4,G): a grid over the heights at the first and the last point and over log c.

    The runs' variance has a scaled inverse χ² prior and is integrated out, which leaves
    (NOISE_WEIGHT · noise² + squared error)^(−(n + NOISE_WEIGHT)/2). The range of heights at the last point depends on
    the height at the first point and on the exponent (b ≥ 0, a ≤ 1). So the grid divides the range of each curve, and
    weighs a curve by the length of its range.
    """
    c = np.geomspace(*STEEPNESS, EXPONENTS)
    x = u[None] ** -c[:, None]
    error = _best_line(x, y, w)[2].min()
    sigma = math.sqrt((NOISE_WEIGHT * noise**2 + error) / (len(y) + NOISE_WEIGHT))
    at_first, at_last = (float(y[u == edge] @ w[u == edge] / w[u == edge].sum()) for edge in (1.0, u.max()))
    first = np.linspace(max(0.0, at_first - 6 * sigma), min(1.0, at_first + 6 * sigma), HEIGHTS)
    fraction = (np.arange(HEIGHTS) + 0.5) / HEIGHTS
    c, first, fraction = (g.reshape(-1) for g in np.meshgrid(c, first, fraction, indexing="ij"))
    travelled = 1 - u.max() ** -c  # the fraction of the way from the first point to a
    low = np.maximum(first, max(0.0, at_last - 6 * sigma))
    high = np.minimum(first + (1 - first) * travelled, min(1.0, at_last + 6 * sigma))
    allowed = high > low
    c, first, fraction, travelled, low, high = (v[allowed] for v in (c, first, fraction, travelled, low, high))
    b = (low + fraction * (high - low) - first) / travelled
    a = np.minimum(first + b, 1.0)  # only rounding can exceed 1
    error = _error(a, b, u[None] ** -c[:, None], y, w)
    likelihood = np.log(NOISE_WEIGHT * noise**2 + error) * (-(len(y) + NOISE_WEIGHT) / 2) + np.log(high - low)
    weight = np.exp(likelihood - likelihood.max())
    kept = weight > 1e-6
    return np.stack([a, b, c, weight])[:, kept] / np.array([1, 1, 1, weight[kept].sum()])[:, None]


def _quantiles(values: np.ndarray, weights: np.ndarray, level: float) -> tuple[float, float, float]:
    assert 0 < level < 1
    order = np.argsort(values)
    share = np.cumsum(weights[order])
    low, median, high = (
        float(values[order[min(int(np.searchsorted(share, q)), len(order) - 1)]])
        for q in ((1 - level) / 2, 0.5, (1 + level) / 2)
    )
    return low, median, high
