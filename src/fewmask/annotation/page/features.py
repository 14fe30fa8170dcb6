"""What a network makes of an image, kept in the memory for the page's tools.

Shapes: H×W pixels of an image · h×w pixels of a region's box · a×b cells · C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

Box = tuple[int, int, int, int]
"""y0, x0, y1, x1 in pixels of the image, the ends excluded."""
MARGIN = 2
"""Cells beyond a box that are looked at: what lies between two cells takes from both."""


@dataclass(frozen=True, eq=False)
class Features:
    """What a network makes of an image: a cell of C numbers for each `stride`×`stride` pixels."""

    values: np.ndarray
    """(a,b,C) float16."""
    stride: int
    mean: np.ndarray
    """(C,) float32, over the image: only what differs from it tells things apart."""

    @classmethod
    def of(cls, values: np.ndarray, stride: int) -> Features:
        return cls(values.astype(np.float16), stride, values.reshape(-1, values.shape[2]).mean(0, dtype=np.float32))

    @property
    def bytes(self) -> int:
        return self.values.nbytes


def cells_around(features: Features, box: Box, step: int = 1) -> tuple[np.ndarray, tuple[int, int]]:
    """Every `step`th cell in and around a box, (a,b,C) float16, and the place of the first."""
    s, (rows, columns, _) = features.stride, features.values.shape
    top, left = max(box[0] // s - MARGIN, 0), max(box[1] // s - MARGIN, 0)
    bottom, right = min(-(-box[2] // s) + MARGIN, rows), min(-(-box[3] // s) + MARGIN, columns)
    return features.values[top:bottom:step, left:right:step], (top, left)


def at_pixels(values: np.ndarray, origin: tuple[int, int], first: int, stride: int, box: Box) -> np.ndarray:
    """Values of cells (a,b) at the pixels of a box, (h,w): linear between the cells' centres.

    The first cell is that at `origin`, of `first` pixels a side; from one to the next it is `stride` pixels.
    """
    y0, x0, y1, x1 = box
    # A pixel's centre in cells: that of the first cell lies at (origin + ½) · first.
    down = (y0 + 0.5 - (origin[0] + 0.5) * first) / stride
    across = (x0 + 0.5 - (origin[1] + 0.5) * first) / stride
    place = np.array([[1 / stride, 0, across], [0, 1 / stride, down]], np.float64)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(values, place, (x1 - x0, y1 - y0), flags=flags, borderMode=cv2.BORDER_REPLICATE)
