"""The colours of classes on the page, and the hatching of pixels without a class."""

from __future__ import annotations

import numpy as np

from fewmask.document.model import Key
from fewmask.labels import LabelSpace
from fewmask.reports.words import css

WIDTH = 320  # pixels of a picture
STRIPE = 3  # pixels of a picture


def legend(space: LabelSpace) -> list[Key]:
    return [Key(name, colour=css(colour)) for name, colour in zip(space.names, space.colours, strict=True)]


def hatched(pixels: np.ndarray, where: np.ndarray) -> np.ndarray:
    """(H,W,3) with black and white stripes at `where` (H,W). They differ from all classes and images, and are wide
    enough for a picture of WIDTH pixels."""
    height, width = where.shape
    stripe = STRIPE * max(-(-width // WIDTH), 1)
    y, x = np.ogrid[:height, :width]
    light = ((x + y) // stripe % 2).astype(np.uint8)[..., None] * 255
    return np.where(where[..., None], light, pixels).astype(np.uint8)
