"""Self-training on the pool's rows: a network labels the weak views, and the labels are the targets of the strong
views.

Shapes: B rows of a batch, U of them of the pool · C feature channels · H×W pixels · h×w feature cells · C_k classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fewmask.data.batch import Batch, take
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.losses.cross_entropy import cross_entropy
from fewmask.losses.pseudo_label import pseudo_label
from fewmask.methods.common.base import sum_over_domains
from fewmask.models.universal import UniversalSegmenter
from fewmask.views.mixing import paste


class Targets(NamedTuple):
    """Labels of the pixels of U rows: a person's answer where there is one, else a network's prediction."""

    label: Tensor
    """(U,H,W) uint8: 0 … C_k−1, or 255."""
    confidence: Tensor
    """(U,H,W) fp32: the network's confidence; 1 where a person answered."""
    answered: Tensor
    """(U,H,W) bool: a person answered."""

    def rows(self, index: Tensor) -> Targets:
        return Targets(*(values[index] for values in self))

    def pasted(self, mask: Tensor, source: Targets) -> Targets:
        """These targets with those of `source` where the mask (U,H,W) is true."""
        return Targets(
            *(paste(mask, values, source_values) for values, source_values in zip(self, source, strict=True))
        )


@torch.no_grad()
def encode_for_labels(network: UniversalSegmenter, image: Tensor) -> Tensor:
    """F of the images (U,3,H,W) in eval mode: without dropout, and with the running statistics of batch normalisation.
    The features have no gradient."""
    was_training = network.training
    network.eval()
    features = network.encode(image)
    network.train(was_training)
    return features


@torch.no_grad()
def pool_targets(model: UniversalSegmenter, features: Tensor, batch: Batch) -> Targets:
    """Targets of the pool's rows: people's answers, and elsewhere the predictions of the head of each row's domain.

    features (U,C,h,w) are those of the weak views, usually from `encode_for_labels`. No gradient reaches the network.
    """
    answers = batch.label[batch.pool :]
    label, confidence = torch.full_like(answers, VOID), torch.zeros(answers.shape, device=answers.device)
    for k, rows in batch.pool_rows().items():
        logits = model.logits(take(features, rows), model.domains[k], batch.size)
        label[rows], confidence[rows] = pseudo_label(logits)
    answered = answers != NOT_LABELLED
    return Targets(torch.where(answered, answers, label), torch.where(answered, 1.0, confidence), answered)


def pool_loss(
    model: UniversalSegmenter, features: Tensor, label: Tensor, weight: Tensor | None, batch: Batch
) -> Tensor:
    """Σ_k 1/N_k Σ w · CE(label, G_k(features)) over the pixels of the pool's rows of domain k that are not void.

    features (U,C,h,w), label (U,H,W), weight (U,H,W), or None for 1 → scalar. N_k counts the pixels of the weak views
    that are not void, over the whole step and at any confidence. A mix moves void pixels between rows, so the number of
    summed pixels may differ from N_k.
    """

    def term(k: int, rows: Tensor) -> Tensor:
        logits = model.logits(take(features, rows), model.domains[k], batch.size)
        factor = None if weight is None else take(weight, rows)
        return cross_entropy(logits, take(label, rows), batch.counts[1].pool[k], weight=factor)

    return sum_over_domains(batch.pool_rows(), term, features)


def encode(model: UniversalSegmenter, images: Sequence[Tensor], together: bool) -> list[Tensor]:
    """F of each part. With `together` a single forward shares the statistics of batch normalisation between the parts;
    otherwise each part has a forward of its own."""
    if not together:
        return [model.encode(image) for image in images]
    return list(model.encode(torch.cat(list(images))).split([len(image) for image in images]))
