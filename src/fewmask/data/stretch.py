"""Determines which values of a domain's images become 0 and 255, if they have more than 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fewmask.config.inputs import InputSettings
from fewmask.data.inputs import read_values
from fewmask.randomness import generator

SAMPLE_IMAGES, SAMPLE_PIXELS = 64, 10_000
"""The numbers of images of train, and of pixels of each, that determine the values for 0 and 255."""
PERCENTILES = 1.0, 99.0


def settle_stretch(settings: InputSettings, images: Sequence[Path]) -> InputSettings:
    """The settings with the values that become 0 and 255: percentiles of a sample of the images, always the same for
    the same images. Raises ValueError as `read_input`, and where a channel holds one value alone."""
    if not settings.unsettled:
        return settings
    if settings.window is not None:
        return settings.model_copy(update={"stretch": settings.spans})
    if not images:
        raise ValueError("stretch: train has no image to take the values from that become 0 and 255; write `stretch`")
    rng = generator(0, "stretch")
    chosen = sorted(rng.permutation(len(images))[:SAMPLE_IMAGES])
    samples = []
    for i in chosen:
        values = read_values(images[i], settings)[0].reshape(-1, len(settings.channels))
        samples.append(values[rng.integers(0, len(values), min(SAMPLE_PIXELS, len(values)))])
    low, high = np.percentile(np.concatenate(samples).astype(np.float64), PERCENTILES, axis=0)
    if same := [n for n, a, b in zip(settings.channels, low, high, strict=True) if not a < b]:
        raise ValueError(
            f"stretch: the channel {', '.join(same)} has nearly one value in {len(chosen)} images of train; write "
            "`stretch`, the values that become 0 and 255, for each channel"
        )
    spans = tuple((float(a), float(b)) for a, b in zip(low, high, strict=True))
    return settings.model_copy(update={"stretch": spans})


def settle_readable(settings: InputSettings, images: Sequence[Path]) -> tuple[InputSettings, ValueError | None]:
    """`settle_stretch` by the readable images alone, for callers that report the unreadable ones.

    Also returns the fault of the readable images together, if there is one; the stretch is then arbitrary.
    """
    try:
        return settle_stretch(settings, images), None
    except ValueError:
        pass
    try:
        return settle_stretch(settings, [path for path in images if _is_readable(path, settings)]), None
    except ValueError as error:
        return settings.model_copy(update={"stretch": ((0.0, 1.0),) * len(settings.channels)}), error


def _is_readable(path: Path, settings: InputSettings) -> bool:
    try:
        read_values(path, settings)
    except ValueError:
        return False
    return True
