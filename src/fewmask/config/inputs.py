"""What the pixels of a domain's images are: the names of their channels, their bits, and what becomes of the values."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from fewmask.config.base import Settings

RGB = ("red", "green", "blue")
MOST_CHANNELS = 64


def _ascends(span: tuple[float, float]) -> tuple[float, float]:
    if not span[0] < span[1]:
        raise ValueError("the value that becomes 0 comes first, and the two differ")
    return span


def _differ(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("two channels have one name; rename one")
    return names


Channels = Annotated[tuple[str, ...], Field(min_length=1, max_length=MOST_CHANNELS), AfterValidator(_differ)]
Span = Annotated[tuple[float, float], AfterValidator(_ascends)]
Depth = Literal[8, 16, 32, "float"]


class InputSettings(Settings):
    """8-bit RGB by default."""

    channels: Channels = RGB
    """The names of the channels of every image, in their order: `[red, green, blue, nir]`."""
    depth: Depth = 8
    """Bits of a value: 16 and 32 stand for integers with a sign and without, `float` for floating-point numbers."""
    stretch: tuple[Span, ...] | None = None
    """For each channel the values that become 0 and 255, for images of more than 8 bits. By default they are the 1st
    and the 99th percentile of the images of train, and a run keeps them."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.stretch is not None and self.depth == 8:
            raise ValueError("stretch: values of 8 bits are used as they are; remove it, or write `depth: 16`")
        if self.stretch is not None and len(self.stretch) != len(self.channels):
            raise ValueError(
                f"stretch: {len(self.stretch)} pairs for {len(self.channels)} channels; write one for each"
            )
        return self

    @property
    def input(self) -> InputSettings:
        """These settings alone."""
        return InputSettings(channels=self.channels, depth=self.depth, stretch=self.stretch)

    @property
    def plain(self) -> bool:
        """Whether images are read as 8-bit RGB, whatever kind of 8-bit file they are."""
        return self.channels == RGB and self.depth == 8

    @property
    def unsettled(self) -> bool:
        """Whether the values that become 0 and 255 are still to be found in the images."""
        return self.depth != 8 and self.stretch is None


PLAIN = InputSettings()
