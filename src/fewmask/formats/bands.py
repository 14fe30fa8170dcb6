"""Images of any number of channels and any depth as 8 bits, and as people see them.

Shapes: H×W pixels · C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

STRIP = 2**20
"""Pixels that are changed at a time: a large image never exists as floating-point numbers at once."""


def stretched(pixels: np.ndarray, spans: Sequence[tuple[float, float]]) -> np.ndarray:
    """Pixels (H,W,C) of any kind of number as uint8: of each channel one value becomes 0, another 255, and what lies
    beyond them is cut off."""
    height, width, channels = pixels.shape
    assert channels == len(spans)
    low, high = np.array(spans, np.float64).T
    factor = 255 / (high - low)
    scaled = np.empty(pixels.shape, np.uint8)
    rows = max(1, STRIP // max(width, 1))
    for top in range(0, height, rows):
        part = (pixels[top : top + rows].astype(np.float64) - low) * factor
        scaled[top : top + rows] = np.rint(np.clip(part, 0, 255, out=part))
    return scaled


def at_size(pixels: np.ndarray, height: int, width: int, interpolation: int = cv2.INTER_AREA) -> np.ndarray:
    """An image (H,W,C) or a mask (H,W) at another size: by default the mean of the pixels."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if pixels.ndim == 3 and pixels.shape[2] > 4:  # more than OpenCV takes at once
        parts = [pixels[..., i : i + 4] for i in range(0, pixels.shape[2], 4)]
        resizing = (cv2.resize(np.ascontiguousarray(p), (width, height), interpolation=interpolation) for p in parts)
        return np.dstack(list(resizing))
    small = cv2.resize(pixels, (width, height), interpolation=interpolation)
    return small.reshape(height, width, *pixels.shape[2:])  # OpenCV drops the axis of a single channel


def as_rgb(image: np.ndarray) -> np.ndarray:
    """An image (H,W,C) as people see it (H,W,3): its first three channels as red, green and blue. Of fewer channels the
    first as grey."""
    channels = image.shape[2]
    if channels == 3:
        return image
    return np.ascontiguousarray(image[..., :3]) if channels > 3 else np.repeat(image[..., :1], 3, axis=2)
