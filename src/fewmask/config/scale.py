"""The size to which a domain's images are resized. A network recognises objects at the scale of its training.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

from fewmask.config.base import Shrink, Size

Scale = Size | Shrink | None
"""Height and width of every image, or a factor of each image's own size. None keeps the size of the files."""

SMALLEST = 8
"""Pixels a side: the finest stride of a network's cells. A smaller image is a single cell, for which a network predicts
a single class."""
SMALL = 64
"""Pixels a side: four cells at the default stride of 16. In smaller images few objects can be recognised."""


def scaled(size: tuple[int, int], scale: Scale) -> tuple[int, int]:
    """H, W of an image of `size` at a scale. Raises ValueError where the result would be too small."""
    if scale is None:
        return size
    height, width = scale if isinstance(scale, tuple) else (max(1, round(side * scale)) for side in size)
    if min(height, width) < min(SMALLEST, *size):
        raise ValueError(
            f"`size: {list(scale) if isinstance(scale, tuple) else scale}` makes {width}×{height} pixels of "
            f"{size[1]}×{size[0]}, and a network needs at least {SMALLEST} a side; write a larger `size`"
        )
    return height, width


def in_words(scale: Scale) -> str:
    """The scale as a phrase for a sentence such as "images are read at 0.5 of their height and width"."""
    if scale is None:
        return "at their own size"
    return f"at {scale:g} of their height and width" if isinstance(scale, float) else f"at {scale[1]}×{scale[0]} pixels"
