"""The pool's rows as they are learnt from: labels that a network gives its weak views, mixed, for its strong ones.

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
    """Labels of U rows, pixel by pixel: a person's where there is one, else a network's."""

    label: Tensor
    """(U,H,W) uint8: 0 … C_k−1, or 255."""
    confidence: Tensor
    """(U,H,W) fp32: the network's; 1 where a person looked."""
    answered: Tensor
    """(U,H,W) bool: a person looked."""

    def rows(self, index: Tensor) -> Targets:
        return Targets(*(values[index] for values in self))

    def pasted(self, mask: Tensor, source: Targets) -> Targets:
        """The source's where the mask (U,H,W) is true."""
        return Targets(*(paste(mask, own, its) for own, its in zip(self, source, strict=True)))


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
    """What the network says of the pool's rows, each by the head of its domain, and what people said of them.

    features (U,C,h,w) of their weak views, from `encode_for_labels` unless a source has others. No gradient reaches the
    network.
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
    """Σ_k 1/N_k Σ w · CE(label, G_k(features)) over the pool's rows of domain k that are not void.

    features (U,C,h,w), label (U,H,W), weight (U,H,W), or None for 1 → scalar. N_k counts the pixels of the weak views
    that are not void, sure or not, over the whole step: what a mix leaves of them differs by the void that it moves.
    """

    def term(k: int, rows: Tensor) -> Tensor:
        logits = model.logits(take(features, rows), model.domains[k], batch.size)
        factor = None if weight is None else take(weight, rows)
        return cross_entropy(logits, take(label, rows), batch.counts[1].pool[k], weight=factor)

    return sum_over_domains(batch.pool_rows(), term, features)


def encode(model: UniversalSegmenter, images: Sequence[Tensor], together: bool) -> list[Tensor]:
    """F of each part: in one forward, so that all share the statistics of batch normalisation, or in one each."""
    if not together:
        return [model.encode(image) for image in images]
    return list(model.encode(torch.cat(list(images))).split([len(image) for image in images]))
