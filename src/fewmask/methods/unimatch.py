"""UniMatch: FixMatch with two strong views and perturbed features (Yang et al., CVPR 2023; V2: TPAMI 2025).

    for each step:  x labelled, u pool, w = weak(u), s_1, s_2 = strong(u)
        y, p   = argmax, max of softmax(G'_k(F'(w)))                   no gradient; an answered pixel is its own, p = 1
        s_i, y_i, p_i = CutMix_i(s_i, y, p)                            each view with boxes of its own
        L_x    = Σ_k CE(y_x, G_k(F(x)))                                labelled pixels
        L_i    = Σ_k 1/N_k Σ_{p_i ≥ .95} CE(y_i, G_k(F(s_i)))          N_k: all pixels of the pool's rows but void
        L_fp   = Σ_k 1/N_k Σ_{p ≥ .95} CE(y, G_k(drop(F(w))))          drop: half of the channels of every row
        L      = (L_x + (L_1 + L_2)/4 + L_fp/2) / 2

F', G': the mean teacher, or with `ema: null` F, G in eval mode. The first version's: ema null, labels_in train.
The second version's: ema .996, strong_weight .5, features_weight 0, complementary true.

Shapes: U rows of the pool · C feature channels · h×w feature cells; else see `methods.common.consistency`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewmask.config.self_labelling import UniMatchSettings
from fewmask.data.batch import Batch
from fewmask.methods.common.consistency import Consistency
from fewmask.models.universal import UniversalSegmenter


class UniMatch(Consistency):
    Settings = UniMatchSettings
    name = "unimatch"
    settings: UniMatchSettings
    views = 2

    @property
    def active(self) -> bool:
        return self.settings.strong_weight > 0 or self.settings.features_weight > 0

    @property
    def sees_weak(self) -> bool:
        return super().sees_weak or self.settings.features_weight > 0

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        s = self.settings
        if not self.active or batch.phase == "labels":
            return {"supervised": self.supervised(model, model.encode(batch.image), batch)}
        assert batch.strong is not None
        mixes = self.cutmix(batch, rng)
        mixed = [mix.image(view) for mix, view in zip(mixes, batch.strong, strict=True)]
        plain, (first, second) = self.encode(model, batch, mixed)
        targets = self.targets(model, plain, batch)
        if s.complementary:
            first, second = complementary_dropout(first, second, rng)
        agreements = [
            self.agreement(model, features, mix.targets(targets), batch)
            for features, mix in zip((first, second), mixes, strict=True)
        ]
        terms = {
            "supervised": self.supervised(model, plain, batch),
            "strong": s.strong_weight * torch.stack(agreements).mean(),
        }
        if s.features_weight:
            perturbed = channel_dropout(plain[batch.pool :], rng)
            terms["features"] = s.features_weight * self.agreement(model, perturbed, targets, batch)
        return terms


def channel_dropout(features: Tensor, rng: torch.Generator) -> Tensor:
    """Set each channel of each row (U,C,h,w) to 0 or double it, with probability ½ each."""
    return features * (2 * _halves(features, rng))


def complementary_dropout(first: Tensor, second: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Set half of the channels of each row (U,C,h,w) of `first` to 0 and double the others. `second` gets the opposite.
    ⌊U/2⌋ random rows stay unchanged."""
    unchanged = torch.rand(len(first), generator=rng, device=rng.device).argsort().argsort() < len(first) // 2
    factor = torch.where(unchanged[:, None, None, None], 1.0, 2 * _halves(first, rng)).to(first.dtype)
    return first * factor, second * (2 - factor)


def _halves(features: Tensor, rng: torch.Generator) -> Tensor:
    """(U,C,1,1): 0 or 1, with probability ½ each."""
    size = (len(features), features.shape[1], 1, 1)
    return (torch.rand(size, generator=rng, device=rng.device) < 0.5).to(features.dtype)
