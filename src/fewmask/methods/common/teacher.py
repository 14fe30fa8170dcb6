"""The mean teacher (Tarvainen and Valpola, NIPS 2017): a second network whose weights follow the student's.

    after step t = 0, 1, …:  θ' ← d θ' + (1 − d) θ,  d = min(1 − 1/(t + 1), momentum)

Shapes: see `methods.common.base`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from fewmask.config.self_labelling import MeanTeacherSettings
from fewmask.data.domain import Domain
from fewmask.methods.common.base import RIVAL, Method
from fewmask.models.universal import UniversalSegmenter

Network = TypeVar("Network", bound=nn.Module)


class Teacher(nn.Module, Generic[Network]):
    """The moving average of a student's parameters and buffers, which include the running statistics of batch
    normalisation. It is always in eval mode and never has a gradient.

    The first `follow` copies the student. The following calls average all students so far, until `momentum` is reached.
    """

    def __init__(self, student: Network, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.model: Network = copy.deepcopy(student).requires_grad_(False)
        device = next(student.parameters()).device
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64, device=device))
        self.updates: Tensor
        self.eval()

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    @torch.no_grad()
    def follow(self, student: Network) -> None:
        # The count stays on the device, since reading it would wait for the device.
        momentum = (1 - 1 / (self.updates + 1)).clamp(max=self.momentum)
        for average, value in zip(_values(self.model), _values(student), strict=True):
            if average.is_floating_point():
                average.lerp_(value, (1 - momentum).to(average.dtype))
            else:
                average.copy_(value)
        self.updates += 1


def _values(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


class MeanTeacherMethod(Method):
    """A method that has a teacher if its settings say so."""

    settings: MeanTeacherSettings

    def __init__(self, settings: MeanTeacherSettings, domains: Mapping[str, Domain]) -> None:
        super().__init__(settings, domains)
        self.teacher: Teacher[UniversalSegmenter] | None = None

    def prepare(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        ema = self.settings.ema
        assert ema != "auto", "`build` has made it a number"
        if ema is not None:
            self.teacher = Teacher(model, ema)

    def inference_model(self, model: UniversalSegmenter) -> UniversalSegmenter:
        return model if self.teacher is None or self.settings.answers == "student" else self.teacher.model

    def extra_modules(self, model: UniversalSegmenter) -> dict[str, nn.Module]:
        if self.teacher is None:
            return {}
        if self.settings.answers == "auto":
            return {RIVAL: model}
        return {"teacher": self.teacher.model} if self.settings.answers == "student" else {"student": model}

    def after_step(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        if self.teacher is not None:
            self.teacher.follow(model)
