"""Fingerprints that identify copies of an image: a hash of its pixels, and a thumbnail that survives recompression."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np

from fewmask.formats.bands import as_rgb


def digest(image: np.ndarray) -> bytes:
    """A hash of an image (H,W,3). Copies in any lossless format have the same one."""
    pixel_hash = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    pixel_hash.update(np.ascontiguousarray(image).data)
    return pixel_hash.digest()


THUMBNAIL = 16 * 16 * 3
"""The number of values of a thumbnail."""


def thumbnail(image: np.ndarray) -> np.ndarray:
    """The image at 16×16 as (768,) uint8."""
    return cv2.resize(as_rgb(image), (16, 16), interpolation=cv2.INTER_AREA).reshape(-1)


def fingerprints(image: np.ndarray, medical: bool = False) -> tuple[bytes | None, np.ndarray | None]:
    """The hash and the thumbnail of an image. A medical image of one value, such as a slice of air, has none: it is no
    copy of another one."""
    return (None, None) if medical and image.min() == image.max() else (digest(image), thumbnail(image))
