"""The optimisers of a run and the schedules of their rates. The main optimiser has one rate for the pretrained encoder
and one for the rest. A method may have further optimisers for its networks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from fewmask.config import NetworkOptimiserSettings, OptimiserSettings
from fewmask.data.batch import Phase
from fewmask.methods.common.base import Method
from fewmask.models.universal import UniversalSegmenter


class Optimisers:
    """All optimisers of a run, by name. "main" has the model's parameters, and those of the method's trainable
    parameters that `Method.optimisers` does not claim. Segmenters among the method's networks have the model's two
    rates.

    Each optimiser has its own rate, schedule and clipping. A parameter without a gradient in a step is not updated.
    """

    def __init__(self, settings: OptimiserSettings, model: UniversalSegmenter, method: Method) -> None:
        claimed = method.optimisers()
        taken_parameters = [p for claim in claimed.values() for p in claim.parameters]
        taken_ids = {id(p) for p in taken_parameters}
        assert len(taken_ids) == len(taken_parameters), "two optimisers claim one parameter"
        assert taken_ids <= {id(p) for p in method.parameters() if p.requires_grad}, "not the method's, or frozen"
        segmenters = [model, *(m for m in method.modules() if isinstance(m, UniversalSegmenter))]
        every = [p for p in nn.ModuleList([model, method]).parameters() if p.requires_grad and id(p) not in taken_ids]
        inside = {id(p) for s in segmenters for p in s.encoder_parameters()}
        encoder, rest = [p for p in every if id(p) in inside], [p for p in every if id(p) not in inside]
        self.main = build_optimiser(settings, encoder, rest)
        self._all: dict[str, tuple[Optimizer, NetworkOptimiserSettings]] = {"main": (self.main, settings)}
        for name, claim in claimed.items():
            assert name != "main", "the model's optimiser has this name"
            groups = [{"params": list(claim.parameters), "peak": claim.settings.lr}]
            self._all[name] = (_build(claim.settings, groups), claim.settings)

    def set_rates(self, step: int, phases: Sequence[Phase]) -> None:
        for optimiser, settings in self._all.values():
            set_rate(optimiser, rate_factor(settings, step, phases))

    def zero_grad(self) -> None:
        for optimiser, _ in self._all.values():
            optimiser.zero_grad()

    def clip(self) -> dict[str, Tensor]:
        """Clip the gradients of each optimiser with a `clip_norm`, and return the norms before clipping, by name. An
        optimiser without a gradient is left out."""
        norms = {}
        for name, (optimiser, settings) in self._all.items():
            parameters = [p for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
            if parameters:
                norms[name] = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
                if settings.clip_norm is not None:
                    nn.utils.clip_grads_with_norm_(parameters, settings.clip_norm, norms[name])
        return norms

    def step(self) -> None:
        for optimiser, _ in self._all.values():
            optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        return {name: optimiser.state_dict() for name, (optimiser, _) in self._all.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, (optimiser, _) in self._all.items():
            optimiser.load_state_dict(state[name])


def build_optimiser(
    settings: OptimiserSettings, encoder: Sequence[nn.Parameter], rest: Sequence[nn.Parameter]
) -> Optimizer:
    """An optimiser with two groups: the encoder at `lr`, the rest at `head_lr`. `set_rate` sets the rates of a step."""
    groups = [{"params": list(encoder), "peak": settings.lr}, {"params": list(rest), "peak": settings.head_lr}]
    return _build(settings, groups)


def _build(settings: NetworkOptimiserSettings, groups: Iterable[dict[str, Any]]) -> Optimizer:
    if settings.name == "sgd":
        return SGD(
            groups,
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov and settings.momentum > 0,
            weight_decay=settings.weight_decay,
        )
    kind = AdamW if settings.name == "adamw" else Adam
    return kind(groups, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True)


def set_rate(optimiser: Optimizer, factor: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor


def rate_factor(settings: NetworkOptimiserSettings, step: int, phases: Sequence[Phase]) -> float:
    """The rate of `step` as a fraction of the peak; the schedule runs over the phases up to the next `restart`."""
    start = max((p.start for p in phases if p.start <= step and (p.restart or p.start == 0)), default=0)
    stop = min((p.start for p in phases if p.start > step and p.restart), default=phases[-1].stop)
    done, total = step - start, stop - start
    warm = round(settings.warmup * total)
    if done < warm:
        return (done + 1) / warm
    rest = (done - warm) / max(total - warm, 1)
    if settings.schedule == "poly":
        return (1 - rest) ** settings.power
    if settings.schedule == "cosine":
        return (1 + math.cos(math.pi * rest)) / 2
    return 1.0
