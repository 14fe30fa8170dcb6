"""Adversarial alignment: features from which the domain cannot be predicted (Ganin and Lempitsky, ICML 2015; DANN,
JMLR 2016).

    for each step:  p: the fraction of the steps that is done;  d_ij: a classifier of cells, domain i or domain j
        λ     = weight · (2 / (1 + exp(−γ p)) − 1)
        f     = F(x)                                       labelled and unlabelled cells, no void
        L_sup = Σ_k CE(y, G_k(f))                          labelled pixels
        L_dom = mean_{i<j} ½ (mean_{f of i} −log(1 − d_ij(f)) + mean_{f of j} −log d_ij(f))
        G, d:  L_sup + L_dom          F:  L_sup − λ L_dom, by a gradient that is reversed between d and F

The method ignores the class of a cell. It assumes that all domains show the same classes equally often.

Shapes: B rows · K domains, K(K−1)/2 pairs · C feature channels · h×w feature cells.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fewmask.config.methods import AdversarialAlignSettings
from fewmask.data.batch import Batch, Phase, take
from fewmask.data.domain import Domain
from fewmask.labels import VOID
from fewmask.losses.adversarial import verdict_loss
from fewmask.losses.entropy import masked_mean
from fewmask.methods.common.adversary import reverse
from fewmask.methods.common.base import Method, supervised_loss, two_or_more
from fewmask.models.discriminator import cell_classifier
from fewmask.models.universal import UniversalSegmenter, at_stride


class AdversarialAlign(Method):
    Settings = AdversarialAlignSettings
    name = "adversarial-align"
    settings: AdversarialAlignSettings
    classifiers: nn.ModuleList

    def __init__(self, settings: AdversarialAlignSettings, domains: Mapping[str, Domain]) -> None:
        super().__init__(settings, two_or_more(domains, settings.name))
        self.pairs = list(itertools.combinations(range(len(domains)), 2)) if settings.weight else []

    def phases(self, steps: int) -> list[Phase]:
        every = tuple(self.domains)
        return [Phase("train", 0, steps, every, every if self.settings.weight else ())]

    def prepare(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        self.classifiers = nn.ModuleList(
            cell_classifier(model.channels, self.settings.channels, rng) for _ in self.pairs
        )

    def strength(self, batch: Batch) -> float:
        """λ (JMLR 2016, §5.2.2)."""
        return self.settings.weight * (2 / (1 + math.exp(-self.settings.gamma * batch.step / batch.steps)) - 1)

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        features = model.encode(batch.image)
        terms = {"supervised": supervised_loss(model, features, batch)}
        if self.settings.weight:
            terms["domain"] = self._domain_loss(model, reverse(features, self.strength(batch)), batch)
        return terms

    def _domain_loss(self, model: UniversalSegmenter, features: Tensor, batch: Batch) -> Tensor:
        """L_dom over the pairs that the step shows: features (B,C,h,w) → scalar."""
        valid = at_stride(batch.label, model.stride, model.multiple) != VOID
        counts = batch.counts[model.stride].valid
        rows = batch.rows()
        # A classifier that sees a single domain would only learn to name that domain.
        weights = torch.stack([(counts[i] > 0) & (counts[j] > 0) for i, j in self.pairs]).float()
        weights = weights.to(features.device) / weights.sum().clamp_min(1)
        losses, accuracies = [features.sum() * 0.0], []
        for (i, j), classifier, share in zip(self.pairs, self.classifiers, weights, strict=True):
            for k in (d for d in (i, j) if d in rows):
                verdict, mask = classifier(take(features, rows[k]))[:, 0], take(valid, rows[k])
                losses.append(share * verdict_loss(verdict, k == j, mask, counts[k]) / 2)
                accuracies.append(masked_mean(((verdict > 0) == (k == j)).float(), mask))
        self.metrics["domain_accuracy"] = torch.stack(accuracies).mean()
        return torch.stack(losses).sum()
