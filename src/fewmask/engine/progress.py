"""The progress of a training, as its callback gets it, and the error of a training that diverges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


class NonFiniteError(RuntimeError):
    """A term of the loss or a gradient is NaN or infinite. Neither an optimiser nor the method has seen it."""


@dataclass(frozen=True)
class ProgressEvent:
    """The event after every step, and after every image of an evaluation (stage "evaluate")."""

    run: str
    stage: str
    step: int
    steps: int
    terms: Mapping[str, float]
    steps_per_second: float
    memory_mib: float | None
    """The memory of the GPU or, without one, of this process; None where the system does not report it, as Windows."""
    later: int = 0
    """Steps of the trainings that come after this one."""

    @property
    def loss(self) -> float:
        return sum(self.terms.values())

    @property
    def seconds_left(self) -> float:
        return (self.steps - self.step + self.later) / self.steps_per_second if self.steps_per_second else 0.0


ProgressCallback = Callable[[ProgressEvent], None]
