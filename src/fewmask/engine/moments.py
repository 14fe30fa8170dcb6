"""What a training tells while it runs, and what it breaks down with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


class NonFiniteError(RuntimeError):
    """A term of the loss or a gradient is NaN or infinite. Neither an optimiser nor the method has seen it."""


@dataclass(frozen=True)
class Moment:
    """What an observer is told after every step, and after every image of an evaluation (stage "evaluate")."""

    run: str
    stage: str
    step: int
    steps: int
    terms: Mapping[str, float]
    steps_per_second: float
    memory_mib: float | None
    """Of the GPU or, without one, of this process; None where the system does not tell, as Windows."""
    later: int = 0
    """Steps of the trainings that come after this one."""

    @property
    def loss(self) -> float:
        return sum(self.terms.values())

    @property
    def seconds_left(self) -> float:
        return (self.steps - self.step + self.later) / self.steps_per_second if self.steps_per_second else 0.0


Observer = Callable[[Moment], None]
