"""The strong view: blur, colour jitter, grey and holes. A student sees it where its teacher sees the weak view.

No pixel moves, so that the weak view's label is also the strong view's.

Shapes: h×w pixels of a view.
"""

from __future__ import annotations

import cv2
import numpy as np

from fewmask.config import CutoutSettings, NoiseSettings, StrongSettings
from fewmask.labels import VOID, Mask
from fewmask.views.augment import grey, padding


def noisy_view(
    image: np.ndarray, label: Mask, settings: NoiseSettings, rng: np.random.Generator
) -> tuple[np.ndarray, Mask]:
    """The view of a noisy student (S4AL+, BMVC 2022): the strong view with holes. See `strong_view` and `cutout`."""
    if settings.strong is not None:
        image = strong_view(image, settings.strong, rng)
    return (image, label) if settings.cutout is None else cutout(image, label, settings.cutout, rng)


def strong_view(image: np.ndarray, settings: StrongSettings, rng: np.random.Generator) -> np.ndarray:
    """Random Gaussian blur, colour jitter and grey: (h,w,3) uint8 RGB → (h,w,3) uint8, which may be the input itself.
    Images with other than three channels keep their saturation, hue and grey.

    The number of draws depends neither on the image nor on the settings.
    """
    blurred, jittered, greyed, width = rng.uniform(size=4)
    shape, coloured = image.shape, image.shape[2] == 3
    changes = rng.uniform(-1, 1, 4) * (settings.brightness, settings.contrast, settings.saturation, settings.hue)
    order = rng.permutation(4)
    blur = bool(blurred < settings.blur)
    recolour = settings.order == "both" or not blur
    jitter = recolour and bool(jittered < settings.jitter)
    if jitter:
        # Both sources use torchvision's ColorJitter, which applies the four in random order.
        for i in order:
            if coloured or JITTER[i] in (brightness, contrast):
                image = JITTER[i](image, changes[i]).reshape(shape)
    if coloured and recolour and greyed < settings.grey and (jitter or not settings.grey_needs_jitter):
        image = grey(image)
    if blur:
        low, high = settings.sigma
        image = cv2.GaussianBlur(image, (0, 0), low + (high - low) * width)
    return image.reshape(shape)  # OpenCV drops the axis of a single channel


def cutout(
    image: np.ndarray, label: Mask, settings: CutoutSettings, rng: np.random.Generator
) -> tuple[np.ndarray, Mask]:
    """Cut square holes with the given probability, centred anywhere, clipped at the border (DeVries and Taylor, 2017).

    image (h,w,3) uint8, label (h,w) uint8 → the same shapes; the inputs themselves where there is no hole. A hole has
    the padding's colour in the image and 255 in the label, because no class can be told there. The number of draws does
    not depend on the image.
    """
    happens, centres = rng.uniform(), rng.uniform(size=(settings.holes, 2))
    if happens >= settings.probability:
        return image, label
    image, label = image.copy(), label.copy()
    for top, left in np.floor(centres * label.shape).astype(int) - settings.side // 2:
        hole = slice(max(top, 0), top + settings.side), slice(max(left, 0), left + settings.side)
        image[hole], label[hole] = padding(image.shape[2]), VOID
    return image, label


def brightness(image: np.ndarray, change: float) -> np.ndarray:
    return cv2.convertScaleAbs(image, alpha=1 + change)


def contrast(image: np.ndarray, change: float) -> np.ndarray:
    """Change the contrast about the mean of the grey image."""
    mean = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.shape[2] == 3 else image).mean()
    table = (np.arange(256) - mean) * (1 + change) + mean
    return cv2.LUT(image, np.clip(np.rint(table), 0, 255).astype(np.uint8))


def saturation(image: np.ndarray, change: float) -> np.ndarray:
    return cv2.addWeighted(image, 1 + change, grey(image), -change, 0)


def hue(image: np.ndarray, turns: float) -> np.ndarray:
    shift = round(turns * 256) % 256  # the full circle is 256 steps, so that 8-bit arithmetic goes round it
    if not shift:
        return image
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(shift)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


# Each function changes an image (h,w,3) uint8; a change of 0 leaves it as it is.
JITTER = (brightness, contrast, saturation, hue)
