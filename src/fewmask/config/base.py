"""The base classes and the common types of the settings."""

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
    """Resolve a relative path against the folder in the validation context, which is that of the configuration file."""
    try:
        return Path(os.path.abspath((info.context or {}).get("folder", Path()) / path.expanduser()))
    except RuntimeError:  # `~somebody`
        raise ValueError(f"there is no home folder {path.parts[0]}; write the whole path") from None


ConfigPath = Annotated[Path, AfterValidator(_from_here)]


def _names_a_folder(name: str) -> str:
    if problem := fault(name):
        raise ValueError(problem)
    return name


Name = Annotated[str, AfterValidator(_names_a_folder)]
"""A name that becomes a folder's name."""


def _ascends(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError("the smaller number comes first")
    return ends


Interval = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ascends)]


def _make_strict(schema: Any) -> None:
    """Make every number and truth value in a schema strict. A strict model would also refuse a list for a tuple."""
    if isinstance(schema, dict):
        if schema.get("type") in ("int", "float", "bool"):
            schema["strict"] = True
        for inner in schema.values():
            _make_strict(inner)
    elif isinstance(schema, list | tuple):
        for inner in schema:
            _make_strict(inner)


class Settings(BaseModel):
    """The base class of all settings. Values are not converted: `steps: true` and `steps: "80"` are no numbers."""

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
    """The measured cost of a row of the pool in a step, in labelled rows: see "Cost" on each page in docs/methods. It
    is the mean over all steps, also for a method that draws from the pool in some of its phases only."""
    self_training: ClassVar[bool] = False
    """Whether the method learns from pseudo-labels of the previous generation. A campaign writes them between its
    rounds."""

    def over(self, steps: int) -> Self:
        """These settings for a training of `steps` steps, with a number for each setting that depends on the length."""
        return self
