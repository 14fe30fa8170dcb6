"""Class prototypes: fixed ones from PCA, and live ones kept by moving average with a balanced (Sinkhorn) assignment.

Sinkhorn: Cuturi 2013; its use for several prototypes a class: Zhou et al., Rethinking semantic segmentation: a
prototype view, CVPR 2022, §3.3 (ε .05, 3 iterations, momentum .999).

Shapes: N cells · G classes of all domains · P prototypes a class · M cells drawn a class · D embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def by_class(label: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cells sorted by class: label (N,) → order (N,), where each class begins in it (G,), and its cells (G,).

    Values ≥ `classes` come last and are counted nowhere.
    """
    value, order = label.sort(stable=True)
    # A search, because bincount on a GPU would wait until the device has found the largest value.
    bounds = torch.searchsorted(value, torch.arange(classes + 1, dtype=label.dtype, device=label.device))
    return order, bounds[:-1], bounds.diff()


def draw_per_class(label: Tensor, classes: int, per_class: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw M cells of every class, uniformly with replacement, without a loop over classes.

    label (N,) with values ≥ `classes` left out → index (G,M) into the cells, present (G,) bool. Rows of absent classes
    hold arbitrary indices.
    """
    order, first, counts = by_class(label, classes)
    fraction = torch.rand(classes, per_class, generator=rng, device=label.device)
    position = first[:, None] + (fraction * counts[:, None]).long().clamp_max((counts - 1).clamp_min(0)[:, None])
    return order[position.clamp_max(len(order) - 1)], counts > 0


def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Soft assignment (…,M,P) of M cells to P prototypes, each prototype receiving an equal share; rows sum to 1."""
    scores = scores.float() / epsilon
    q = (scores - scores.amax((-2, -1), keepdim=True)).exp().clamp_min(torch.finfo(torch.float32).tiny)
    for _ in range(iterations):
        q = q / q.sum(-2, keepdim=True)
        q = q / q.sum(-1, keepdim=True)
    return q


def update_prototypes(prototypes: Tensor, features: Tensor, present: Tensor, momentum: float) -> Tensor:
    """Move each present class's prototypes towards the mean of the cells that Sinkhorn assigns to them.

    prototypes (G,P,D) unit vectors, features (G,M,D) cells of each class, present (G,) → (G,P,D) unit vectors, without
    a gradient. A prototype that won no cell stays.
    """
    with torch.no_grad():
        features = F.normalize(features.float(), dim=-1)
        share = sinkhorn(features @ prototypes.transpose(-1, -2))
        hard = F.one_hot(share.argmax(-1), prototypes.shape[1]).to(features.dtype)
        total = hard.transpose(-1, -2) @ features
        won = (hard.sum(-2) > 0) & present[:, None]
        moved = F.normalize(momentum * prototypes + (1 - momentum) * F.normalize(total, dim=-1), dim=-1)
        return torch.where(won[..., None], moved, prototypes)


def pca_prototypes(features: Tensor, label: Tensor, classes: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Class-wise centroids of features, reduced by PCA and L2-normalised: fixed prototypes (ICCV 2019, §3.3).

    features (N,F), label (N,) in 0 … G−1 → prototypes (G,1,D), and the projection that made them: components (D,F) and
    mean (F,). A class without a cell has zeros. The caller makes sure that D is at most F and N.
    """
    assert dim <= min(features.shape), "more components than features or cells"
    components, mean = _principal_axes(features, dim)
    label = label.cpu()
    total = torch.zeros(classes, len(mean), dtype=torch.float64)
    for c, chunk in zip(label.split(_CHUNK), features.split(_CHUNK), strict=True):
        total.index_add_(0, c, chunk.cpu().double())
    counts = torch.bincount(label, minlength=classes)
    centroids = total / counts.clamp_min(1)[:, None]
    prototypes = F.normalize((centroids - mean) @ components.T, dim=1) * (counts > 0)[:, None]
    return prototypes.float().unsqueeze(1).to(features.device), components.float(), mean.float()


_CHUNK = 2**16  # cells that are converted to double precision at a time, to save memory


def _principal_axes(features: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The `dim` directions (dim,F) of largest variance of features (N,F), largest first, and their mean (F,), in double
    precision on the CPU. They come from the covariance, since an SVD of a million cells would need gigabytes."""
    chunks = [chunk.cpu() for chunk in features.split(_CHUNK)]
    mean = torch.stack([c.double().sum(0) for c in chunks]).sum(0) / len(features)
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for chunk in chunks:
        centred = chunk.double() - mean
        covariance += centred.T @ centred
    axes = torch.linalg.eigh(covariance).eigenvectors  # columns, by ascending variance
    return axes.flip(1)[:, :dim].T, mean


def counterparts(prototypes: Tensor, has_prototype: Tensor, boundary: Tensor, classes: Sequence[int]) -> Tensor:
    """The pairs of classes of different domains that mean the same by their prototypes: (G,G) bool, symmetric.

    Two classes are counterparts if each is the most similar class of its domain to the other, and if their similarity
    is at least the `boundary` (K,) of both domains. The boundary is how similar labelled cells of a domain are to their
    own class. The similarity of two classes is the largest cosine between their prototypes. prototypes (G,P,D) unit
    vectors; has_prototype (G,) bool; classes (K,): C_k of each domain. A class without a counterpart is private.
    """
    similarity = torch.einsum("gpd,hqd->ghpq", prototypes, prototypes).amax((2, 3))
    comparable = has_prototype[:, None] & has_prototype
    blocks = similarity.masked_fill(~comparable, -2).split(list(classes), dim=1)
    nearest = torch.cat([F.one_hot(block.argmax(1), block.shape[1]).bool() for block in blocks], dim=1)
    sizes = torch.tensor(classes, device=has_prototype.device)
    owner = torch.repeat_interleave(torch.arange(len(classes), device=has_prototype.device), sizes)
    least = torch.maximum(boundary[owner][:, None], boundary[owner])
    return comparable & nearest & nearest.T & (similarity >= least) & (owner[:, None] != owner)
