"""Smart select: a person points at an object, and the area whose features are similar is selected.

It needs no classes, so that it works on objects that the network has never seen. The similarity of each cell of
features to the cells pointed at is enlarged to the image and aligned with its edges by a guided filter. The result is a
score for each pixel. The page applies a threshold, which the person moves.

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
from fewmask.annotation.page.guided_filter import GuidedFilter
from fewmask.formats.bands import as_rgb

MOST_CELLS = 2**14
"""The most cells of a region that are compared. Of a larger region every second cell is compared, or every third."""
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
    aligned = GuidedFilter(as_rgb(image[y0:y1, x0:x1]), max(stride, 2))

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
        return aligned(similar)

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
