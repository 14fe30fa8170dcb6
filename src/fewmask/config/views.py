"""How images are changed before a network sees them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from fewmask.config.base import Fraction, Interval, Settings


class AugmentSettings(Settings):
    scale: Interval = (0.5, 2.0)
    """Smallest and largest."""
    flip: Fraction = 0.5
    """Probability that left and right change places."""
    flip_vertical: Fraction = 0.0
    """The same of top and bottom: for images from above, and of microscopes."""
    rotate: Fraction = 0.0
    """Probability of a turn by 90, 180 or 270 degrees, each as likely: likewise."""
    jitter: Fraction = 0.0
    """Strength of random brightness, contrast and saturation."""


class StrongSettings(Settings):
    """The strong view; its defaults are S4AL+'s (BMVC 2022), read in its authors' code."""

    order: Literal["either", "both"] = "either"
    """`either`: blurred, or else recoloured; `both`: recoloured and then blurred, each with its own probability."""
    blur: Fraction = 0.5
    """Probability of a Gaussian blur."""
    sigma: Interval = (0.25, 1.25)
    """Of the Gaussian, in pixels."""
    jitter: Fraction = 0.5
    """Where `order` is `either`, of the views that are not blurred. The source's "p .5 blur, else p .5 jitter" may also
    mean that all of those are jittered: that is 1."""
    brightness: Fraction = 0.8
    """How far the brightness changes at most, as a part of its own."""
    contrast: Fraction = 0.8
    """How far the contrast changes at most, as a part of its own."""
    saturation: Fraction = 0.8
    """How far the saturation changes at most, as a part of its own."""
    hue: float = Field(0.2, ge=0, le=0.5)
    """In turns of the colour circle."""
    grey: Fraction = 0.75
    """Probability that the view becomes grey."""
    grey_needs_jitter: bool = True
    """Only jittered views become grey: a reading of the source's "jitter with grey p .75"."""


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
    """In pixels."""


class NoiseSettings(Settings):
    """What a noisy student sees of an image of the pool."""

    strong: StrongSettings | None = StrongSettings()
    """The colour changes and the blur; null leaves them out."""
    cutout: CutoutSettings | None = CutoutSettings()
    """The holes; null leaves them out."""
