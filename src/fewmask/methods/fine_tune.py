"""Fine-tuning from one domain to the next: a baseline of joint training that shows forgetting.

    for each domain A, B, … in order:  train F and its head on that domain's labels alone, with a schedule of its own

Every domain is scored at the end of every phase, so that the score of A after B can be compared with that after A.

Shapes: see `methods.common.base`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fewmask.config.methods import FineTuneSettings
from fewmask.data.batch import Batch, Phase
from fewmask.data.domain import Domain
from fewmask.methods.common.base import Method, supervised_loss
from fewmask.models.universal import UniversalSegmenter


class FineTune(Method):
    Settings = FineTuneSettings
    name = "fine-tune"
    settings: FineTuneSettings

    def __init__(self, settings: FineTuneSettings, domains: Mapping[str, Domain]) -> None:
        super().__init__(settings, domains)
        self.order = settings.order or tuple(domains)
        if sorted(self.order) != sorted(domains):
            raise ValueError(f"method.order: {list(self.order)} is not an order of the domains {', '.join(domains)}")
        if len(self.order) < 2:
            raise ValueError("method.order: fine-tuning goes from one domain to another; give at least two domains")

    def phases(self, steps: int) -> list[Phase]:
        bounds = [steps * i // len(self.order) for i in range(len(self.order) + 1)]
        return [
            Phase(name, start, stop, (name,), restart=True)
            for name, start, stop in zip(self.order, bounds, bounds[1:], strict=False)
        ]

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        return {"supervised": supervised_loss(model, model.encode(batch.image), batch)}
