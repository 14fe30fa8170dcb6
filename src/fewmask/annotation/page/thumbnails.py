"""Small pictures of questions for the gallery: the region with what surrounds it.

Shapes: H×W pixels of an image · h×w pixels of a region's box · t×u pixels of the small picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from fewmask.annotation.questions import Question
from fewmask.annotation.tasks import OUTLINE
from fewmask.formats.bands import as_rgb
from fewmask.labels import NOT_LABELLED, Mask

SIDE = 240
"""The longer side of a picture in pixels."""
LEAST_MARGIN = 16
DIM = 0.6


@dataclass(frozen=True)
class Frame:
    """The part of an image that a small picture shows."""

    box: tuple[int, int, int, int]
    """y0, x0, y1, x1 in pixels of the image."""
    size: tuple[int, int]
    """(t, u)."""

    def mask(self, question: Question, values: Mask) -> Mask:
        """Values (h,w) of the question's box as values (t,u) of the picture, 254 outside of the region."""
        return self._resized(question, values, NOT_LABELLED)

    def _resized(self, question: Question, values: np.ndarray, outside: int) -> Mask:
        y0, x0, y1, x1 = self.box
        part = np.full((y1 - y0, x1 - x0), outside, np.uint8)
        top, left, bottom, right = question.box
        part[top - y0 : bottom - y0, left - x0 : right - x0] = values
        height, width = self.size
        return cv2.resize(part, (width, height), interpolation=cv2.INTER_NEAREST)

    def picture(self, question: Question, image: np.ndarray) -> bytes:
        """The image (H,W,C) in the frame as PNG. The region is outlined, and the rest is dimmed."""
        y0, x0, y1, x1 = self.box
        height, width = self.size
        part = np.ascontiguousarray(as_rgb(image)[y0:y1, x0:x1])
        shrinks = height < y1 - y0 or width < x1 - x0
        part = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        inside = self._resized(question, question.inside.view(np.uint8), 0)
        around = (cv2.dilate(inside, np.ones((3, 3), np.uint8)) > 0) & (inside == 0)
        shown = np.where(inside[..., None] > 0, part, (part * DIM).astype(np.uint8))
        shown[around] = OUTLINE
        done, data = cv2.imencode(".png", cv2.cvtColor(shown, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 3])
        assert done
        return data.tobytes()


def frame(question: Question, size: tuple[int, int]) -> Frame:
    """The frame around a question's region in an image of (H, W) pixels: half of the region's side more on each
    side."""
    y0, x0, y1, x1 = question.box
    margin = max(max(question.size) // 2, LEAST_MARGIN)
    top, left = max(y0 - margin, 0), max(x0 - margin, 0)
    bottom, right = min(y1 + margin, size[0]), min(x1 + margin, size[1])
    scale = SIDE / max(bottom - top, right - left)
    return Frame((top, left, bottom, right), (_side(bottom - top, scale), _side(right - left, scale)))


def _side(pixels: int, scale: float) -> int:
    return max(round(pixels * scale), 1)
