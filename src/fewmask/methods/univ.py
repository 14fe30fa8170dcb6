"""Universal semi-supervised segmentation (Kalluri et al., ICCV 2019): univ-full, and univ-cross, which is β = 0.

    for each step:
        L_sup    = Σ_k CE(y, G_k(F(x)))                          labelled pixels
        v_ij     = ⟨E(F(x)), c^(j)⟩                              unlabelled pixels x of domain i, classes of domain j
        L_cross  = Σ_i mean_x 1/(K−1) Σ_{j≠i} H(σ(v_ij))
        L_within = Σ_i mean_x H(σ(v_ii))
        L        = L_sup + α L_cross + β L_within        (+ the anchor of the default mode)

The prototypes c^(j) are those of §3.3 in `mode: faithful`. docs/decisions/0003-entropy-module.md says what the anchored
mode changes and why.

Shapes: B rows · C feature channels · D embedding size · h×w cells of the embedding.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fewmask.config.methods import UnivCrossSettings, UnivFullSettings, UnivSettings
from fewmask.data.batch import Batch, Phase
from fewmask.data.domain import Domain
from fewmask.methods.common.base import Method, supervised_loss
from fewmask.methods.common.pool import encode
from fewmask.methods.common.prototypes import Cells, FixedPrototypes, LivePrototypes
from fewmask.models.universal import UniversalSegmenter, at_stride


class Univ(Method):
    """The step of both methods."""

    takes_features = True
    settings: UnivSettings

    def __init__(self, settings: UnivSettings, domains: Mapping[str, Domain]) -> None:
        super().__init__(settings, domains)
        s = settings
        self.prototypes: LivePrototypes | FixedPrototypes
        if s.mode == "anchored":
            self.prototypes = LivePrototypes(domains, s.prototypes, s.temperature, s.momentum, s.drawn, s.private)
        else:
            self.prototypes = FixedPrototypes(domains, s.initial_embedding == "pca", s.absent == "refused")

    @property
    def weights(self) -> tuple[float, float]:
        """α, β."""
        return self.settings.alpha, 0.0

    @property
    def active(self) -> bool:
        """False with α = β = 0. The method is then joint training, bit for bit."""
        return self.weights != (0, 0)

    @property
    def trains_embedding(self) -> bool:
        return self.active

    def phases(self, steps: int) -> list[Phase]:
        every = tuple(self.domains)
        if not self.active:
            return [Phase("joint", 0, steps, every)]
        change = round(steps * self.settings.pretrain)
        return [Phase("pretrain", 0, change, every), Phase("align", change, steps, every, every)]

    def prepare(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        if self.active:
            self.prototypes.prepare(model, rng)

    def begin(self, phase: Phase, model: UniversalSegmenter, rng: torch.Generator) -> None:
        if phase.name == "align":
            self.prototypes.settle(model)

    def forward_batch_sizes(self, labelled: int, unlabelled: int) -> tuple[int, ...]:
        apart = unlabelled and self.settings.forward == "separate"
        return (labelled, unlabelled) if apart else (labelled + unlabelled,)

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        parts = [part for part in (batch.image[: batch.pool], batch.image[batch.pool :]) if len(part)]
        features = torch.cat(encode(model, parts, together=self.settings.forward == "joint"))
        terms = {"supervised": supervised_loss(model, features, batch)}
        # Labelled images have pixels without a label too, but during the pretraining only labels are used.
        aligning = batch.phase == "align"
        anchoring = self.active and isinstance(self.prototypes, LivePrototypes)
        if not aligning and not anchoring:
            return terms
        label = at_stride(batch.label, model.embedding_stride, model.multiple)
        count = batch.counts[model.embedding_stride]
        if isinstance(self.prototypes, LivePrototypes):
            anchored = features.detach() if self.settings.anchor_trains == "embedding" else features
            terms["anchor"] = self.settings.anchor * self.prototypes.anchor(
                Cells(model.embed(anchored), label, batch, count)
            )
        if aligning:
            alpha, beta = self.weights
            aligned = self.prototypes.align(Cells(model.embed(features), label, batch, count))
            terms["cross"] = alpha * aligned.cross
            if beta:
                terms["within"] = beta * aligned.within
            self.metrics["marginal_entropy"] = aligned.marginal
        return terms

    def after_step(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        if self.active:
            self.prototypes.follow(rng)


class UnivCross(Univ):
    Settings = UnivCrossSettings
    name = "univ-cross"


class UnivFull(Univ):
    Settings = UnivFullSettings
    name = "univ-full"
    settings: UnivFullSettings

    @property
    def weights(self) -> tuple[float, float]:
        return self.settings.alpha, self.settings.beta
