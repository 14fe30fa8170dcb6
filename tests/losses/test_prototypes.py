"""Prototypes beside a slow loop over their definition: Sinkhorn, live ones and those of a PCA.

Shapes: h×w cells · G classes of all domains · D embedding size.
"""

from __future__ import annotations

import ast
import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fewmask.losses import prototypes as prototypes_module
from fewmask.losses.prototypes import draw_per_class, pca_prototypes, sinkhorn, update_prototypes


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit_prototypes(classes: int, per_class: int = 2, dim: int = 6, seed: int = 5) -> Tensor:
    return F.normalize(torch.randn(classes, per_class, dim, generator=rng(seed)), dim=-1)


# ── Sinkhorn and live prototypes ─────────────────────────────────────────────────────────────────────────────────────


def loop_sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    m, p = scores.shape
    q = [[math.exp((float(scores[i, j]) - float(scores.max())) / epsilon) for j in range(p)] for i in range(m)]
    for _ in range(iterations):
        for j in range(p):
            column = sum(q[i][j] for i in range(m))
            for i in range(m):
                q[i][j] /= column
        for i in range(m):
            row = sum(q[i])
            q[i] = [v / row for v in q[i]]
    return torch.tensor(q)


def test_sinkhorn_equals_a_loop_for_every_class_apart() -> None:
    scores = torch.rand(3, 20, 4, generator=rng()) * 2 - 1
    got = sinkhorn(scores)
    for g in range(3):
        torch.testing.assert_close(got[g], loop_sinkhorn(scores[g], 0.05, 3), atol=1e-4, rtol=1e-3)


def test_sinkhorn_rows_sum_to_one_and_prototypes_share_equally() -> None:
    # All cells lie nearest the first prototype: without balancing it would take them all.
    scores = 0.2 * torch.rand(2, 240, 3, generator=rng()) + torch.tensor([0.5, 0.2, 0.2])
    share = sinkhorn(scores)
    torch.testing.assert_close(share.sum(-1), torch.ones(2, 240))
    torch.testing.assert_close(share.sum(-2), torch.full((2, 3), 80.0), rtol=0.05, atol=0)
    torch.testing.assert_close(sinkhorn(scores, iterations=50).sum(-2), torch.full((2, 3), 80.0), rtol=1e-3, atol=0)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_sinkhorn_is_finite_at_any_scores(scale: float) -> None:
    share = sinkhorn(scale * torch.randn(2, 9, 3, generator=rng()))
    assert share.isfinite().all()
    torch.testing.assert_close(share.sum(-1), torch.ones(2, 9))


def test_draw_per_class_draws_from_the_right_class_uniformly() -> None:
    label = torch.tensor([2, 0, 255, 2, 1, 254, 2, 0, 2, 255, 4])
    index, present = draw_per_class(label, 4, 8000, rng())
    assert index.shape == (4, 8000)
    assert present.tolist() == [True, True, True, False]
    for c in range(3):
        members = torch.nonzero(label == c).flatten()
        counts = torch.stack([(index[c] == m).sum() for m in members])
        assert counts.sum() == 8000  # nothing but members
        expected = 8000 / len(members)
        chi_square = float(((counts - expected) ** 2 / expected).sum())
        assert chi_square < 20  # three degrees of freedom at most: p < 0.001
    assert torch.equal(index, draw_per_class(label, 4, 8000, rng())[0])
    assert not torch.equal(index, draw_per_class(label, 4, 8000, rng(1))[0])


def test_draw_per_class_needs_no_class_at_all() -> None:
    index, present = draw_per_class(torch.tensor([255, 254]), 3, 5, rng())
    assert not present.any()
    assert ((index >= 0) & (index < 2)).all()


def test_drawing_and_moving_prototypes_have_no_python_loop() -> None:
    for function in (draw_per_class, update_prototypes):
        tree = ast.parse(inspect.getsource(function))
        loops = [n for n in ast.walk(tree) if isinstance(n, ast.For | ast.While | ast.comprehension)]
        assert not loops, function.__name__


def loop_updated(prototypes: Tensor, features: Tensor, present: Tensor, momentum: float) -> Tensor:
    result = prototypes.clone()
    for g in range(len(prototypes)):
        if not present[g]:
            continue
        cells = [v / v.norm() for v in features[g]]
        scores = torch.stack([torch.stack([v @ p for p in prototypes[g]]) for v in cells])
        winner = loop_sinkhorn(scores, 0.05, 3).argmax(1)
        for p in range(prototypes.shape[1]):
            won = [v for v, w in zip(cells, winner, strict=True) if w == p]
            if won:
                mean = torch.stack(won).sum(0)
                moved = momentum * prototypes[g, p] + (1 - momentum) * mean / mean.norm()
                result[g, p] = moved / moved.norm()
    return result


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.999])
def test_updated_prototypes_equal_a_loop(momentum: float) -> None:
    prototypes = unit_prototypes(4, per_class=3)
    features = torch.randn(4, 20, 6, generator=rng(7))
    present = torch.tensor([True, False, True, True])
    before = prototypes.clone()
    moved = update_prototypes(prototypes, features, present, momentum)
    torch.testing.assert_close(moved, loop_updated(prototypes, features, present, momentum), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(moved.norm(dim=-1), torch.ones(4, 3))
    assert torch.equal(moved[1], prototypes[1])
    assert torch.equal(prototypes, before)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_prototype_that_won_no_cell_stays(momentum: float) -> None:
    prototypes = unit_prototypes(1, per_class=3)
    one_cell = torch.randn(1, 1, 6, generator=rng())
    moved = update_prototypes(prototypes, one_cell, torch.tensor([True]), momentum)
    assert (moved != prototypes).any(-1).sum() == 1


def test_no_gradient_reaches_the_prototypes() -> None:
    prototypes = unit_prototypes(4).requires_grad_()
    features = torch.randn(4, 20, 6, generator=rng(7)).requires_grad_()
    assert not update_prototypes(prototypes, features, torch.ones(4, dtype=torch.bool), 0.9).requires_grad
    made, *_ = pca_prototypes(features.detach().flatten(0, 1), torch.arange(80) % 4, 4, 3)
    assert not made.requires_grad


# ── PCA prototypes ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_pca_prototypes_equal_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prototypes_module, "_CHUNK", 17)
    stretch = torch.linspace(1, 4, 8)
    features = torch.randn(60, 8, generator=rng()) * stretch + 3
    label = torch.arange(60) % 5
    prototypes, components, mean = pca_prototypes(features, label, 5, 3)
    assert prototypes.shape == (5, 1, 3)
    torch.testing.assert_close(mean, features.mean(0))
    centred = features.double() - features.double().mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    for d in range(3):  # an axis is known up to its sign
        assert abs(float(axes[d] @ components[d].double())) == pytest.approx(1, abs=1e-5)
    for c in range(5):
        centroid = torch.stack([f for f, k in zip(features, label, strict=True) if k == c]).mean(0)
        reduced = torch.stack([axis @ (centroid - mean) for axis in components])
        torch.testing.assert_close(prototypes[c, 0], reduced / reduced.norm(), atol=1e-5, rtol=1e-4)
