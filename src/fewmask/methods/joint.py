"""Joint training of all domains from their labels: "univ-basic" of Kalluri et al. (ICCV 2019), α = β = 0.

    for each step:  L = Σ_k CE(y, G_k(F(x)))  over the labelled pixels of every domain, one forward of F

Shapes: see `methods.common.base`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewmask.config.methods import JointSettings
from fewmask.data.batch import Batch
from fewmask.methods.common.base import Method, supervised_loss
from fewmask.models.universal import UniversalSegmenter


class Joint(Method):
    Settings = JointSettings
    name = "joint"
    takes_features = True

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        return {"supervised": supervised_loss(model, model.encode(batch.image), batch)}
