"""MMD: training pulls the features of any two domains towards one distribution (Long et al., DAN, ICML 2015).

    for each step:
        L_sup = Σ_k CE(y, G_k(F(x)))                       labelled pixels
        S_k   ~ N cells of F(x) or E(F(x)) of domain k     labelled and unlabelled ones, no void
        L_mmd = mean_{i<j} MMD²(S_i, S_j)                  a mixture of Gaussian kernels
        L     = L_sup + weight · L_mmd

The method ignores the class of a cell. It assumes that all domains show the same classes equally often.

Shapes: B rows · K domains, G pairs of them in the batch · C feature channels · h×w cells, P = B·h·w of them, N drawn.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fewmask.config.methods import MmdSettings
from fewmask.data.batch import Batch, Phase
from fewmask.data.domain import Domain
from fewmask.labels import VOID
from fewmask.losses.mmd import draw_cells, linear_mmd, quadratic_mmd
from fewmask.methods.common.base import Method, supervised_loss, two_or_more
from fewmask.models.universal import UniversalSegmenter, at_stride


class Mmd(Method):
    Settings = MmdSettings
    name = "mmd"
    takes_features = True
    settings: MmdSettings

    def __init__(self, settings: MmdSettings, domains: Mapping[str, Domain]) -> None:
        super().__init__(settings, two_or_more(domains, settings.name))

    def phases(self, steps: int) -> list[Phase]:
        every = tuple(self.domains)
        return [Phase("train", 0, steps, every, every if self.settings.weight else ())]

    @property
    def trains_embedding(self) -> bool:
        return self.settings.where == "embedding" and self.settings.weight > 0

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        features = model.encode(batch.image)
        terms = {"supervised": supervised_loss(model, features, batch)}
        if self.settings.weight:
            terms["mmd"] = self.settings.weight * self.discrepancy(model, features, batch, rng)
        return terms

    def discrepancy(self, model: UniversalSegmenter, features: Tensor, batch: Batch, rng: torch.Generator) -> Tensor:
        """L_mmd over the pairs of domains in the micro-batch: features (B,C,·,·) → scalar."""
        s, stride = self.settings, model.stride
        if s.where == "embedding":
            features, stride = model.embed(features), model.embedding_stride
        present = batch.domain.unique()
        if len(present) < 2:
            return features.sum() * 0.0
        valid_cells = at_stride(batch.label, stride, model.multiple) != VOID
        owner = (batch.domain == present[:, None]).to(valid_cells.device)
        index, valid = draw_cells((owner[:, :, None, None] & valid_cells).flatten(1), s.cells, rng)
        drawn = features.permute(0, 2, 3, 1).flatten(0, 2)[index]
        i, j = torch.combinations(torch.arange(len(present), device=valid_cells.device)).T
        mmd = linear_mmd if s.estimator == "linear" else quadratic_mmd
        return mmd(drawn[i], drawn[j], (valid[i], valid[j]), s.multiples).mean()
