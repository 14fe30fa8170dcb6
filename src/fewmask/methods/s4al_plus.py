"""S4AL+: one generation of noisy-student self-training (Rangnekar, Kanan and Hoffman, BMVC 2022).

    the last generation has written the pool's pseudo-labels; without pseudo-labels this is the first teacher
    for each step:
        x      = cat(labelled, noise(pool))                          one forward, one batch normalisation
        y      = a person's answer where there is one, else the pseudo-label if its confidence ≥ .7; holes are void
        L_sup  = Σ_k CE(y, G_k(F(x)))                                 of all labels; focal γ, PolyLoss ε
        L_con  = mean_k ReCo(R(F(x)), y)                              regional contrast among the classes of domain k
        L      = L_sup + weight · L_con

Shapes: see `methods.common.base`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fewmask.config.methods import S4alPlusSettings
from fewmask.data.batch import Batch, Phase
from fewmask.data.domain import Domain
from fewmask.data.pseudo import STEPS
from fewmask.methods.common.base import Method, supervised_loss
from fewmask.methods.common.representation import Representation
from fewmask.models.universal import UniversalSegmenter


class S4alPlus(Method):
    Settings = S4alPlusSettings
    name = "s4al-plus"
    settings: S4alPlusSettings

    def __init__(self, settings: S4alPlusSettings, domains: Mapping[str, Domain]) -> None:
        super().__init__(settings, domains)
        self.representation: Representation | None = None

    def phases(self, steps: int) -> list[Phase]:
        every, s = tuple(self.domains), self.settings
        pool = {name: d for name, d in self.domains.items() if d.unlabelled}
        if all(d.pseudo is None for d in pool.values()):
            return [Phase("teacher", 0, steps, every)]
        # A domain without pseudo-labels is drawn from the pool for its answered regions.
        drawn = tuple(name for name, d in pool.items() if d.pseudo is not None or d.partial)
        return [Phase("student", 0, steps, every, drawn, whole=True, pseudo=s.confidence, noise=s.noise)]

    def prepare(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        if self.settings.contrast.weight:
            self.representation = Representation(self.settings.contrast, model, rng)

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        s, features = self.settings, model.encode(batch.image)
        sure = batch.confidence
        weight = (sure.float() / STEPS).clamp_max(1) if s.weigh and sure is not None else None
        loss = supervised_loss(model, features, batch, weight=weight, gamma=s.gamma or None, epsilon=s.epsilon)
        terms = {"supervised": loss}
        if self.representation is not None:
            terms["contrast"] = s.contrast.weight * self.representation.contrast(model, features, batch, rng)
        return terms
