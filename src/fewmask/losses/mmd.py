"""Maximum mean discrepancy: how far two sets of features are from being draws of one distribution.

    MMD²(P, Q) = E k(x, x') + E k(y, y') − 2 E k(x, y),   x, x' ~ P and y, y' ~ Q, all independent
    k(x, y)    = mean over m of exp(−|x − y|² / (m γ))

It is 0 where P = Q and nowhere else. γ is the median of the squared distances that are compared (the median heuristic),
as a constant: no gradient flows into it. Gretton et al., A kernel two-sample test, JMLR 2012; several kernels: Gretton
et al., NIPS 2012; as a loss, and the form of the kernel: Long et al., ICML 2015 (DAN). They also choose the weights of
the kernels, by a quadratic program; here these are equal.

Shapes: … pairs of sets · N cells of each · D features · E distances · K domains · P cells of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)


def draw_cells(member: Tensor, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """N = min(count, P) cells of every domain in random order, without replacement and without a loop over domains.

    member (K,P) bool → index (K,N) into the cells, valid (K,N) bool: a domain with fewer than N cells has all of them
    first, and after them arbitrary ones that are not valid.
    """
    noise = torch.rand(member.shape[1], generator=rng, device=member.device)
    best, index = noise.where(member, -1.0).topk(min(count, member.shape[1]), dim=1)
    return index, best >= 0


def linear_mmd(
    one: Tensor,
    other: Tensor,
    valid: tuple[Tensor, Tensor] | None = None,
    multiples: Sequence[float] = MULTIPLES,
    bandwidth: float | None = None,
) -> Tensor:
    """MMD² in linear time (JMLR 2012, lemma 14): the mean of h = k(x,x') + k(y,y') − k(x,y') − k(x',y) over pairs of
    cells (x, x'), (y, y'), where no cell is in two pairs.

    one, other (…,N,D) in random order, an odd last cell is left out; valid: (…,N) bool of each → (…). For a given
    `bandwidth` γ it is unbiased, hence negative at times. 0 with a gradient of 0 where no pair is valid.
    """
    assert one.shape == other.shape, "as many cells of one set as of the other"
    half = one.shape[-2] // 2
    (x, x2), (y, y2) = ((cells[..., : 2 * half : 2, :], cells[..., 1 : 2 * half : 2, :]) for cells in (one, other))
    pairs = torch.ones_like(x[..., 0], dtype=torch.bool)
    if valid is not None:
        both = valid[0] & valid[1]
        pairs = both[..., : 2 * half : 2] & both[..., 1 : 2 * half : 2]
    apart = torch.cat([(a.float() - b.float()).square().sum(-1) for a, b in ((x, x2), (y, y2), (x, y2), (x2, y))], -1)
    xx, yy, xy, yx = _kernel(apart, torch.cat([pairs] * 4, -1), multiples, bandwidth).split(half, -1)
    return (xx + yy - xy - yx).sum(-1) / pairs.sum(-1).clamp_min(1)


def quadratic_mmd(
    one: Tensor,
    other: Tensor,
    valid: tuple[Tensor, Tensor] | None = None,
    multiples: Sequence[float] = MULTIPLES,
    bandwidth: float | None = None,
) -> Tensor:
    """MMD² from all pairs of cells (JMLR 2012, lemma 6): less noise from as many cells, in quadratic time.

    one (…,N,D), other (…,N',D); valid: (…,N) and (…,N') bool → (…), unbiased as `linear_mmd` is. 0 with a gradient of 0
    where a set has fewer than two valid cells.
    """
    cells = torch.cat([one, other], -2).float()
    known = torch.ones_like(cells[..., 0], dtype=torch.bool) if valid is None else torch.cat(valid, -1)
    different = ~torch.eye(cells.shape[-2], dtype=torch.bool, device=cells.device)
    compared = known[..., :, None] & known[..., None, :] & different
    # By products, four times as fast as by differences; around their mean, so that these do not cancel out.
    cells = cells - cells.detach().mean(-2, keepdim=True)
    with torch.autocast(cells.device.type, enabled=False):
        length, product = cells.square().sum(-1), cells @ cells.transpose(-1, -2)
        apart = (length[..., :, None] + length[..., None, :] - 2 * product).clamp_min(0)
    k = _kernel(apart.flatten(-2), compared.flatten(-2), multiples, bandwidth).view_as(apart)
    n = one.shape[-2]

    def mean(rows: slice, columns: slice) -> Tensor:
        part = compared[..., rows, columns].sum((-1, -2))
        return k[..., rows, columns].sum((-1, -2)) / part.clamp_min(1)

    x, y = slice(0, n), slice(n, None)
    enough = (known[..., x].sum(-1) > 1) & (known[..., y].sum(-1) > 1)
    return (mean(x, x) + mean(y, y) - 2 * mean(x, y)).where(enough, 0.0)


def _kernel(apart: Tensor, compared: Tensor, multiples: Sequence[float], bandwidth: float | None) -> Tensor:
    """Squared distances (…,E) → k (…,E), 0 where they are not `compared`; γ is the median of those along E."""
    if bandwidth is None:
        gamma = apart.detach().masked_fill(~compared, torch.nan).nanmedian(-1, keepdim=True).values
        # Of no distance, and of none but zeros, any width will do.
        gamma = gamma.nan_to_num(1.0).clamp_min(1e-12)
    else:
        gamma = torch.full_like(apart[..., :1], bandwidth)
    return torch.stack([(-apart / (m * gamma)).exp() for m in multiples]).mean(0).where(compared, 0.0)
