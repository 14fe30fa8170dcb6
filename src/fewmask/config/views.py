"""The settings of augmentation: how images are changed before a network gets them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from fewmask.config.base import Fraction, Interval, Settings


class AugmentSettings(Settings):
    scale: Interval = (0.5, 2.0)
    """The smallest and the largest random scale."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip."""
    flip_vertical: Fraction = 0.0
    """Probability of a vertical flip, for aerial and microscope images."""
    rotate: Fraction = 0.0
    """Probability of a turn by 90, 180 or 270 degrees, each as likely, for aerial and microscope images."""
    jitter: Fraction = 0.0
    """Strength of random brightness, contrast and saturation."""


class StrongSettings(Settings):
    """The strong view; its defaults are S4AL+'s (BMVC 2022), read in its authors' code."""

    order: Literal["either", "both"] = "either"
    """`either`: blurred, or else recoloured; `both`: recoloured and then blurred, each with its own probability."""
    blur: Fraction = 0.5
    """Probability of a Gaussian blur."""
    sigma: Interval = (0.25, 1.25)
    """Standard deviation of the Gaussian blur in pixels: the smallest and the largest."""
    jitter: Fraction = 0.5
    """Probability of colour jitter. If `order` is `either`, it applies to the views that are not blurred. The paper's
    "p .5 blur, else p .5 jitter" may also mean that all of those are jittered, which is 1."""
    brightness: Fraction = 0.8
    """The largest relative change of the brightness."""
    contrast: Fraction = 0.8
    """The largest relative change of the contrast."""
    saturation: Fraction = 0.8
    """The largest relative change of the saturation."""
    hue: float = Field(0.2, ge=0, le=0.5)
    """The largest change of the hue, in turns of the colour circle."""
    grey: Fraction = 0.75
    """Probability that the view becomes grey."""
    grey_needs_jitter: bool = True
    """Whether only jittered views become grey, which is a reading of the paper's "jitter with grey p .75"."""


class UniMatchStrongSettings(StrongSettings):
    """The strong view of UniMatch (CVPR 2023) and of its FixMatch baseline, as in their authors' code."""

    order: Literal["either", "both"] = "both"
    sigma: Interval = (0.1, 2.0)
    jitter: Fraction = 0.8
    brightness: Fraction = 0.5
    contrast: Fraction = 0.5
    saturation: Fraction = 0.5
    hue: float = Field(0.25, ge=0, le=0.5)
    grey: Fraction = 0.2
    grey_needs_jitter: bool = False


class CutoutSettings(Settings):
    """CutOut (DeVries and Taylor, 2017); its defaults are S4AL+'s."""

    probability: Fraction = 0.5
    """Probability that a view has holes."""
    holes: NonNegativeInt = 1
    """Holes of a view."""
    side: PositiveInt = 50
    """Side of a hole in pixels."""


class NoiseSettings(Settings):
    """The noise on a noisy student's images of the pool."""

    strong: StrongSettings | None = StrongSettings()
    """The colour changes and the blur; null leaves them out."""
    cutout: CutoutSettings | None = CutoutSettings()
    """The holes; null leaves them out."""
