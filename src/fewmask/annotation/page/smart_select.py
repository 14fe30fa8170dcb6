"""Smart select: a person points at an object, and the area whose features are similar is selected.

It needs no classes, so that it works on objects that the network has never seen. The similarity of each cell of
features to the cells pointed at is enlarged to the image and aligned with its edges by a guided filter (He et al., ECCV
2010). The result is a score for each pixel. The page applies a threshold, which the person moves.

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
from fewmask.formats.bands import as_rgb

MOST_CELLS = 2**14
"""The most cells of a region that are compared. Of a larger region every second cell is compared, or every third."""
EPSILON = 2e-3
"""The guided filter's epsilon: a smaller variance of the picture (in 0–1) counts as no edge."""
MOST_PIXELS = 2**18
"""The most pixels at which the filter's coefficients are computed. For a larger region they are enlarged (He and Sun,
2015)."""
SCORES = 255
THRESHOLD = 110
"""The threshold of scores unless the person moves it: single clicks on CamVid were right most often with it."""
MOST_POINTS = 64


Pixel = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]


class Point(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    y: Pixel
    x: Pixel
    belongs: bool = True
    """Whether the point belongs to the object that is meant."""


class Frame(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    top: Pixel
    left: Pixel
    bottom: Pixel
    right: Pixel


class Prompt(BaseModel):
    """The points and the frame that the person gave, in pixels of the region's box."""

    model_config = ConfigDict(extra="forbid", strict=True)

    points: list[Point] = Field(max_length=MOST_POINTS)
    frame: Frame | None = None
    """A frame around the object that is meant. Without a point, its middle is the point."""


@dataclass(frozen=True, eq=False)
class Scores:
    values: np.ndarray
    """(h,w) uint8: the similarity of each pixel to the points."""
    threshold: int
    """The score from which on a pixel is selected, unless the person moves the threshold."""


class Selector(Protocol):
    """Computes selections in an image (H,W,3) uint8 that `read` gives. Threads may call it at once."""

    def prepare(self, key: Key, read: Read) -> None:
        """Start to compute what the first selection in an image needs. Returns at once."""
        ...

    def select(self, key: Key, read: Read, box: Box, prompt: Prompt) -> Scores:
        """The scores of a region's box."""
        ...

    def close(self) -> None: ...


class ByFeatures:
    """A selector by the features of a network."""

    def __init__(self, encode: Callable[[str, np.ndarray], Features]) -> None:
        self.features = Ahead(encode, lambda features: features.bytes)

    def prepare(self, key: Key, read: Read) -> None:
        """See `Selector`."""
        self.features.begin(key, read)

    def select(self, key: Key, read: Read, box: Box, prompt: Prompt) -> Scores:
        """See `Selector`."""
        return select(self.features.get(key, read), box, prompt, read())

    def close(self) -> None:
        self.features.close()


def select(features: Features, box: Box, prompt: Prompt, image: np.ndarray) -> Scores:
    """The scores of a region's box by the features of its image (H,W,C) uint8."""
    y0, x0, y1, x1 = box
    points = prompt.points or [_middle(prompt.frame, box)]
    cells, origin, step = _compared(features, box)
    stride = features.stride * step

    def alike(belongs: bool) -> np.ndarray | None:
        """The similarity of each pixel to the points that belong to the object, or to the other points."""
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
        return guided(as_rgb(image[y0:y1, x0:x1]), similar, max(stride, 2))

    scores, against = alike(True), alike(False)
    if scores is None:
        return Scores(np.zeros((y1 - y0, x1 - x0), np.uint8), SCORES)
    if against is not None:
        scores = np.where(scores >= against, scores, 0)
    values = cv2.convertScaleAbs(np.maximum(scores, 0), alpha=SCORES)
    return Scores(within(values, prompt), THRESHOLD)


def within(values: np.ndarray, prompt: Prompt) -> np.ndarray:
    """The scores (h,w), with 0 outside of the frame of a prompt."""
    if prompt.frame is None:
        return values
    frame = prompt.frame
    top, left, bottom, right = (max(round(side), 0) for side in (frame.top, frame.left, frame.bottom, frame.right))
    inside = np.zeros_like(values)
    inside[top:bottom, left:right] = values[top:bottom, left:right]
    return inside


def _middle(frame: Frame | None, box: Box) -> Point:
    frame = frame or Frame(top=0, left=0, bottom=box[2] - box[0], right=box[3] - box[1])
    return Point(y=(frame.top + frame.bottom) / 2, x=(frame.left + frame.right) / 2)


def _compared(features: Features, box: Box) -> tuple[np.ndarray, tuple[int, int], int]:
    """Cells in and around a box, (a,b,C) float32 of length 1; the position of the first, and the step between them."""
    step = 1
    while (result := cells_around(features, box, step))[0][..., 0].size > MOST_CELLS:
        step += 1
    cells, origin = result
    cells = cells.astype(np.float32) - features.mean
    cells /= np.maximum(np.linalg.norm(cells, axis=2, keepdims=True), 1e-6)
    return cells, origin, step


def guided(picture: np.ndarray, values: np.ndarray, radius: int) -> np.ndarray:
    """Align values (h,w) float32 with the edges of a picture (h,w,3) uint8.

    In each window they become a linear function of the picture's brightness and of its two colour channels.
    """
    guide = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2Lab).astype(np.float32)
    guide *= 1 / 255
    part = min((MOST_PIXELS / values.size) ** 0.5, 1.0)
    small = guide if part == 1 else cv2.resize(guide, None, fx=part, fy=part, interpolation=cv2.INTER_AREA)
    target = cv2.resize(values, small.shape[1::-1], interpolation=cv2.INTER_AREA) if part < 1 else values
    side = 2 * max(round(radius * part), 1) + 1

    def mean(channels: np.ndarray) -> np.ndarray:
        return cv2.blur(channels, (side, side), borderType=cv2.BORDER_REFLECT)

    guide_mean, target_mean = mean(small), mean(target)
    covariance = mean(small * target[..., None]) - guide_mean * target_mean[..., None]
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    aa, ab, ac, bb, bc, cc = (
        mean(small[..., i] * small[..., j]) - guide_mean[..., i] * guide_mean[..., j] for i, j in pairs
    )
    aa, bb, cc = aa + EPSILON, bb + EPSILON, cc + EPSILON
    # The inverse of a symmetric matrix of 3×3, by its cofactors.
    i00, i01, i02 = bb * cc - bc * bc, ac * bc - ab * cc, ab * bc - ac * bb
    i11, i12, i22 = aa * cc - ac * ac, ab * ac - aa * bc, aa * bb - ab * ab
    size = aa * i00 + ab * i01 + ac * i02
    p, q, r = covariance[..., 0], covariance[..., 1], covariance[..., 2]
    slopes = (
        np.stack([i00 * p + i01 * q + i02 * r, i01 * p + i11 * q + i12 * r, i02 * p + i12 * q + i22 * r], axis=2)
        / size[..., None]
    )
    level = target_mean - (slopes * guide_mean).sum(axis=2)
    slopes, level = mean(slopes), mean(level)
    if part < 1:
        slopes = cv2.resize(slopes, values.shape[::-1], interpolation=cv2.INTER_LINEAR)
        level = cv2.resize(level, values.shape[::-1], interpolation=cv2.INTER_LINEAR)
    # OpenCV makes no arrays of the whole region on the way. This takes most of a click's time in a large region.
    return np.asarray(cv2.transform(cv2.multiply(slopes, guide), np.ones((1, 3), np.float32)) + level)
