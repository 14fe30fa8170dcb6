"""Pseudo-labels on disk: the most likely class and its confidence for every pixel of the pool, a byte each.

Shapes: H×W pixels of an image · C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fewmask.data.reading import read_mask
from fewmask.files import Written, write_bytes
from fewmask.labels import NOT_LABELLED, Mask
from fewmask.paths import below

# Confidences are stored in 254 steps, rounded down, so that no pixel passes a threshold that it does not reach.
STEPS = 254
HUMAN = 255
"""The confidence of a label that a person gave."""


@dataclass(frozen=True)
class PseudoFolder:
    """`<stem>.label.png` and `<stem>.confidence.png` in a folder."""

    root: Path
    stems: frozenset[str] | None = None
    """The images that have pseudo-labels; None if every image that is read has them."""
    written: Written | None = None
    """The record of the written files, by which they can be removed."""

    def write(self, stem: str, label: Mask, confidence: np.ndarray) -> None:
        """label (H,W) uint8 in 0 … C−1; confidence (H,W) of `quantise`."""
        for kind, values in (("label", label), ("confidence", confidence)):
            done, png = cv2.imencode(".png", values, [cv2.IMWRITE_PNG_COMPRESSION, 1])
            assert done
            write_bytes(self._path(stem, kind), png.tobytes(), self.written)

    def read(self, stem: str) -> tuple[Mask, np.ndarray] | None:
        """The label and confidence that `write` stored; None for an image without pseudo-labels. Raises ValueError with
        the file's name."""
        if self.stems is not None and stem not in self.stems:
            return None
        return read_mask(self._path(stem, "label")), read_mask(self._path(stem, "confidence"))

    def has(self, stem: str) -> bool:
        """Whether `write` has finished for the image."""
        return self._path(stem, "confidence").exists()

    def _path(self, stem: str, kind: str) -> Path:
        return below(self.root, stem, ending=f".{kind}.png")


def quantise(probability: np.ndarray) -> np.ndarray:
    """Probabilities 0–1, fp32, as uint8 in 0 … 254, rounded down."""
    # Exact in fp64; in fp32 a product may be rounded up to the next step.
    return np.clip(probability.astype(np.float64) * STEPS, 0, STEPS).astype(np.uint8)


def merge(answers: Mask, pseudo: Mask, confidence: np.ndarray, threshold: float) -> tuple[Mask, np.ndarray]:
    """Labels (H,W) to train on, and their confidence (H,W) uint8. A person's answer takes precedence over a
    pseudo-label. A pseudo-label with a confidence below the threshold (0–1) becomes 254."""
    sure = confidence >= math.ceil(threshold * STEPS)
    answered = answers != NOT_LABELLED
    label = np.where(answered, answers, np.where(sure, pseudo, NOT_LABELLED))
    return label.astype(np.uint8), np.where(answered, HUMAN, confidence).astype(np.uint8)
