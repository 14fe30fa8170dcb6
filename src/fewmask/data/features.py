"""The features of a frozen encoder in place of images: packed tensors of whole images on the disk, and crops of them.

Shapes: H×W pixels of an image · h×w cells of the padded image, of S×S pixels (S = `stride`) · P packed channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fewmask.config import TrainSettings
from fewmask.labels import VOID
from fewmask.views.augment import offset


@dataclass(frozen=True)
class Entry:
    """The features of one image."""

    size: tuple[int, int]
    """H, W."""
    files: tuple[Path, ...]
    """The features (h,w,P) float16 of the image, and of its mirror image where flips are drawn."""


@dataclass(frozen=True)
class CachedFeatures:
    """The features of all images that a training draws."""

    entries: Mapping[tuple[str, str], Entry]
    """By domain and stem."""
    stride: int

    def view(
        self, entry: Entry, label: np.ndarray, settings: TrainSettings, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """A random window of an image's features (h',w',P), and of its label with the confidence (H,W,2) → (h,w,2).

        It has the draws of `weak_view`. Its place is a whole number of cells. A pixel of the padding is void.
        """
        _, along_y, along_x, flip = rng.uniform(size=4)
        flipped = bool(flip < settings.augment.flip)
        features = np.load(entry.files[flipped], mmap_mode="r")
        label = label[:, ::-1] if flipped else label
        cells = [side // self.stride for side in settings.crop]
        room = [have - wanted for have, wanted in zip(features.shape, cells, strict=False)]
        top, left = (offset(free, along) for free, along in zip(room, (along_y, along_x), strict=True))
        window = features[top : top + cells[0], left : left + cells[1]]
        y, x = top * self.stride, left * self.stride
        shown = label[y : y + settings.crop[0], x : x + settings.crop[1]]
        below, beside = (side - have for side, have in zip(settings.crop, shown.shape, strict=False))
        padded = cv2.copyMakeBorder(shown, 0, below, 0, beside, cv2.BORDER_CONSTANT, value=(VOID, 0))
        return np.array(window), padded
