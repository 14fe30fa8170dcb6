"""The size that a domain's images are brought to: a network knows objects at the scale that it was trained at.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

from fewmask.config.base import Shrink, Size

Scale = Size | Shrink | None
"""Height and width of every image, or a part of each one's own; None: as large as the files have them."""

SMALLEST = 8
"""Pixels a side: the finest stride of a network's cells. An image that becomes smaller is one cell, and a network that
sees one cell answers with one class."""
SMALL = 64
"""Pixels a side: four cells at the default stride of 16. Below, few objects are left to be seen."""


def scaled(own: tuple[int, int], scale: Scale) -> tuple[int, int]:
    """H, W of an image of `own` H, W at a scale. Raises ValueError where next to nothing would be left of it."""
    if scale is None:
        return own
    height, width = scale if isinstance(scale, tuple) else (max(1, round(side * scale)) for side in own)
    if min(height, width) < min(SMALLEST, *own):
        raise ValueError(
            f"`size: {list(scale) if isinstance(scale, tuple) else scale}` makes {width}×{height} pixels of "
            f"{own[1]}×{own[0]}, and a network sees nothing in less than {SMALLEST} a side; write a larger `size`"
        )
    return height, width


def in_words(scale: Scale) -> str:
    """As in "images are read ‹at 0.5 of their height and width›"."""
    if scale is None:
        return "at their own size"
    return f"at {scale:g} of their height and width" if isinstance(scale, float) else f"at {scale[1]}×{scale[0]} pixels"
