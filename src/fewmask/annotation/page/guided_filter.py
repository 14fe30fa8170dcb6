"""The guided filter (He et al., ECCV 2010), which aligns values with the edges of a picture.

Shapes: h×w pixels of a picture · a×b pixels at which the coefficients are computed.
"""

from __future__ import annotations

import cv2
import numpy as np

EPSILON = 2e-3
"""A smaller variance of the picture (in 0–1) counts as no edge."""
MOST_PIXELS = 2**18
"""The most pixels at which the coefficients are computed. For a larger picture they are enlarged (He and Sun, 2015)."""


class GuidedFilter:
    """Aligns values with a picture. What depends on the picture alone is computed once."""

    def __init__(self, picture: np.ndarray, radius: int) -> None:
        """`picture` (h,w,3) uint8 RGB; `radius` of a window in pixels."""
        self._guide = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2Lab).astype(np.float32)
        self._guide *= 1 / 255
        part = min((MOST_PIXELS / self._guide[..., 0].size) ** 0.5, 1.0)
        self._reduced = part < 1
        self._side = 2 * max(round(radius * part), 1) + 1
        area = {"fx": part, "fy": part, "interpolation": cv2.INTER_AREA}
        self._small = small = cv2.resize(self._guide, None, **area) if self._reduced else self._guide
        self._mean = mean = self._box(small)
        pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
        aa, ab, ac, bb, bc, cc = (
            self._box(small[..., i] * small[..., j]) - mean[..., i] * mean[..., j] for i, j in pairs
        )
        aa, bb, cc = aa + EPSILON, bb + EPSILON, cc + EPSILON
        # The inverse of a symmetric matrix of 3×3, by its cofactors.
        i00, i01, i02 = bb * cc - bc * bc, ac * bc - ab * cc, ab * bc - ac * bb
        i11, i12, i22 = aa * cc - ac * ac, ab * ac - aa * bc, aa * bb - ab * ab
        determinant = aa * i00 + ab * i01 + ac * i02
        rows = np.stack([i00, i01, i02, i01, i11, i12, i02, i12, i22], axis=2) / determinant[..., None]
        self._inverse = rows.reshape(*rows.shape[:2], 3, 3)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Align values (h,w) float32.

        In each window they become a linear function of the picture's brightness and of its two colour channels.
        """
        small, guide_mean = self._small, self._mean
        target = cv2.resize(values, small.shape[1::-1], interpolation=cv2.INTER_AREA) if self._reduced else values
        target_mean = self._box(target)
        covariance = self._box(small * target[..., None]) - guide_mean * target_mean[..., None]
        slopes = np.einsum("abij,abj->abi", self._inverse, covariance)
        level = target_mean - (slopes * guide_mean).sum(axis=2)
        slopes, level = self._box(slopes), self._box(level)
        if self._reduced:
            slopes = cv2.resize(slopes, values.shape[::-1], interpolation=cv2.INTER_LINEAR)
            level = cv2.resize(level, values.shape[::-1], interpolation=cv2.INTER_LINEAR)
        # OpenCV makes no arrays of the whole region on the way. This takes most of a click's time in a large region.
        return np.asarray(cv2.transform(cv2.multiply(slopes, self._guide), np.ones((1, 3), np.float32)) + level)

    def _box(self, values: np.ndarray) -> np.ndarray:
        """The mean in the window around each pixel."""
        return cv2.blur(values, (self._side, self._side), borderType=cv2.BORDER_REFLECT)
