"""Encodes the pixels of a region as runs along the rows of its box, for the exchange between page and server.

A run is two unsigned 32-bit numbers, little-endian: a value and the number of its pixels. The text is base64. The
browser reads it without a canvas, because some browsers blur a canvas's pixels on purpose.

Shapes: h×w pixels of a region's box · R runs.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode

import numpy as np

RUN = np.dtype([("value", "<u4"), ("length", "<u4")])


def encode(values: np.ndarray) -> str:
    """Encode values (h,w) of any unsigned or boolean type as text."""
    flat = values.reshape(-1)
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    runs = np.empty(len(starts), RUN)
    runs["value"], runs["length"] = flat[starts], np.diff(starts, append=flat.size)
    return b64encode(runs.tobytes()).decode()


def decode(text: str, size: tuple[int, int]) -> np.ndarray:
    """Decode a text to the values (h,w) uint8 of a box of that size.

    Raises ValueError for an invalid text and for another number of pixels, before any array of that size is made.
    """
    try:
        data = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("values are no base64; reload the page and answer again") from None
    if len(data) % RUN.itemsize:
        raise ValueError(f"values of {len(data)} bytes; a run has {RUN.itemsize}")
    runs = np.frombuffer(data, RUN)
    pixels, (h, w) = int(runs["length"].sum(dtype=np.uint64)), size
    if pixels != h * w:
        raise ValueError(f"values of {pixels} pixels; the region's box has {h}×{w}")
    if len(runs) and runs["value"].max() > 255:
        raise ValueError(f"a value of {int(runs['value'].max())}; values are 0..255")
    return np.repeat(runs["value"].astype(np.uint8), runs["length"]).reshape(h, w)
