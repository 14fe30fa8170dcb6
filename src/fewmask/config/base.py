"""What all settings are made of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationInfo

from fewmask.paths import fault

Fraction = Annotated[float, Field(ge=0, le=1)]
Size = tuple[PositiveInt, PositiveInt]
Shrink = Annotated[float, Field(gt=0, le=1)]
Precision = Literal["auto", "fp32", "bf16"]


def _from_here(path: Path, info: ValidationInfo) -> Path:
    """Relative paths are relative to the file that names them, handed over as validation context."""
    return Path(os.path.abspath((info.context or {}).get("folder", Path()) / path.expanduser()))


ConfigPath = Annotated[Path, AfterValidator(_from_here)]


def _names_a_folder(name: str) -> str:
    if wrong := fault(name):
        raise ValueError(wrong)
    return name


Name = Annotated[str, AfterValidator(_names_a_folder)]
"""What becomes a folder's name."""


def _ascends(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError("the smaller one comes first")
    return ends


Interval = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ascends)]


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
