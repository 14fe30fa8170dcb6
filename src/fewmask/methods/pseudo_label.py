"""Pseudo-label: the network's prediction for an unlabelled pixel is the pixel's label (Lee, ICML workshop 2013).

    for each step t:
        L_sup = Σ_k CE(y, G_k(F(x)))                                   labelled pixels
        ŷ     = argmax G_k(F(x))                                       no gradient; in eval mode
        L_pl  = Σ_k 1/N_k Σ CE(ŷ, G_k(F(x)))                           N_k unlabelled pixels of domain k
        L     = L_sup + α(t) · L_pl,   α(t) = 0 before T1, α_f from T2 on, linear between

With `labels_in: train` ŷ comes from the forward that is trained, with its dropout, as in the paper. With a threshold
pixels of a lower confidence are left out, while N_k stays the same.

Shapes: see `methods.common.base`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewmask.config.self_labelling import PseudoLabelSettings
from fewmask.data.batch import Batch, Phase, take
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.losses.cross_entropy import cross_entropy
from fewmask.losses.pseudo_label import pseudo_label, ramp
from fewmask.methods.common.base import Method, sum_over_domains, supervised_loss
from fewmask.methods.common.pool import encode_for_labels
from fewmask.models.universal import UniversalSegmenter


class PseudoLabel(Method):
    Settings = PseudoLabelSettings
    name = "pseudo-label"
    settings: PseudoLabelSettings

    def phases(self, steps: int) -> list[Phase]:
        every = tuple(self.domains)
        if not self.settings.alpha:
            return [Phase("train", 0, steps, every)]
        begin = round(steps * self.settings.begin)
        return [Phase("labels", 0, begin, every), Phase("pseudo-labels", begin, steps, every, every)]

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        s = self.settings
        features = model.encode(batch.image)
        terms = {"supervised": supervised_loss(model, features, batch)}
        if batch.phase == "pseudo-labels":
            labelling = features.detach() if s.labels_in == "train" else encode_for_labels(model, batch.image)
            weight = s.alpha * ramp(batch.step, round(batch.steps * s.begin), round(batch.steps * s.end))

            def pseudo(k: int, rows: Tensor) -> Tensor:
                logits = model.logits(take(features, rows), model.domains[k], batch.size)
                label, confidence = pseudo_label(model.logits(take(labelling, rows), model.domains[k], batch.size))
                chosen = (take(batch.label, rows) == NOT_LABELLED) & (confidence >= s.threshold)
                return cross_entropy(logits, torch.where(chosen, label, VOID), batch.counts[1].unlabelled[k])

            terms["pseudo"] = weight * sum_over_domains(batch.unlabelled_rows(), pseudo, features)
        return terms
