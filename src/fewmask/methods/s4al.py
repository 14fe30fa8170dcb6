"""S4AL: a mean teacher, ClassMix, and rare classes from a memory (Rangnekar, Kanan and Hoffman, WACV 2023).

    for each step, of the cold start:  L = 1.5 · Σ_k CE(y, G_k(F(x)))          labelled rows alone
    for each step after it:  x labelled, u pool, w = weak(u), s = strong(u)
        y, p  = argmax, max of softmax(G'_k(F'(w)))              F', G': the teacher; answered pixels: theirs, p = 1
        s, y, p ← ClassMix of rows of one domain                 half of the other row's classes
        r     = fraction of a row's pixels with p ≥ .97
        L_sup = Σ_k CE(y, G_k(F(x)))                             labelled pixels
        L_u   = Σ_k 1/N_k Σ r · p · CE(y, G_k(F(s)))             answered pixels count 1; N_k: the pool's but void
        L_r   = as L_u, once regions have been asked for: rows into which some frequent and some rare classes of a
                remembered labelled row are pasted (adaptive ClassMix)
        L     = L_sup + L_u + L_r
        F', G' follow F, G                                       moving average, batch normalisation's too

Shapes: B rows of a batch, U of them of the pool · H×W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fewmask.config.self_labelling import S4alSettings
from fewmask.data.batch import Batch, Phase
from fewmask.data.domain import Domain
from fewmask.losses.pseudo_label import pseudo_weight
from fewmask.methods.common.base import supervised_loss
from fewmask.methods.common.pool import Targets, encode, encode_for_labels, pool_loss, pool_targets
from fewmask.methods.common.replay import Replay
from fewmask.methods.common.teacher import MeanTeacherMethod
from fewmask.models.universal import UniversalSegmenter
from fewmask.views.mixing import class_masks, partners, paste


class Stream(NamedTuple):
    """Rows (U,3,H,W) of the student's input, their targets, and the weight of each pixel (U,H,W)."""

    image: Tensor
    targets: Targets
    weight: Tensor


class S4al(MeanTeacherMethod):
    Settings = S4alSettings
    name = "s4al"
    settings: S4alSettings

    def __init__(self, settings: S4alSettings, domains: Mapping[str, Domain]) -> None:
        super().__init__(settings, domains)
        s = settings
        answered = any(d.partial for d in domains.values())
        adaptive = bool(s.replay_weight) and (s.adaptive == "always" or (s.adaptive == "auto" and answered))
        class_counts = [d.space.num_classes for d in domains.values()] if adaptive else []
        self.replay = nn.ModuleList([Replay(c, s.places, s.tail_share, s.heads, s.tails) for c in class_counts])
        self.weights = {"pseudo": s.weight} if s.weight else {}
        self.weights |= {"replay": s.replay_weight} if adaptive else {}
        self._passed: list[Batch] = []

    def phases(self, steps: int) -> list[Phase]:
        every, s = tuple(self.domains), self.settings
        change = round(steps * s.cold)
        if not self.weights:
            return [Phase("cold", 0, change, every), Phase("train", change, steps, every)]
        train = Phase("train", change, steps, every, every, whole=s.whole, strong=(s.view,))
        return [Phase("cold", 0, change, every), train]

    def forward_batch_sizes(self, labelled: int, unlabelled: int) -> tuple[int, ...]:
        streams = [unlabelled] * len(self.weights) if unlabelled else []
        return (labelled, *streams) if self.settings.forward == "separate" else (labelled + sum(streams),)

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        s = self.settings
        if self.replay:
            self._passed.append(batch)
        cold = batch.phase == "cold"
        if cold or not self.weights:
            loss = supervised_loss(model, model.encode(batch.image), batch)
            return {"supervised": s.cold_weight * loss if cold else loss}
        targets = self._targets(batch)
        makers = {"pseudo": self._class_mixed, "replay": self._replayed}
        streams = {name: makers[name](batch, targets, rng) for name in self.weights}
        images = [batch.image[: batch.pool], *(stream.image for stream in streams.values())]
        labelled, *mixed = encode(model, images, s.forward == "joint")
        terms = {"supervised": supervised_loss(model, labelled, batch.without_pool())}
        for features, (name, stream) in zip(mixed, streams.items(), strict=True):
            loss = pool_loss(model, features, stream.targets.label, stream.weight, batch)
            terms[name] = self.weights[name] * loss
        return terms

    def after_step(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        super().after_step(model, rng)
        for batch in self._passed:
            labelled = batch.labelled_rows()
            # Every process takes part for every domain, even without a row of it, since the others wait.
            empty = torch.zeros(0, dtype=torch.long)
            for k, replay in enumerate(self.replay):
                assert isinstance(replay, Replay)
                replay.fit(batch.image)
                rows = labelled.get(k, empty)
                replay.observe(batch.image[rows], batch.label[rows])
        self._passed.clear()

    def _targets(self, batch: Batch) -> Targets:
        assert self.teacher is not None
        teacher = self.teacher.model
        return pool_targets(teacher, encode_for_labels(teacher, batch.image[batch.pool :]), batch)

    def _class_mixed(self, batch: Batch, targets: Targets, rng: torch.Generator) -> Stream:
        """Paste half of the classes of each row's partner into the row."""
        assert batch.strong is not None
        (image,) = batch.strong
        source = partners(batch.domain[batch.pool :])
        others = targets.rows(source)
        mask = torch.zeros_like(targets.answered)
        if self.settings.mixing == "classmix":
            mask = class_masks(others.label, rng)
        return self._pasted(mask, image, targets, image[source], others)

    def _replayed(self, batch: Batch, targets: Targets, rng: torch.Generator) -> Stream:
        """Paste some frequent and some rare classes of remembered labelled rows into each row."""
        assert batch.strong is not None
        (image,) = batch.strong
        source, label = image.clone(), targets.label.clone()
        mask = torch.zeros_like(targets.answered)
        for k, rows in batch.pool_rows().items():
            replay = self.replay[k]
            assert isinstance(replay, Replay)
            replay.fit(image)
            source[rows], label[rows], mask[rows] = replay.draw(len(rows), rng)
        remembered = Targets(label, torch.ones_like(targets.confidence), torch.ones_like(targets.answered))
        return self._pasted(mask, image, targets, source, remembered)

    def _pasted(self, mask: Tensor, image: Tensor, targets: Targets, source: Tensor, others: Targets) -> Stream:
        mixed = targets.pasted(mask, others)
        if self.settings.fraction == "mixed":
            weight = self._weight(mixed)
        else:
            weight = paste(mask, self._weight(targets), self._weight(others))
        return Stream(paste(mask, image, source), mixed, weight)

    def _weight(self, targets: Targets) -> Tensor:
        return pseudo_weight(*targets, self.settings.threshold)
