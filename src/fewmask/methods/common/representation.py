"""Regional contrast as a term of a method: a representation head on F's features, and the loss that trains both.

Liu et al. (ReCo), ICLR 2022, §3. The loss is `losses.regional_contrast`.

Shapes: B rows of a batch · C feature channels · D size of the representation · h×w cells, every s-th pixel.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fewmask.config.methods import ContrastSettings
from fewmask.data.batch import Batch, take
from fewmask.data.pseudo import STEPS
from fewmask.labels import NOT_LABELLED
from fewmask.losses.regional_contrast import regional_contrast
from fewmask.models.branch import branch
from fewmask.models.universal import UniversalSegmenter, at_stride


class Representation(nn.Module):
    """The representation head, which only training needs. ReCo's head reads the concatenated channels inside of
    DeepLabV3+'s decoder. This head reads F's features, which every decoder has."""

    def __init__(self, settings: ContrastSettings, model: UniversalSegmenter, rng: torch.Generator) -> None:
        super().__init__()
        self.settings = settings
        pool = max(1, settings.stride // model.stride)
        self.stride = model.stride * pool
        self.pool = nn.AvgPool2d(pool) if pool > 1 else nn.Identity()
        self.head = branch(model.channels, settings.dim, settings.dim, settings.kernel, rng)

    def contrast(self, model: UniversalSegmenter, features: Tensor, batch: Batch, rng: torch.Generator) -> Tensor:
        """Regional contrast over the labelled cells of each domain, among the domain's classes, averaged over the
        domains of the micro-batch. ReCo has a single domain. features (B,C,·,·) of all rows → scalar."""
        s, pooled = self.settings, self.pool(features)
        # All rows go through the head together, for its batch normalisation.
        representation = self.head(pooled)
        label = at_stride(batch.label, self.stride, model.multiple)
        if batch.confidence is not None:
            sure = at_stride(batch.confidence, self.stride, model.multiple) >= math.ceil(s.sure * STEPS)
            label = torch.where(sure, label, NOT_LABELLED)
        losses = []
        for k, rows in batch.labelled_rows().items():
            target = take(label, rows)
            logits = model.decode(take(pooled, rows), model.domains[k])
            losses.append(
                regional_contrast(
                    take(representation, rows), target, probability(logits, target), rng, classes=logits.shape[1],
                    queries=s.queries, negatives=s.negatives, hard=s.hard, temperature=s.temperature, sets=s.sets,
                )
            )  # fmt: skip
        return torch.stack(losses).mean() if losses else representation.sum() * 0.0


@torch.no_grad()
def probability(logits: Tensor, label: Tensor) -> Tensor:
    """The network's probability of each cell's label: logits (B,C,h,w), label (B,h,w) → (B,h,w). Where the label is no
    class the value has no meaning."""
    index = label.long().clamp_max(logits.shape[1] - 1)
    return logits.float().softmax(1).gather(1, index[:, None])[:, 0]
