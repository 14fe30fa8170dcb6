"""Supervised training on one domain, the baseline of a single domain.

    for each step:  L = CE(y, G(F(x)))  over the labelled pixels of one domain

Shapes: see `methods.common.base`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fewmask.config.methods import SupervisedSettings
from fewmask.data.batch import Batch, Phase
from fewmask.data.domain import Domain
from fewmask.methods.common.base import Method, supervised_loss
from fewmask.models.universal import UniversalSegmenter


class Supervised(Method):
    Settings = SupervisedSettings
    name = "supervised"
    takes_features = True
    settings: SupervisedSettings

    def __init__(self, settings: SupervisedSettings, domains: Mapping[str, Domain]) -> None:
        super().__init__(settings, domains)
        if settings.domain is None and len(domains) > 1:
            raise ValueError(f"method.domain: missing; supervised trains on one of {', '.join(domains)}")
        if settings.domain is not None and settings.domain not in domains:
            raise ValueError(f"method.domain: no domain {settings.domain!r}; there are {', '.join(domains)}")
        self.domain = settings.domain or next(iter(domains))

    def phases(self, steps: int) -> list[Phase]:
        return [Phase("train", 0, steps, (self.domain,))]

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        return {"supervised": supervised_loss(model, model.encode(batch.image), batch)}
