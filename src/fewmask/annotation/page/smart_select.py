"""Smart select: a person points at something, and what looks like it to a network becomes an area.

No class is asked for, so that it works on classes that the network has never seen. The similarity of each cell of the
network's features to the ones pointed at is brought to the size of the image and its edges, by a guided filter (He et
al., ECCV 2010). What comes out is a score for each pixel; the page cuts it at a threshold, which the person moves.

Shapes: h×w pixels of a region's box · a×b cells of features · C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Protocol

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from fewmask.annotation.page.ahead import Ahead, Key, Read
from fewmask.annotation.page.features import Box, Features, at_pixels, cells_around

MOST_CELLS = 2**14
"""Cells of one region that are compared; of a larger one every second is, or every third."""
EPSILON = 2e-3
"""Of the guided filter: variances of the picture (in 0–1) below it count as no edge."""
MOST_PIXELS = 2**18
"""Pixels at which the filter's coefficients are computed; those of a larger region are enlarged (He and Sun, 2015)."""
SCORES = 255
THRESHOLD = 110
"""Of scores, unless the person moves it: where single clicks on CamVid were right most often."""
MOST_POINTS = 64


Pixel = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]


class Point(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    y: Pixel
    x: Pixel
    belongs: bool = True
    """To what is meant; or it does not."""


class Frame(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    top: Pixel
    left: Pixel
    bottom: Pixel
    right: Pixel


class Prompt(BaseModel):
    """What the person pointed at, in pixels of the region's box."""

    model_config = ConfigDict(extra="forbid", strict=True)

    points: list[Point] = Field(max_length=MOST_POINTS)
    frame: Frame | None = None
    """Around what is meant; without a point, what is in its middle is meant."""


@dataclass(frozen=True, eq=False)
class Scores:
    values: np.ndarray
    """(h,w) uint8: how much each pixel looks like what was pointed at."""
    threshold: int
    """From which score on a pixel belongs to it, unless the person moves it."""


class Selector(Protocol):
    """Who finds what a person points at, in an image that `read` gives, (H,W,3) uint8. Threads may call it at once."""

    def prepare(self, key: Key, read: Read) -> None:
        """Have ready what the first selection in an image would wait for; returns at once."""
        ...

    def select(self, key: Key, read: Read, box: Box, prompt: Prompt) -> Scores:
        """The scores of a region's box."""
        ...

    def close(self) -> None: ...


class ByFeatures:
    """A selector by the features of a network."""

    def __init__(self, encode: Callable[[np.ndarray], Features]) -> None:
        self.features = Ahead(encode, lambda made: made.bytes)

    def prepare(self, key: Key, read: Read) -> None:
        """See `Selector`."""
        self.features.begin(key, read)

    def select(self, key: Key, read: Read, box: Box, prompt: Prompt) -> Scores:
        """See `Selector`."""
        return select(self.features.of(key, read), box, prompt, read())

    def close(self) -> None:
        self.features.close()


def select(features: Features, box: Box, prompt: Prompt, image: np.ndarray) -> Scores:
    """The scores of a region's box by the features of its image (H,W,3) uint8."""
    y0, x0, y1, x1 = box
    points = prompt.points or [_middle(prompt.frame, box)]
    cells, origin, step = _compared(features, box)
    stride = features.stride * step

    def alike(belongs: bool) -> np.ndarray | None:
        """How much each pixel looks like the points that belong to what is meant, or do not."""
        at = [
            (
                int((p.y + y0) / features.stride - origin[0]) // step,
                int((p.x + x0) / features.stride - origin[1]) // step,
            )
            for p in points
            if p.belongs == belongs
        ]
        if not at:
            return None
        rows, columns = np.clip(np.array(at).T, 0, np.array(cells.shape[:2])[:, None] - 1)
        similar = at_pixels((cells @ cells[rows, columns].T).max(axis=2), origin, features.stride, stride, box)
        return guided(image[y0:y1, x0:x1], similar, max(stride, 2))

    scores, against = alike(True), alike(False)
    if scores is None:
        return Scores(np.zeros((y1 - y0, x1 - x0), np.uint8), SCORES)
    if against is not None:
        scores = np.where(scores >= against, scores, 0)
    values = cv2.convertScaleAbs(np.maximum(scores, 0), alpha=SCORES)
    return Scores(within(values, prompt), THRESHOLD)


def within(values: np.ndarray, prompt: Prompt) -> np.ndarray:
    """The scores (h,w) without those beyond the frame of a prompt."""
    if prompt.frame is None:
        return values
    frame = prompt.frame
    top, left, bottom, right = (max(round(side), 0) for side in (frame.top, frame.left, frame.bottom, frame.right))
    found = np.zeros_like(values)
    found[top:bottom, left:right] = values[top:bottom, left:right]
    return found


def _middle(frame: Frame | None, box: Box) -> Point:
    frame = frame or Frame(top=0, left=0, bottom=box[2] - box[0], right=box[3] - box[1])
    return Point(y=(frame.top + frame.bottom) / 2, x=(frame.left + frame.right) / 2)


def _compared(features: Features, box: Box) -> tuple[np.ndarray, tuple[int, int], int]:
    """Cells in and around a box, (a,b,C) float32 of length 1; the place of the first, and every which one it is."""
    step = 1
    while (found := cells_around(features, box, step))[0][..., 0].size > MOST_CELLS:
        step += 1
    cells, origin = found
    cells = cells.astype(np.float32) - features.mean
    cells /= np.maximum(np.linalg.norm(cells, axis=2, keepdims=True), 1e-6)
    return cells, origin, step


def guided(picture: np.ndarray, values: np.ndarray, radius: int) -> np.ndarray:
    """Values (h,w) float32 that follow the edges of a picture (h,w,3) uint8: in each window a linear function of its
    brightness and two of its colours."""
    guide = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2Lab).astype(np.float32)
    guide *= 1 / 255
    part = min((MOST_PIXELS / values.size) ** 0.5, 1.0)
    small = guide if part == 1 else cv2.resize(guide, None, fx=part, fy=part, interpolation=cv2.INTER_AREA)
    target = cv2.resize(values, small.shape[1::-1], interpolation=cv2.INTER_AREA) if part < 1 else values
    side = 2 * max(round(radius * part), 1) + 1

    def mean(of: np.ndarray) -> np.ndarray:
        return cv2.blur(of, (side, side), borderType=cv2.BORDER_REFLECT)

    guide_mean, target_mean = mean(small), mean(target)
    both = mean(small * target[..., None]) - guide_mean * target_mean[..., None]
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    aa, ab, ac, bb, bc, cc = (
        mean(small[..., i] * small[..., j]) - guide_mean[..., i] * guide_mean[..., j] for i, j in pairs
    )
    aa, bb, cc = aa + EPSILON, bb + EPSILON, cc + EPSILON
    # The inverse of a symmetric matrix of 3×3, by its cofactors.
    i00, i01, i02 = bb * cc - bc * bc, ac * bc - ab * cc, ab * bc - ac * bb
    i11, i12, i22 = aa * cc - ac * ac, ab * ac - aa * bc, aa * bb - ab * ab
    size = aa * i00 + ab * i01 + ac * i02
    p, q, r = both[..., 0], both[..., 1], both[..., 2]
    slopes = (
        np.stack([i00 * p + i01 * q + i02 * r, i01 * p + i11 * q + i12 * r, i02 * p + i12 * q + i22 * r], axis=2)
        / size[..., None]
    )
    level = target_mean - (slopes * guide_mean).sum(axis=2)
    slopes, level = mean(slopes), mean(level)
    if part < 1:
        slopes = cv2.resize(slopes, values.shape[::-1], interpolation=cv2.INTER_LINEAR)
        level = cv2.resize(level, values.shape[::-1], interpolation=cv2.INTER_LINEAR)
    # By OpenCV, which makes no arrays of the whole region on the way: it is most of a click in a large one.
    return np.asarray(cv2.transform(cv2.multiply(slopes, guide), np.ones((1, 3), np.float32)) + level)
