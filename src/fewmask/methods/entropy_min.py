"""Entropy minimisation on the decoder's own softmax (Grandvalet and Bengio, NIPS 2004), over all domains.

    for each step:
        L_sup = Σ_k CE(y, G_k(F(x)))                 labelled pixels
        L_ent = Σ_k mean H(softmax(G_k(F(x))))       unlabelled pixels of domain k, under their own head
        L     = L_sup + weight · L_ent

It is a baseline of the universal methods: it uses the same unlabelled images without embeddings or prototypes.

Shapes: B rows · C_k classes of domain k · h×w cells at the feature stride.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewmask.config.methods import EntropyMinSettings
from fewmask.data.batch import Batch, Phase, take
from fewmask.labels import NOT_LABELLED
from fewmask.losses.entropy import entropy, masked_mean
from fewmask.methods.common.base import Method, sum_over_domains, supervised_loss
from fewmask.models.universal import UniversalSegmenter, at_stride


class EntropyMin(Method):
    Settings = EntropyMinSettings
    name = "entropy-min"
    takes_features = True
    settings: EntropyMinSettings

    def phases(self, steps: int) -> list[Phase]:
        every = tuple(self.domains)
        return [Phase("train", 0, steps, every, every if self.settings.weight else ())]

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        features = model.encode(batch.image)
        terms = {"supervised": supervised_loss(model, features, batch)}
        if self.settings.weight:
            unlabelled = at_stride(batch.label, model.stride, model.multiple) == NOT_LABELLED

            def mean_entropy(k: int, rows: Tensor) -> Tensor:
                logits = model.decode(take(features, rows), model.domains[k])
                return masked_mean(entropy(logits), take(unlabelled, rows), batch.counts[model.stride].unlabelled[k])

            rows = batch.unlabelled_rows()
            terms["entropy"] = self.settings.weight * sum_over_domains(rows, mean_entropy, features)
        return terms
