"""Measure a step of one method over another's, on batches in memory.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fewmask.config import Config
from fewmask.data.batches import Steps
from fewmask.data.domain import Domain
from fewmask.engine.device import autocast
from fewmask.engine.optimiser import Optimisers
from fewmask.labels import Mask
from fewmask.methods import METHODS, build
from fewmask.models.universal import UniversalSegmenter


@dataclass(frozen=True)
class SureOfEverything:
    """Pseudo-labels (H,W) that pass every threshold."""

    domain: Domain

    def read(self, stem: str) -> tuple[Mask, np.ndarray]:
        label = np.zeros(self.domain.image(stem).shape[:2], np.uint8)
        return label, np.full_like(label, 254)


def step_of(
    name: str, config: Config, domains: Mapping[str, Domain], model: UniversalSegmenter, asked: int, **options: Any
) -> Callable[[], None]:
    """A training step of a method's last phase: its terms, their gradient, the optimiser, and the method's own updates.

    `asked` images of every domain's pool have answered regions, as from a campaign's second round on; `options` are
    settings of the method.
    """
    domains = {n: _answered(d, asked) for n, d in domains.items()}
    method = build(METHODS[name].Settings.model_validate({"name": name, **options}), domains, config.train.steps)
    device = model.mean.device
    rng = torch.Generator(device).manual_seed(0)
    method.prepare(model.train(), rng)
    method.to(device)
    optimisers = Optimisers(config.train.optimiser, model, method)
    phases = method.phases(config.train.steps)
    strides = sorted({1, model.stride, model.embedding_stride})
    steps = Steps(domains, config.train, phases, strides, model.multiple, config.seed)
    batch = steps[config.train.steps - 1][0].to(device)

    def step() -> None:
        optimisers.zero_grad()
        with autocast(device, config.train.precision):
            terms = method.step(model, batch, rng)
        torch.stack(list(terms.values())).sum().backward()
        optimisers.step()
        method.after_step(model, rng)

    return step


def _answered(domain: Domain, asked: int) -> Domain:
    pool = domain.unlabelled
    return replace(
        domain,
        labelled=(*domain.labelled, *pool[:asked]),
        partial=dict.fromkeys(pool[:asked], 0.1),
        pseudo=SureOfEverything(domain),
    )
