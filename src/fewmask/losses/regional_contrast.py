"""Regional contrast: each query, a pixel with low confidence, is pulled towards the mean of its class and pushed away
from pixels of the most similar other classes.

Liu et al., Bootstrapping semantic segmentation with regional contrast (ReCo), ICLR 2022, §3.

Shapes: B images · h×w cells of the representation, P = B·h·w of them, here called pixels · D its size · C classes · Q
queries a class · S sets of N negatives a class.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fewmask.labels import NOT_LABELLED
from fewmask.losses.prototypes import by_class, draw_per_class


class Draws(NamedTuple):
    """Indices of the pixels that are compared. Rows of a class that is not in `active` hold arbitrary indices."""

    queries: Tensor
    """(C,Q)"""
    negatives: Tensor
    """(C,S,N): the Q queries are split into S runs of Q/S, and set s is compared with every query of run s."""
    active: Tensor
    """(C,) bool: the class has a hard pixel, and another class is present."""
    present: Tensor
    """(C,) bool: the class has a pixel."""


def regional_contrast(
    representation: Tensor,
    label: Tensor,
    confidence: Tensor,
    rng: torch.Generator,
    *,
    classes: int,
    queries: int = 256,
    negatives: int = 512,
    hard: float = 0.97,
    temperature: float = 0.5,
    sets: int = 8,
) -> Tensor:
    """Mean over the present classes, and over their queries, of −log of the prototype's share in the softmax of cos/τ
    over the prototype and N negatives (ReCo, eq. 1). A class without a hard pixel has a loss of 0, so the loss fades as
    classes get easy.

    representation (B,D,h,w), label (B,h,w) integer (254 and 255 are left out), confidence (B,h,w) the network's
    probability of each pixel's label → scalar, in nats. A pixel is hard if its confidence is below `hard`, δ_s. The
    gradient reaches the queries alone. Where no class is active the loss is 0 with a gradient of 0. Random features of
    classes that all have hard pixels give about log(1+N).

    ReCo draws separate negatives for every query. That is `sets=queries`, and costs C·Q·N·D floats of memory. With
    fewer sets the queries of one run share a draw. The distribution of every query's negatives stays the same, and so
    do the expected loss and gradient. `sets` divides `queries`.

    Products are computed in the representation's precision, everything else in fp32.
    """
    assert label.shape == confidence.shape == representation[:, 0].shape, "one label and confidence for each cell"
    with torch.autocast(representation.device.type, enabled=False):
        pixels = representation.permute(0, 2, 3, 1).flatten(0, 2)
        target = torch.where(label >= NOT_LABELLED, classes, label.long()).flatten()
        prototypes = class_means(pixels, target, classes)
        is_hard = confidence.flatten() < hard
        drawn = draw_queries(prototypes, target, is_hard, rng, queries, negatives, temperature, sets)
        return contrast(pixels, prototypes, drawn, temperature)


@torch.no_grad()
def class_means(pixels: Tensor, label: Tensor, classes: int) -> Tensor:
    """Mean of each class's pixels (P,D) → (C,D), 0 for an absent class. A label (P,) of C is left out.

    Raises RuntimeError for a label above C.
    """
    member = F.one_hot(label, classes + 1)[:, :classes].float()
    return member.T @ pixels.float() / member.sum(0).clamp_min(1)[:, None]


@torch.no_grad()
def draw_queries(
    prototypes: Tensor,
    label: Tensor,
    is_hard: Tensor,
    rng: torch.Generator,
    queries: int,
    negatives: int,
    temperature: float,
    sets: int,
) -> Draws:
    """Draw queries and negatives, with replacement. Queries are drawn uniformly from the hard pixels of each class. The
    class of a negative is drawn from softmax(cos(prototypes)/τ) over the other present classes, its pixel uniformly
    from that class.

    prototypes (C,D), label (P,), where C is left out, is_hard (P,) bool.
    """
    classes = len(prototypes)
    chosen, has_hard = draw_per_class(torch.where(is_hard, label, classes), classes, queries, rng)
    order, first, count = by_class(label, classes)
    unit = F.normalize(prototypes, dim=1)
    other = (count > 0) & ~torch.eye(classes, dtype=torch.bool, device=label.device)
    # The lowest number instead of −∞ gives a class without any other a valid softmax. Such a class is not active.
    likeness = torch.where(other, unit @ unit.T / temperature, torch.finfo(unit.dtype).min).softmax(1)
    of_class = torch.multinomial(likeness, sets * negatives, replacement=True, generator=rng)
    fraction = torch.rand(of_class.shape, generator=rng, device=label.device)
    position = first[of_class] + (fraction * count[of_class]).long()
    index = order[position.clamp_max(len(order) - 1)].view(classes, sets, negatives)
    return Draws(chosen, index, has_hard & other.any(1), count > 0)


def contrast(pixels: Tensor, prototypes: Tensor, drawn: Draws, temperature: float) -> Tensor:
    """The loss of `regional_contrast` for draws that are already made: pixels (P,D), prototypes (C,D) → scalar."""
    classes, queries = drawn.queries.shape
    sets, negatives = drawn.negatives.shape[1:]
    assert queries % sets == 0, f"{sets} sets of negatives do not divide {queries} queries"
    query = F.normalize(F.embedding(drawn.queries, pixels).float(), dim=-1) / temperature
    positive = (query * F.normalize(prototypes, dim=1)[:, None]).sum(-1)
    keys = F.normalize(pixels.detach().float(), dim=1).to(pixels.dtype)
    negative = F.embedding(drawn.negatives.view(classes * sets, negatives), keys)
    runs = query.to(pixels.dtype).view(classes * sets, queries // sets, -1)
    similarity = torch.bmm(runs, negative.transpose(1, 2)).float().view(classes, queries, negatives)
    # −log(e^a / (e^a + Σ e^b)) = log(1 + e^(log Σ e^b − a))
    loss = F.softplus(similarity.logsumexp(-1) - positive).mean(1)
    return torch.where(drawn.active, loss, 0.0).sum() / drawn.present.sum().clamp_min(1)
