"""Polygons and colours as pixels.

Shapes: P points · H×W pixels of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

MAX_CROSSINGS = 2_000_000
"""How many rows of pixels a polygon's edges may cross. A polygon that people draw crosses a few thousand."""
FARTHEST = 1 << 31
"""The largest distance, in pixels, of a point from the image's corner."""
CROSSING = 16
"""The number of pixels that are painted in the time that one crossing takes."""


@dataclass(frozen=True)
class Painted:
    """The result of painting a shape."""

    pixels: int
    work: int
    """The cost of painting, in pixels."""


def fill_polygon(points: np.ndarray, mask: np.ndarray, value: int) -> Painted:
    """Paint a value on the pixels of a mask (H,W) whose centres lie in a polygon (P,2) of x, y.

    The polygon is clipped to the mask. The pixel at column 0 of row 0 is the square from (0, 0) to (1, 1), so its
    centre is (0.5, 0.5). Where the outline crosses itself, the even-odd rule holds. Raises ValueError for fewer than
    three points, and for more than can be drawn.
    """
    return fill_rings([points], mask, value)


def fill_rings(rings: Sequence[np.ndarray], mask: np.ndarray, value: int) -> Painted:
    """Paint several outlines together by the even-odd rule: an outline inside another is a hole. See `fill_polygon`."""
    for points in rings:
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
            raise ValueError(f"a polygon of {len(points)} points; it needs three or more, each two finite numbers")
        if np.abs(points).max() > FARTHEST:
            raise ValueError(f"a polygon with a point at {np.abs(points).max():.3g}; keep points near the image")
    height, width = mask.shape
    x0, y0 = np.concatenate(rings).T
    x1, y1 = np.concatenate([np.roll(points, -1, axis=0) for points in rings]).T
    upper, lower = np.minimum(y0, y1), np.maximum(y0, y1)
    first, last = (np.clip(np.ceil(y - 0.5), 0, height).astype(np.int64) for y in (upper, lower))
    rows = last - first
    if rows.sum() > MAX_CROSSINGS:
        raise ValueError(f"a polygon of {len(x0)} points whose edges cross {rows.sum()} rows; draw a simpler one")
    if not rows.any():
        return Painted(0, len(x0))
    top, bottom = int(first[rows > 0].min()), int(last.max())
    edge = np.repeat(np.arange(len(rows)), rows)
    row = np.arange(edge.size) - np.repeat(np.cumsum(rows) - rows, rows) + first[edge]
    slope = (x1 - x0)[edge] / (y1 - y0)[edge]
    column = np.clip(np.ceil(x0[edge] + (row + 0.5 - y0[edge]) * slope - 0.5), 0, width).astype(np.int64)
    left, right = int(column.min()), int(column.max())
    wide = right - left + 1
    flips = np.bincount((row - top) * wide + column - left, minlength=(bottom - top) * wide)
    inside = np.cumsum(flips.reshape(-1, wide), axis=1)[:, :-1] & 1
    mask[top:bottom, left:right][inside.astype(bool)] = value
    return Painted(int(inside.sum()), len(x0) + CROSSING * edge.size + inside.size)


def recode(picture: np.ndarray, values: Mapping[int, int]) -> tuple[np.ndarray, list[int]]:
    """Replace the codes of a picture's pixels by their values. Returns the values (H,W) uint8 and the sorted codes.

    The codes of one channel (H,W) uint8 are the pixels. The codes of colours (H,W,3) uint8 are R + 256·G + 65536·B, as
    in COCO's panoptic PNGs. A code without a value becomes 0; the caller has to check the returned codes for those.
    Masks are smooth, so each run of equal pixels is looked up once.
    """
    colours = picture.ndim == 3
    flat = (cv2.cvtColor(picture, cv2.COLOR_RGB2RGBA).view(np.int32) if colours else picture).reshape(-1)
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    codes, run = np.unique(flat[starts] & (0xFFFFFF if colours else 0xFF), return_inverse=True)
    values_of_codes = [values.get(code) for code in codes.tolist()]
    new_values = np.array([0 if value is None else value for value in values_of_codes], np.uint8)
    return np.repeat(new_values[run], np.diff(starts, append=flat.size)).reshape(picture.shape[:2]), codes.tolist()
