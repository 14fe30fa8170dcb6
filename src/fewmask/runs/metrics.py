"""`metrics.jsonl`: what happened in a training, a JSON object a line. Two kinds of line: a step, and a validation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fewmask.config import Fraction
from fewmask.files import write_text
from fewmask.runs.reading import DAMAGED, Record, told

T = TypeVar("T")


class StepLine(Record):
    """What was logged of a step."""

    step: int
    phase: str
    loss: float
    terms: dict[str, float]
    """The terms of the loss, weighted as they enter it, and what a method reports beside them. In the file each of them
    is a key of its own."""
    lr: float
    seconds: float
    """Since the run began, without pauses."""

    def to_line(self) -> dict[str, Any]:
        data = self.to_dict()
        terms = data.pop("terms")
        return {**{key: data.pop(key) for key in ("step", "phase", "loss")}, **terms, **data}

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> StepLine:
        own = cls.model_fields.keys() - {"terms"}
        plain = {key: value for key, value in line.items() if key in own}
        return cls(**plain, terms={key: value for key, value in line.items() if key not in own})


class ValidationLine(Record):
    """What was logged of a validation."""

    step: int
    validation: dict[str, Fraction | None]
    avg_miou: Fraction | None
    weights: dict[str, Fraction | None] = {}
    """As in `Validation`."""


def append(path: Path, line: Mapping[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_steps(path: Path) -> list[StepLine]:
    """What was logged of steps; nothing where there is no file. Raises ValueError for a damaged line."""
    lines = [line for _, line in _lines(path, lambda data: None if "validation" in data else StepLine.from_line(data))]
    return [line for line in lines if line is not None]


def cut_after(path: Path, step: int, validated: bool = True) -> None:
    """Remove what a killed run had logged after the step that it resumes from, so that no step is logged twice. Unless
    that step is `validated`, its validation is removed too.

    Raises ValueError for a damaged line.
    """
    if path.exists():
        # A validation comes half a step after the step that it looks at.
        lines = _lines(path, lambda data: float(data["step"]) + 0.5 * ("validation" in data))
        write_text(path, "".join(f"{line}\n" for line, at in lines if at <= step + 0.5 * validated))


def _lines(path: Path, parse: Callable[[dict[str, Any]], T]) -> list[tuple[str, T]]:
    """Each line with what `parse` makes of it. The last one may be cut off, which is left out: a run may be writing it,
    or was killed in it."""
    try:
        text = path.read_bytes().decode("utf-8", errors="surrogateescape") if path.exists() else ""
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); fix its permissions") from None
    lines, found = text.split("\n"), []
    last = lines.pop()  # empty after a whole line
    for number, line in enumerate([*lines, *filter(None, [last])], 1):
        try:
            data = json.loads(line)
            found.append((line, parse(data if isinstance(data, dict) else {})))
        except (*DAMAGED, KeyError, TypeError) as error:
            if number > len(lines):
                break
            raise ValueError(
                f"{path}: line {number} is damaged ({told(error)}); remove the line, or train the run again"
            ) from None
    return found
