"""What all settings are made of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
)

from fewmask.paths import fault

Fraction = Annotated[float, Field(ge=0, le=1)]
Size = tuple[PositiveInt, PositiveInt]
Shrink = Annotated[float, Field(gt=0, le=1)]
Precision = Literal["auto", "fp32", "bf16"]


def _from_here(path: Path, info: ValidationInfo) -> Path:
    """Relative paths are relative to the file that names them, handed over as validation context."""
    try:
        return Path(os.path.abspath((info.context or {}).get("folder", Path()) / path.expanduser()))
    except RuntimeError:  # `~somebody`
        raise ValueError(f"there is no home folder {path.parts[0]}; write the whole path") from None


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


def _make_strict(schema: Any) -> None:
    """Every number and truth value in a schema; a strict model would also refuse a list for a tuple."""
    if isinstance(schema, dict):
        if schema.get("type") in ("int", "float", "bool"):
            schema["strict"] = True
        for part in schema.values():
            _make_strict(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            _make_strict(part)


class Settings(BaseModel):
    """Numbers and truth values are what they are written as: `steps: true` is no number, nor is `steps: "80"`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> Any:
        schema = handler(source)
        _make_strict(schema)
        return schema


class MethodSettings(Settings):
    name: str
    """The method."""
    pool_cost: ClassVar[float] = 0.0
    """What a row of the pool costs in a step, in labelled rows: measured, see "Cost" of each page in docs/methods. A
    method that draws from the pool in some of its phases alone has the mean over its steps."""
    self_training: ClassVar[bool] = False
    """It learns from the pseudo-labels of the generation before: a campaign writes them between its rounds."""

    def over(self, steps: int) -> Self:
        """These settings for a training of so many steps: what depends on its length is a number."""
        return self
