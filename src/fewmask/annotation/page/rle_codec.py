"""How the pixels of a region travel between page and server: as runs along the rows of its box.

A run is two unsigned 32-bit numbers, little-endian: a value and how many pixels have it. As text it is base64.
The browser writes it at once and reads it without a canvas, whose pixels some browsers blur on purpose.

Shapes: h×w pixels of a region's box · R runs.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode

import numpy as np

RUN = np.dtype([("value", "<u4"), ("length", "<u4")])


def encode(values: np.ndarray) -> str:
    """Values (h,w) of any unsigned or boolean kind, as text."""
    flat = values.reshape(-1)
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    runs = np.empty(len(starts), RUN)
    runs["value"], runs["length"] = flat[starts], np.diff(starts, append=flat.size)
    return b64encode(runs.tobytes()).decode()


def decode(text: str, size: tuple[int, int]) -> np.ndarray:
    """The values (h,w) uint8 of such a text, for a box of that size.

    Raises ValueError when it is none, or of another number of pixels: before anything as large as it claims is made.
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
