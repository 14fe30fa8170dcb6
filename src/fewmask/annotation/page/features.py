"""A network's features of an image, which are kept in memory for the page's tools.

Shapes: H×W pixels of an image · h×w pixels of a region's box · a×b cells · C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

Box = tuple[int, int, int, int]
"""y0, x0, y1, x1 in pixels of the image, without the ends."""
MARGIN = 2
"""The number of cells beyond a box that are used: a pixel between two cells is interpolated from both."""


@dataclass(frozen=True, eq=False)
class Features:
    """A network's features of an image: a cell of C numbers for each `stride`×`stride` pixels."""

    values: np.ndarray
    """(a,b,C) float16."""
    stride: int
    mean: np.ndarray
    """(C,) float32: the mean over the image. Only differences from it distinguish objects."""

    @classmethod
    def of(cls, values: np.ndarray, stride: int) -> Features:
        return cls(values.astype(np.float16), stride, values.reshape(-1, values.shape[2]).mean(0, dtype=np.float32))

    @property
    def bytes(self) -> int:
        return self.values.nbytes


def cells_around(features: Features, box: Box, step: int = 1) -> tuple[np.ndarray, tuple[int, int]]:
    """Every `step`th cell in and around a box, (a,b,C) float16, and the position of the first."""
    s, (rows, columns, _) = features.stride, features.values.shape
    top, left = max(box[0] // s - MARGIN, 0), max(box[1] // s - MARGIN, 0)
    bottom, right = min(-(-box[2] // s) + MARGIN, rows), min(-(-box[3] // s) + MARGIN, columns)
    return features.values[top:bottom:step, left:right:step], (top, left)


def at_pixels(values: np.ndarray, origin: tuple[int, int], first: int, stride: int, box: Box) -> np.ndarray:
    """Interpolate values of cells (a,b) linearly at the pixels of a box, (h,w).

    The first cell is at `origin`, in cells of `first` pixels a side. The distance from one cell to the next is `stride`
    pixels.
    """
    y0, x0, y1, x1 = box
    # The centre of the first cell lies at (origin + ½) · first.
    down = (y0 + 0.5 - (origin[0] + 0.5) * first) / stride
    across = (x0 + 0.5 - (origin[1] + 0.5) * first) / stride
    place = np.array([[1 / stride, 0, across], [0, 1 / stride, down]], np.float64)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(values, place, (x1 - x0, y1 - y0), flags=flags, borderMode=cv2.BORDER_REPLICATE)
