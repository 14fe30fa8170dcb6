"""What the pixels of a domain's images are: the names of their channels, their bits, and what becomes of the values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, PositiveFloat, model_validator

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
Format = Literal["pictures", "dicom", "nifti"]
MEDICAL: dict[str, Any] = {"channels": ("intensity",), "depth": "float"}
"""The defaults of DICOM and NIfTI: one channel of the numbers that a slope and an intercept give."""


class InputSettings(Settings):
    """8-bit RGB by default."""

    format: Format = "pictures"
    """The kind of the image files: pictures such as JPEG, PNG and TIFF, DICOM files, or NIfTI volumes. Each slice of a
    volume is an image. DICOM and NIfTI have one channel, `intensity`, and the depth `float` by default."""
    channels: Channels = RGB
    """The names of the channels of every image, in their order: `[red, green, blue, nir]`."""
    depth: Depth = 8
    """Bits of a value: 16 and 32 stand for integers with a sign and without, `float` for floating-point numbers."""
    stretch: tuple[Span, ...] | None = None
    """For each channel the values that become 0 and 255, for images of more than 8 bits. By default they are the 1st
    and the 99th percentile of the images of train, and a run keeps them."""
    window: tuple[float, PositiveFloat] | Literal["file"] | None = None
    """The centre and the width of the values of DICOM or NIfTI between 0 and 255, instead of `stretch`; `file` takes
    those that each file states."""

    @model_validator(mode="before")
    @classmethod
    def _of_medical(cls, data: Any) -> Any:
        medical = isinstance(data, dict) and data.get("format") in ("dicom", "nifti")
        return {**MEDICAL, **data} if medical else data

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.format != "pictures" and self.depth != "float":
            raise ValueError(f"depth: values of {self.format} are rescaled, so they are `float`; remove `depth`")
        if self.format == "dicom" and len(self.channels) != 1:
            raise ValueError("channels: an image of dicom has one channel; write one name, or remove `channels`")
        if self.window is not None and self.format == "pictures":
            raise ValueError("window: pictures have none; remove it, write `stretch`, or `format: dicom` or `nifti`")
        if self.window is not None and self.stretch not in (None, self.spans):
            raise ValueError("window: `stretch` gives other values; remove one of the two")
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
        return InputSettings.model_validate({name: getattr(self, name) for name in InputSettings.model_fields})

    @property
    def spans(self) -> tuple[Span, ...] | None:
        """The `stretch` that `window` stands for. A file's own window is applied on reading, and ends at 0 and 1."""
        if self.window is None:
            return None
        centre, width = (0.5, 1.0) if self.window == "file" else self.window
        return ((centre - width / 2, centre + width / 2),) * len(self.channels)

    @property
    def plain(self) -> bool:
        """Whether images are read as 8-bit RGB, whatever kind of 8-bit file they are."""
        return self.channels == RGB and self.depth == 8 and self.format == "pictures"

    @property
    def unsettled(self) -> bool:
        """Whether the values that become 0 and 255 are still to be found in the images."""
        return self.depth != 8 and self.stretch is None

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        # Predictions name their network by a hash of this text, so settings that came later are in it only when set.
        later = {"format": "pictures", "window": None}
        return [(name, value) for name, value in super().__repr_args__() if name not in later or later[name] != value]


PLAIN = InputSettings()
