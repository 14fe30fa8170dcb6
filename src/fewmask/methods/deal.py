"""DEAL: supervised training with a branch that learns where the network is wrong (Xie et al., ACCV 2020).

    for each step:
        L_sup = Σ_k CE(y, G_k(F(x)))                                 labelled pixels
        m     = 1 where argmax G_k(F(x)) ≠ y, else 0                  the error mask
        L_dif = Σ_k BCE(m, B(F(x)))                                   labelled pixels
        L     = L_sup + weight · L_dif

The branch serves active learning: the scores `difficulty` and `difficulty-entropy` read it.

Shapes: B rows · C feature channels · H×W pixels · h×w feature cells · K domains.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fewmask.config.methods import DealSettings
from fewmask.data.batch import Batch, take
from fewmask.losses.difficulty import difficulty_loss
from fewmask.methods.common.base import Method, label_loss, sum_over_domains
from fewmask.models.branch import branch
from fewmask.models.universal import UniversalSegmenter


class Deal(Method):
    Settings = DealSettings
    name = "deal"
    settings: DealSettings
    branch: nn.Sequential

    def prepare(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        self.branch = branch(model.channels, self.settings.channels, 1, self.settings.kernel, rng)

    def extra_modules(self, model: UniversalSegmenter) -> dict[str, nn.Module]:
        return {"difficulty": self.branch}

    def difficulty(self, features: Tensor) -> Tensor:
        """F's features (B,C,h,w) → logits of being wrong (B,1,h,w); `model.upsample` brings them to pixels."""
        return self.branch(features if self.settings.reach == "features" else features.detach())

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        features = model.encode(batch.image)
        difficulty = model.upsample(self.difficulty(features), batch.size)

        def terms(k: int, rows: Tensor) -> Tensor:
            logits, label = model.logits(take(features, rows), model.domains[k], batch.size), take(batch.label, rows)
            factor, pixels = batch.weighted(k, rows)
            errors = difficulty_loss(take(difficulty, rows), logits, label, pixels, weight=factor)
            return torch.stack([label_loss(logits, label, batch, k, rows), errors])

        supervised, errors = sum_over_domains(batch.labelled_rows(), terms, difficulty, 2)
        return {"supervised": supervised, "difficulty": self.settings.weight * errors}
