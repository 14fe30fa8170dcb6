"""Divides a region into superpixels for the page's tool: small areas of one colour that get a class by one click.

OpenCV's watershed grows them from a grid of seeds, which needs no extra package and takes milliseconds. They only help
to paint. The regions that are asked about come from `acquisition.regions`.

Shapes: h×w pixels of a region's box.
"""

from __future__ import annotations

import math
from itertools import product

import cv2
import numpy as np

SEGMENTS = 48
"""The approximate number of segments in a region."""
SIDE = 6, 32
"""The least and the greatest side of a segment in pixels."""


def cut(crop: np.ndarray) -> np.ndarray:
    """The segments (h,w) uint16 of a picture (h,w,3) uint8, numbered from 0 without gaps."""
    height, width = crop.shape[:2]
    side = round(min(max(math.sqrt(height * width / SEGMENTS), SIDE[0]), SIDE[1]))
    # The picture gets one more pixel around, because watershed assigns no segment to its edge.
    picture = cv2.medianBlur(cv2.copyMakeBorder(crop, 1, 1, 1, 1, cv2.BORDER_REPLICATE), 3)
    edges = cv2.morphologyEx(picture, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).max(axis=2)
    markers = np.zeros(edges.shape, np.int32)
    near = side // 4
    for number, (y, x) in enumerate(product(_middles(height, side), _middles(width, side)), 1):
        # The seed is at the flattest place around: a seed on an edge would grow to both of its sides.
        top, left = max(y - near, 1), max(x - near, 1)
        around = edges[top : min(y + near, height) + 1, left : min(x + near, width) + 1]
        dy, dx = divmod(int(around.argmin()), around.shape[1])
        markers[top + dy, left + dx] = number
    cv2.watershed(picture, markers)
    labels = np.where(markers < 0, 0, markers)
    while not labels[1:-1, 1:-1].all():
        labels = _fill_lines(labels, picture.astype(np.int16))
    labels = labels[1:-1, 1:-1]
    return np.unique(labels, return_inverse=True)[1].reshape(height, width).astype(np.uint16)


def _fill_lines(labels: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Assign the lines between segments, which are 0, to the neighbour with the most similar colour."""
    best, filled = np.full(labels.shape, np.inf), labels.copy()
    for shift in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        neighbour = np.roll(labels, shift, (0, 1))
        unlike = np.abs(picture - np.roll(picture, shift, (0, 1))).sum(axis=2)
        nearer = (labels == 0) & (neighbour > 0) & (unlike < best)
        best[nearer], filled[nearer] = unlike[nearer], neighbour[nearer]
    return filled


def _middles(length: int, side: int) -> list[int]:
    """The middles of equal parts of about `side` pixels of a length, in the picture with one more pixel around."""
    count = max(round(length / side), 1)
    return [int((i + 0.5) * length / count) + 1 for i in range(count)]
