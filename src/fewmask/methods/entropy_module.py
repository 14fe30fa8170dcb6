"""The entropy module of universal semi-supervised segmentation: prototypes of every domain's classes in one space,
and the terms that ask each unlabelled pixel to be sure of its class, in its own domain and in every other.

Kalluri et al., ICCV 2019, §3.3; what is mended in the anchored mode: docs/decisions/0003-entropy-module.md.

Shapes: B rows · C feature channels · D embedding size · h×w cells of the embedding.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from fewmask.config import Fraction
from fewmask.data.batches import Batch, Phase
from fewmask.data.domain import Domain
from fewmask.methods.base import Method, MethodSettings, supervised_loss
from fewmask.methods.pool import encode
from fewmask.methods.prototypes import Cells, FixedPrototypes, LivePrototypes
from fewmask.models.universal import UniversalSegmenter, at_stride


class EntropyModuleSettings(MethodSettings):
    mode: Literal["anchored", "faithful"] = "anchored"
    pretrain: Fraction = 0.25
    """Part of the steps that sees labels alone: faithful prototypes come from the end of it, live ones settle in it."""
    initial_embedding: Literal["random", "pca"] = "random"
    """faithful: where E starts once the prototypes are fixed; "pca" is the projection that made them."""
    absent: Literal["refused", "left-out"] = "refused"
    """faithful: classes of which no pixel is labelled. Live prototypes leave them out until one is."""
    forward: Literal["separate", "joint"] = "separate"
    """Labelled rows and rows of the pool in a forward of F each, or all in one with common statistics of batch
    normalisation."""
    anchor: NonNegativeFloat = 0.1
    """anchored: weight of the cross-entropy of labelled cells to their own domain's prototypes."""
    anchor_trains: Literal["embedding", "encoder"] = "embedding"
    """anchored: E alone, or F with it."""
    temperature: PositiveFloat = 0.1
    prototypes: PositiveInt = 3
    momentum: Fraction = 0.99
    drawn: PositiveInt = 64
    """anchored: labelled cells of each class that move its prototypes in a step."""
    private: Literal["unknown", "gate", "none"] = "unknown"
    """anchored: the answer to classes that the other domain lacks."""


class EntropyModule(Method):
    """What univ-cross and univ-full share. α and β are the weights of L_cross and L_within."""

    settings: EntropyModuleSettings

    def __init__(self, settings: EntropyModuleSettings, domains: Mapping[str, Domain]) -> None:
        super().__init__(settings, domains)
        s = settings
        self.prototypes: LivePrototypes | FixedPrototypes
        if s.mode == "anchored":
            self.prototypes = LivePrototypes(domains, s.prototypes, s.temperature, s.momentum, s.drawn, s.private)
        else:
            self.prototypes = FixedPrototypes(domains, s.initial_embedding == "pca", s.absent == "refused")

    @property
    @abstractmethod
    def weights(self) -> tuple[float, float]:
        """α, β."""

    @property
    def active(self) -> bool:
        """With α = β = 0 the method is joint training, bit for bit."""
        return self.weights != (0, 0)

    def phases(self, steps: int) -> list[Phase]:
        every = tuple(self.domains)
        if not self.active:
            return [Phase("joint", 0, steps, every)]
        change = self._change(steps)
        return [Phase("pretrain", 0, change, every), Phase("align", change, steps, every, every)]

    def _change(self, steps: int) -> int:
        """The first step that sees unlabelled pixels."""
        return round(steps * self.settings.pretrain)

    def prepare(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        if self.active:
            self.prototypes.prepare(model, rng)

    def begin(self, phase: Phase, model: UniversalSegmenter, rng: torch.Generator) -> None:
        if phase.name == "align":
            self.prototypes.settle(model)

    def forwards(self, labelled: int, unlabelled: int) -> tuple[int, ...]:
        apart = unlabelled and self.settings.forward == "separate"
        return (labelled, unlabelled) if apart else (labelled + unlabelled,)

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        parts = [part for part in (batch.image[: batch.pool], batch.image[batch.pool :]) if len(part)]
        features = torch.cat(encode(model, parts, together=self.settings.forward == "joint"))
        terms = {"supervised": supervised_loss(model, features, batch)}
        # Pixels without a label occur in labelled images too, but during the pretraining nothing is known of them.
        aligning = self.active and batch.step >= self._change(batch.steps)
        anchoring = self.active and isinstance(self.prototypes, LivePrototypes)
        if not aligning and not anchoring:
            return terms
        label = at_stride(batch.label, model.embedding_stride, model.multiple)
        count = batch.cells[model.embedding_stride]
        if isinstance(self.prototypes, LivePrototypes):
            seen = features.detach() if self.settings.anchor_trains == "embedding" else features
            terms["anchor"] = self.settings.anchor * self.prototypes.anchor(
                Cells(model.embed(seen), label, batch, count)
            )
        if aligning:
            alpha, beta = self.weights
            aligned = self.prototypes.align(Cells(model.embed(features), label, batch, count))
            terms["cross"] = alpha * aligned.cross
            if beta:
                terms["within"] = beta * aligned.within
            self.watch["marginal_entropy"] = aligned.marginal
        return terms

    def after_step(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        if self.active:
            self.prototypes.follow(rng)
