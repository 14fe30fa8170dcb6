"""The terms of the entropy module: the entropy of each pixel's assignment to the classes of its own domain, and to the
classes of every other domain.

Kalluri et al., Universal semi-supervised semantic segmentation, ICCV 2019, §3.3.

Shapes: b_i images of domain i · K domains · C_j classes of domain j, G = Σ_j C_j · P prototypes a class · D embedding
size · h×w cells of the embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fewmask.losses.entropy import entropy, masked_mean


class Alignment(NamedTuple):
    """Scalars: `cross` and `within` of §3.3, and `marginal`, the entropy of the mean assignment in nats. A `marginal`
    near 0 shows that the assignments have collapsed to one class."""

    cross: Tensor
    within: Tensor
    marginal: Tensor


def dot_similarity(embedding: Tensor, prototypes: Tensor) -> Tensor:
    """⟨e, c⟩ of every cell with every class: (b,D,h,w), (G,P,D) → (b,G,h,w), the best of a class's P prototypes."""
    b, d, h, w = embedding.shape
    classes, per_class, _ = prototypes.shape
    # Autocast would multiply in bf16. At a temperature of .1 its rounding changes a probability by 4 %.
    with torch.autocast(embedding.device.type, enabled=False):
        cells = embedding.float().permute(0, 2, 3, 1).reshape(-1, d)
        scores = (cells @ prototypes.float().reshape(-1, d).T).view(-1, classes, per_class).amax(-1)
    return scores.view(b, h, w, classes).permute(0, 3, 1, 2)


def cosine_similarity(embedding: Tensor, prototypes: Tensor) -> Tensor:
    """cos(e, c) in [−1, 1], with the shapes of `dot_similarity`. Scaling e does not change it."""
    return dot_similarity(F.normalize(embedding.float(), dim=1), F.normalize(prototypes.float(), dim=-1))


def alignment(
    logits: Mapping[int, Tensor],
    unlabelled: Mapping[int, Tensor],
    classes: Sequence[int],
    count: Sequence[Tensor | float] | None = None,
    unknown: Tensor | None = None,
    gate: Mapping[int, Tensor] | None = None,
) -> Alignment:
    """L_cross and L_within over the unlabelled cells of every domain in the batch.

    L_cross = Σ_i mean over cells of 1/(K−1) Σ_{j≠i} H(σ(v_ij)), L_within = Σ_i mean over cells of H(σ(v_ii)).

    logits[i] (b_i,G,h,w): similarities of domain i's cells to all classes, columns in the order of domains;
    unlabelled[i] (b_i,h,w) bool; classes: C_j of each domain; count[i]: cells to divide by (see `masked_mean`).
    Two options handle classes that the other domain lacks. unknown (K,) adds a column with that logit to σ(v_ij), j ≠
    i, so that "none of these" is a confident assignment too. gate[i] (b_i,K,h,w) bool leaves out a cell's v_ij where it
    is false.
    """
    domains = len(classes)
    cross, within, marginal = [], [], []
    for i, similarity in logits.items():
        cells = None if count is None else count[i]
        columns = similarity.split(list(classes), dim=1)
        for j, v_ij in enumerate(columns):
            if j == i:
                within.append(masked_mean(entropy(v_ij), unlabelled[i], cells))
                marginal.append(_marginal_entropy(v_ij.detach(), unlabelled[i]))
                continue
            if unknown is not None:
                v_ij = torch.cat([v_ij, unknown[j].expand_as(v_ij[:, :1])], dim=1)
            h_ij = entropy(v_ij)
            if gate is not None:
                h_ij = torch.where(gate[i][:, j], h_ij, 0.0)
            cross.append(masked_mean(h_ij, unlabelled[i], cells) / (domains - 1))
    zero = sum((v.sum() * 0.0 for v in logits.values()), torch.zeros(()))
    return Alignment(sum(cross, zero), sum(within, zero), sum(marginal, torch.zeros(())) / max(len(marginal), 1))


def _marginal_entropy(logits: Tensor, mask: Tensor) -> Tensor:
    """Entropy of the mean softmax over the masked cells: it falls towards 0 when every cell chooses one class."""
    weight = mask.unsqueeze(1).float()
    p = (logits.softmax(1) * weight).sum((0, 2, 3)) / weight.sum().clamp_min(1)
    return torch.special.entr(p).sum()
