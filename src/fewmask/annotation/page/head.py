"""A network's head, and what it predicts for a part of an image from the features that the page keeps.

Shapes: H×W pixels of an image · h×w pixels of a region's box · a×b cells · C channels · K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from fewmask.annotation.page.features import Box, Features, at_pixels, cells_around
from fewmask.annotation.page.guided_filter import GuidedFilter
from fewmask.formats.bands import as_rgb
from fewmask.labels import Mask

RADIUS = 2
"""The radius of the guided filter, in cells: how far a border of a class moves to an edge of the image."""


@dataclass(frozen=True, eq=False)
class Head:
    """A 1×1 convolution: logits = cells · weight + bias."""

    weight: np.ndarray
    """(C,K) float32."""
    bias: np.ndarray
    """(K,) float32."""


@dataclass(frozen=True, eq=False)
class Expected:
    """A head's prediction for a box."""

    label: Mask
    """(h,w) uint8: the most likely class."""
    second: Mask
    """(h,w) uint8: the second most likely class; the most likely one where there is one class alone."""
    probability: np.ndarray
    """(h,w) float32, of the most likely class."""


def interpolated(head: Head, features: Features, box: Box) -> Expected:
    """A head's prediction for a box, as the network makes it: its logits are interpolated linearly between cells."""
    ranking, total = _interpolated(_Logits(head, features, box))
    return Expected(ranking.label, ranking.second, np.exp(ranking.most - total))


def expected(head: Head, features: Features, box: Box, image: np.ndarray) -> Expected:
    """A head's prediction for a box of an image (H,W,C) uint8, aligned with the image's edges.

    The network's classes change somewhere between two cells. The guided filter moves these borders to edges nearby.
    """
    logits = _Logits(head, features, box)
    plain, total = _interpolated(logits)
    aligned = GuidedFilter(as_rgb(image[box[0] : box[2], box[1] : box[3]]), RADIUS * features.stride)
    # The other classes are nowhere likely enough to become the likeliest.
    first, *others = np.union1d(plain.label, plain.second).tolist()
    ranking = _Ranking(first, aligned(np.exp(logits.of(first) - total)))
    for k in others:
        ranking.add(k, aligned(np.exp(logits.of(k) - total)))
    return Expected(ranking.label, ranking.second, ranking.most.clip(0, 1))


def _interpolated(logits: _Logits) -> tuple[_Ranking, np.ndarray]:
    """The classes by their logits, and the logarithm of the sum of their exponentials (h,w)."""
    total = logits.of(0)
    ranking = _Ranking(0, total)
    # One class after the other: all classes of a large region at once would take gigabytes.
    for k in range(1, logits.classes):
        logit = logits.of(k)
        ranking.add(k, logit)
        total = np.logaddexp(total, logit)
    return ranking, total


class _Logits:
    """The logits of a box, a class at a time."""

    def __init__(self, head: Head, features: Features, box: Box) -> None:
        cells, origin = cells_around(features, box)
        self._cells = cells.astype(np.float32) @ head.weight + head.bias
        self._at_pixels = partial(at_pixels, origin=origin, first=features.stride, stride=features.stride, box=box)
        self.classes = len(head.bias)

    def of(self, k: int) -> np.ndarray:
        """(h,w) float32."""
        return self._at_pixels(np.ascontiguousarray(self._cells[..., k]))


class _Ranking:
    """The two classes with the highest values of each pixel, of those added so far."""

    def __init__(self, k: int, values: np.ndarray) -> None:
        """Begin with a class and its values (h,w). It is the second likeliest too until another class is added."""
        self.label = np.full(values.shape, k, np.uint8)
        self.second, self.most = self.label, values
        self._next = np.full_like(values, -np.inf)

    def add(self, k: int, values: np.ndarray) -> None:
        above, between = values > self.most, (values <= self.most) & (values > self._next)
        self.second = np.where(above, self.label, np.where(between, np.uint8(k), self.second))
        self._next = np.where(above, self.most, np.where(between, values, self._next))
        self.label, self.most = np.where(above, np.uint8(k), self.label), np.maximum(self.most, values)
