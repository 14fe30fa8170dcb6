"""FixMatch for segmentation: weak to strong, with CutMix (Sohn et al., NeurIPS 2020; Yang et al., CVPR 2023).

    for each step:  x labelled, u pool, w = weak(u), s = strong(u)
        y, p  = argmax, max of softmax(G'_k(F'(w)))                    no gradient; an answered pixel is its own, p = 1
        s, y, p ← CutMix of rows of one domain                         images, labels, confidences, void alike
        L_x   = Σ_k CE(y_x, G_k(F(x)))                                 labelled pixels
        L_u   = Σ_k 1/N_k Σ_{p ≥ .95} CE(y, G_k(F(s)))                 N_k: all pixels of the pool's rows but void
        L     = (L_x + L_u) / 2

F', G': the mean teacher, or with `ema: null` F, G in eval mode.

Shapes: see `methods.common.consistency`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewmask.config.self_labelling import FixMatchSettings
from fewmask.data.batch import Batch
from fewmask.methods.common.consistency import Consistency
from fewmask.models.universal import UniversalSegmenter


class FixMatch(Consistency):
    Settings = FixMatchSettings
    name = "fixmatch"
    settings: FixMatchSettings
    views = 1

    @property
    def active(self) -> bool:
        return self.settings.strong_weight > 0

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        if not self.active or batch.phase == "labels":
            return {"supervised": self.supervised(model, model.encode(batch.image), batch)}
        assert batch.strong is not None
        (mix,) = self.cutmix(batch, rng)
        plain, (strong,) = self.encode(model, batch, [mix.image(batch.strong[0])])
        targets = self.targets(model, plain, batch)
        agreement = self.agreement(model, strong, mix.targets(targets), batch)
        return {
            "supervised": self.supervised(model, plain, batch),
            "strong": self.settings.strong_weight * agreement,
        }
