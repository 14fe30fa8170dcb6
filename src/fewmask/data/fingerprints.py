"""What tells that two images are one: a hash of their pixels, and a thumbnail that survives another compression."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np

from fewmask.formats.bands import as_rgb


def digest(image: np.ndarray) -> bytes:
    """A hash of an image (H,W,3): that of a copy in whatever lossless format is the same."""
    found = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    found.update(np.ascontiguousarray(image).data)
    return found.digest()


def thumbnail(image: np.ndarray) -> np.ndarray:
    """The image at 16×16 as (768,) uint8."""
    return cv2.resize(as_rgb(image), (16, 16), interpolation=cv2.INTER_AREA).reshape(-1)
