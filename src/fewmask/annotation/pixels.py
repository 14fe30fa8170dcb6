"""Polygons and colours as pixels.

Shapes: P points · H×W pixels of an image.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from fewmask.labels import Mask

MAX_CROSSINGS = 20_000_000
"""Of a polygon's edges with rows of pixels: those of one that people draw are a few thousand."""


def fill_polygon(points: np.ndarray, mask: np.ndarray, value: int) -> None:
    """Paint a value on the pixels of a mask (H,W) whose centres lie in a polygon (P,2) of x, y; outside is cut off.

    The pixel at column 0 of row 0 is the square from (0, 0) to (1, 1), its centre (0.5, 0.5). Where the outline crosses
    itself the even-odd rule holds. Raises ValueError for fewer than three points, and for more than can be drawn.
    """
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
        raise ValueError(f"a polygon of {len(points)} points; it needs three or more, each two finite numbers")
    height, width = mask.shape
    (x0, y0), (x1, y1) = points.T, np.roll(points, -1, axis=0).T
    upper, lower = np.minimum(y0, y1), np.maximum(y0, y1)
    first, last = (np.clip(np.ceil(y - 0.5), 0, height).astype(np.int64) for y in (upper, lower))
    rows = last - first
    if rows.sum() > MAX_CROSSINGS:
        raise ValueError(f"a polygon of {len(points)} points whose edges cross {rows.sum()} rows; draw a simpler one")
    if not rows.any():
        return
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


def recode(picture: np.ndarray, values: Mapping[int, int]) -> tuple[Mask, list[int]]:
    """A picture's pixels as the values (H,W) uint8 that its codes stand for, and the codes that stand for none.

    Of one channel (H,W) uint8 the codes are the pixels, of colours (H,W,3) uint8 they are R + 256·G + 65536·B, as in
    COCO's panoptic PNGs. Masks are smooth: what is looked up is each run of equal pixels, and not each pixel.
    """
    colours = picture.ndim == 3
    flat = (cv2.cvtColor(picture, cv2.COLOR_RGB2RGBA).view(np.int32) if colours else picture).reshape(-1)
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    codes, run = np.unique(flat[starts] & (0xFFFFFF if colours else 0xFF), return_inverse=True)
    known = [values.get(code) for code in codes.tolist()]
    found = np.array([0 if value is None else value for value in known], np.uint8)
    unknown = [code for code, value in zip(codes.tolist(), known, strict=True) if value is None]
    return np.repeat(found[run], np.diff(starts, append=flat.size)).reshape(picture.shape[:2]), unknown
