"""`metrics.jsonl`: the log of a training, one JSON object in each line. A line describes a step or a validation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fewmask.config import Fraction
from fewmask.files import write_text
from fewmask.runs.reading import DAMAGED, Record, error_summary

T = TypeVar("T")


class StepLine(Record):
    """The line of a step."""

    step: int
    phase: str
    loss: float
    terms: dict[str, float]
    """The weighted terms of the loss, and the further metrics of a method. In the file each of them has a key of its
    own."""
    lr: float
    seconds: float
    """Seconds of training so far, without pauses."""

    def to_line(self) -> dict[str, Any]:
        data = self.to_dict()
        terms = data.pop("terms")
        return {**{key: data.pop(key) for key in ("step", "phase", "loss")}, **terms, **data}

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> StepLine:
        fields = cls.model_fields.keys() - {"terms"}
        plain = {key: value for key, value in line.items() if key in fields}
        return cls(**plain, terms={key: value for key, value in line.items() if key not in fields})


class ValidationLine(Record):
    """The line of a validation."""

    step: int
    validation: dict[str, Fraction | None]
    avg_miou: Fraction | None
    weights: dict[str, Fraction | None] = {}
    """As in `Validation`."""


def append(path: Path, line: Mapping[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_steps(path: Path) -> list[StepLine]:
    """The lines of all steps; empty where there is no file. Raises ValueError for a damaged line."""
    lines = [line for _, line in _lines(path, lambda data: None if "validation" in data else StepLine.from_line(data))]
    return [line for line in lines if line is not None]


def cut_after(path: Path, step: int, validated: bool = True) -> None:
    """Remove the lines after the step that a killed run resumes from, so that no step is logged twice.

    The validation of that step is removed too, unless the step is `validated`. Raises ValueError for a damaged line.
    """
    if path.exists():
        # A validation is placed half a step after its step.
        lines = _lines(path, lambda data: float(data["step"]) + 0.5 * ("validation" in data))
        write_text(path, "".join(f"{line}\n" for line, position in lines if position <= step + 0.5 * validated))


def _lines(path: Path, parse: Callable[[dict[str, Any]], T]) -> list[tuple[str, T]]:
    """Each line with its parsed object. A damaged last line is left out: a run is writing it, or was killed then."""
    try:
        text = path.read_bytes().decode("utf-8", errors="surrogateescape") if path.exists() else ""
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); fix its permissions") from None
    lines, parsed = text.split("\n"), []
    last = lines.pop()  # empty after a whole line
    for number, line in enumerate([*lines, *filter(None, [last])], 1):
        try:
            data = json.loads(line)
            parsed.append((line, parse(data if isinstance(data, dict) else {})))
        except (*DAMAGED, KeyError, TypeError) as error:
            if number > len(lines):
                break
            raise ValueError(
                f"{path}: line {number} is damaged ({error_summary(error)}); remove the line, or train the run again"
            ) from None
    return parsed
