"""Maximum mean discrepancy: a distance between the distributions of two sets of features.

    MMD²(P, Q) = E k(x, x') + E k(y, y') − 2 E k(x, y),   x, x' ~ P and y, y' ~ Q, all independent
    k(x, y)    = mean over m of exp(−|x − y|² / (m γ))

It is 0 if and only if P = Q. γ is the median of the squared distances that are compared (the median heuristic). It is a
constant: no gradient flows into it. The distance: Gretton et al., A kernel two-sample test, JMLR 2012. Several kernels:
Gretton et al., NIPS 2012. The loss, and the form of the kernel: Long et al., ICML 2015 (DAN). DAN also chooses the
weights of the kernels by a quadratic program; here the weights are equal.

Shapes: … pairs of sets · N cells of each · D features · E distances · K domains · P cells of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)


def draw_cells(member: Tensor, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw N = min(count, P) cells of every domain in random order, without replacement and without a loop over
    domains.

    member (K,P) bool → index (K,N) into the cells, valid (K,N) bool. A domain with fewer than N cells has all of its
    cells first. Arbitrary cells that are not valid follow.
    """
    noise = torch.rand(member.shape[1], generator=rng, device=member.device)
    best, index = noise.where(member, -1.0).topk(min(count, member.shape[1]), dim=1)
    return index, best >= 0


def linear_mmd(
    first: Tensor,
    second: Tensor,
    valid: tuple[Tensor, Tensor] | None = None,
    multiples: Sequence[float] = MULTIPLES,
    bandwidth: float | None = None,
) -> Tensor:
    """MMD² in linear time (JMLR 2012, lemma 14): the mean of h = k(x,x') + k(y,y') − k(x,y') − k(x',y) over pairs of
    cells (x, x'), (y, y'), where no cell is in two pairs.

    first, second (…,N,D) in random order; valid: (…,N) bool of each → (…). An odd last cell is left out. For a given
    `bandwidth` γ the estimate is unbiased, so it may be negative. It is 0 with a gradient of 0 where no pair is valid.
    """
    assert first.shape == second.shape, "both sets need the same number of cells"
    half = first.shape[-2] // 2
    (x, x2), (y, y2) = ((cells[..., : 2 * half : 2, :], cells[..., 1 : 2 * half : 2, :]) for cells in (first, second))
    pairs = torch.ones_like(x[..., 0], dtype=torch.bool)
    if valid is not None:
        valid_cells = valid[0] & valid[1]
        pairs = valid_cells[..., : 2 * half : 2] & valid_cells[..., 1 : 2 * half : 2]
    distances = torch.cat(
        [(a.float() - b.float()).square().sum(-1) for a, b in ((x, x2), (y, y2), (x, y2), (x2, y))], -1
    )
    xx, yy, xy, yx = _kernel(distances, torch.cat([pairs] * 4, -1), multiples, bandwidth).split(half, -1)
    return (xx + yy - xy - yx).sum(-1) / pairs.sum(-1).clamp_min(1)


def quadratic_mmd(
    first: Tensor,
    second: Tensor,
    valid: tuple[Tensor, Tensor] | None = None,
    multiples: Sequence[float] = MULTIPLES,
    bandwidth: float | None = None,
) -> Tensor:
    """MMD² from all pairs of cells (JMLR 2012, lemma 6). It has less noise than `linear_mmd` and takes quadratic time.

    first (…,N,D), second (…,N',D); valid: (…,N) and (…,N') bool → (…). The estimate is unbiased, as that of
    `linear_mmd` is. It is 0 with a gradient of 0 where a set has fewer than two valid cells.
    """
    cells = torch.cat([first, second], -2).float()
    valid_cells = torch.ones_like(cells[..., 0], dtype=torch.bool) if valid is None else torch.cat(valid, -1)
    different = ~torch.eye(cells.shape[-2], dtype=torch.bool, device=cells.device)
    compared = valid_cells[..., :, None] & valid_cells[..., None, :] & different
    # Products are four times as fast as differences. Centring the cells keeps the products from cancelling out.
    cells = cells - cells.detach().mean(-2, keepdim=True)
    with torch.autocast(cells.device.type, enabled=False):
        length, product = cells.square().sum(-1), cells @ cells.transpose(-1, -2)
        distances = (length[..., :, None] + length[..., None, :] - 2 * product).clamp_min(0)
    k = _kernel(distances.flatten(-2), compared.flatten(-2), multiples, bandwidth).view_as(distances)
    n = first.shape[-2]

    def mean(rows: slice, columns: slice) -> Tensor:
        pairs = compared[..., rows, columns].sum((-1, -2))
        return k[..., rows, columns].sum((-1, -2)) / pairs.clamp_min(1)

    x, y = slice(0, n), slice(n, None)
    enough = (valid_cells[..., x].sum(-1) > 1) & (valid_cells[..., y].sum(-1) > 1)
    return (mean(x, x) + mean(y, y) - 2 * mean(x, y)).where(enough, 0.0)


def _kernel(distances: Tensor, compared: Tensor, multiples: Sequence[float], bandwidth: float | None) -> Tensor:
    """Squared distances (…,E) → k (…,E), 0 where they are not `compared`. γ is the median of the compared ones along
    E."""
    if bandwidth is None:
        gamma = distances.detach().masked_fill(~compared, torch.nan).nanmedian(-1, keepdim=True).values
        # Without a distance above 0, any width gives the same result.
        gamma = gamma.nan_to_num(1.0).clamp_min(1e-12)
    else:
        gamma = torch.full_like(distances[..., :1], bandwidth)
    return torch.stack([(-distances / (m * gamma)).exp() for m in multiples]).mean(0).where(compared, 0.0)
