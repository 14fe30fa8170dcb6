"""The weak view: one random affine crop (scale, position, flip) of image and mask together, and colour jitter.

Shapes: H×W pixels of the source · h×w pixels of the view.
"""

from __future__ import annotations

import cv2
import numpy as np

from fewmask.config import AugmentSettings
from fewmask.labels import VOID, Mask

PADDING = (124, 116, 104)
"""ImageNet's mean colour: padding that the normalised network sees as zero."""


def padding(channels: int) -> tuple[int, ...]:
    """The padding of images with so many channels; of other images than RGB the mean of that colour."""
    return PADDING if channels == 3 else (round(sum(PADDING) / 3),) * channels


def weak_view(
    image: np.ndarray, label: Mask, size: tuple[int, int], settings: AugmentSettings, rng: np.random.Generator
) -> tuple[np.ndarray, Mask]:
    """A random crop (h,w) of the image, scaled by U(scale) and flipped with probability `flip`.

    image (H,W,3) uint8; label (H,W) uint8, or (H,W,2) with a confidence beside it → the same at (h,w). Each pixel of
    the label comes from one source pixel. Outside of the image it is 255 (void), of confidence 0. The number of draws
    does not depend on the image. With `flip_vertical` and `rotate` the image is turned first.
    """
    scale, along_y, along_x, flip = rng.uniform(size=4)
    if settings.flip_vertical or settings.rotate:  # a run without them draws the same numbers as ever
        vertical, turn, quarter = rng.uniform(size=3)
        if vertical < settings.flip_vertical:
            image, label = image[::-1], label[::-1]
        if turn < settings.rotate:
            times = 1 + min(int(3 * quarter), 2)
            image, label = np.rot90(image, times), np.rot90(label, times)
        image, label = np.ascontiguousarray(image), np.ascontiguousarray(label)
    low, high = settings.scale
    matrix = crop_matrix(
        image.shape[:2], size, low + (high - low) * scale, (along_y, along_x), bool(flip < settings.flip)
    )
    dsize = (size[1], size[0])
    channels = image.shape[2]
    border = padding(channels)[:4]  # OpenCV goes through these in turn where there are more channels
    view = cv2.warpAffine(
        image, matrix, dsize, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=border
    )
    mask = cv2.warpAffine(
        label, matrix, dsize, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=(VOID, 0)
    )
    view = view.reshape(*size, channels)  # OpenCV drops the axis of a single channel
    if settings.jitter:
        view = jitter(view, settings.jitter, rng)
    return view, mask


def crop_matrix(
    source: tuple[int, int], size: tuple[int, int], scale: float, along: tuple[float, float], flip: bool
) -> np.ndarray:
    """The affine map (2,3) from source to view coordinates.

    `along` (0–1) places the smaller of the crop and the scaled image inside the larger one. It does so by whole pixels,
    so that nothing is blurred at scale 1.
    """
    y0, x0 = (offset(n * scale - m, a) for a, n, m in zip(along, source, size, strict=True))
    # Pixel centres lie at whole numbers, so scaling about the corner of pixel 0 shifts by half a pixel.
    shift = (scale - 1) / 2
    matrix = np.array([[scale, 0, shift - x0], [0, scale, shift - y0]])
    if flip:
        matrix[0] = [-scale, 0, size[1] - 1 - matrix[0, 2]]
    return matrix


def offset(room: float, along: float) -> int:
    """A whole number from 0 to `room`, which may be negative; each is equally likely for a uniform `along`."""
    steps = min(int(along * (int(abs(room)) + 1)), int(abs(room)))
    return steps if room > 0 else -steps


def jitter(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Scale brightness, contrast and saturation of (h,w,3) uint8, each by U(1 − strength, 1 + strength).

    Images with other than three channels have no saturation.
    """
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3)
    values = np.arange(256, dtype=np.float32) * brightness
    total = cv2.sumElems(image.reshape(len(image), -1))[0]  # OpenCV sums four channels at most
    mean = total / image.size * brightness
    table = np.clip((values - mean) * contrast + mean, 0, 255).astype(np.uint8)
    changed = cv2.LUT(image, table).reshape(image.shape)
    if image.shape[2] != 3:
        return changed
    return cv2.addWeighted(changed, float(saturation), grey(changed), float(1 - saturation), 0)


def grey(image: np.ndarray) -> np.ndarray:
    """The luma of each pixel (ITU-R BT.601) in all three channels: (h,w,3) uint8 → (h,w,3) uint8."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
