"""Reading the JSON files of a run as typed records, with one kind of error for all faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

FORMAT = 1
"""The version of the run folder that this code reads and writes. A change that older code would misread raises it."""

LISTED = 3
# The json module and pydantic raise these for a damaged file. A number of a million digits causes an OverflowError.
DAMAGED = (ValueError, RecursionError, OverflowError)


class Record(BaseModel):
    """Plain data with typed fields. A field with a default is left out of the file unless it was set."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _only_given(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data = plain(self)
        optional = {name for name, field in type(self).model_fields.items() if not field.is_required()}
        left_out = optional - self.model_fields_set - {"format"}
        return {key: value for key, value in data.items() if key not in left_out}

    def to_dict(self) -> dict[str, Any]:
        """The record as plain data, as in the file."""
        return self.model_dump(mode="json")


class FileRecord(Record):
    """The contents of one JSON file of a run."""

    fix: ClassVar[str] = "train the run again"
    """The advice for a missing or damaged file."""

    format: int = FORMAT

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record in a file. Raises ValueError for a missing, damaged or foreign file, and for a newer format."""
        data = read_object(path, cls.fix)
        check_format(data.get("format"), path, cls.fix)
        try:
            return cls.model_validate(data)
        except DAMAGED as error:
            raise ValueError(f"{path}: damaged ({error_summary(error)}); {cls.fix}") from None


AnyRecord = TypeVar("AnyRecord", bound=Record)


def read_object(path: Path, fix: str) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError for any other file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: missing; {fix}") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); fix its permissions, or {fix}") from None
    except DAMAGED as error:
        raise ValueError(f"{path}: damaged ({error_summary(error)}); {fix}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path}: damaged (not a JSON object); {fix}")
    return data


def check_format(number: object, path: Path, fix: str) -> None:
    """Raises ValueError unless this version reads files of this format."""
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f"{path}: damaged (its format number is missing or wrong, fewmask writes {FORMAT}); {fix}")
    if number > FORMAT:
        raise ValueError(
            f"{path}: written by a newer fewmask (format {number}; this version reads up to {FORMAT}); install the "
            "newer version"
        )


def error_summary(error: Exception) -> str:
    """The errors in one line."""
    if isinstance(error, ValidationError):
        lines = [f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors()]
        more = f" and {len(lines) - LISTED} more" if len(lines) > LISTED else ""
        return "; ".join(lines[:LISTED])[:500] + more
    return " ".join(str(error).split())[:500] or type(error).__name__


def check_split(split: str) -> None:
    """Raises ValueError for a split other than train, val and test."""
    if split not in ("train", "val", "test"):
        raise ValueError(f"--split {split}: no such split; choose train, val or test")
