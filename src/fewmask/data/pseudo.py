"""Pseudo-labels on disk: of every pixel of the pool the most likely class and how sure the teacher was, a byte each.

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
    seen: frozenset[str] | None = None
    """The images that were looked at; None: all that are asked for."""
    written: Written | None = None
    """Where it is noted what was written, so that it can be removed."""

    def write(self, stem: str, label: Mask, confidence: np.ndarray) -> None:
        """label (H,W) uint8 in 0 … C−1; confidence (H,W) of `quantise`."""
        for kind, values in (("label", label), ("confidence", confidence)):
            done, png = cv2.imencode(".png", values, [cv2.IMWRITE_PNG_COMPRESSION, 1])
            assert done
            write_bytes(self._path(stem, kind), png.tobytes(), self.written)

    def read(self, stem: str) -> tuple[Mask, np.ndarray] | None:
        """What `write` was given; None for an image that was not looked at. Raises ValueError with the file's name."""
        if self.seen is not None and stem not in self.seen:
            return None
        return read_mask(self._path(stem, "label")), read_mask(self._path(stem, "confidence"))

    def has(self, stem: str) -> bool:
        """Whether `write` has come to its end."""
        return self._path(stem, "confidence").exists()

    def _path(self, stem: str, kind: str) -> Path:
        return below(self.root, stem, ending=f".{kind}.png")


def quantise(probability: np.ndarray) -> np.ndarray:
    """Probabilities 0–1, fp32, as uint8 in 0 … 254, rounded down."""
    # Exact in fp64; in fp32 a product may be rounded up to the next step.
    return np.clip(probability.astype(np.float64) * STEPS, 0, STEPS).astype(np.uint8)


def merge(answers: Mask, pseudo: Mask, confidence: np.ndarray, threshold: float) -> tuple[Mask, np.ndarray]:
    """Labels (H,W) to train on, and their confidence (H,W) uint8: what people said beats any pseudo-label, and a
    pseudo-label less sure than the threshold (0–1) is none (254)."""
    sure = confidence >= math.ceil(threshold * STEPS)
    answered = answers != NOT_LABELLED
    label = np.where(answered, answers, np.where(sure, pseudo, NOT_LABELLED))
    return label.astype(np.uint8), np.where(answered, HUMAN, confidence).astype(np.uint8)
