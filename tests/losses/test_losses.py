"""Every loss beside a slow loop over its definition, and the properties that the definitions imply.

Shapes: B images · C classes · h×w cells · K domains · G classes of all domains · D embedding size.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fewmask.labels import NOT_LABELLED, VOID
from fewmask.losses.alignment import alignment, cosine_similarity, dot_similarity
from fewmask.losses.cross_entropy import cross_entropy
from fewmask.losses.dice import dice_loss
from fewmask.losses.entropy import entropy, masked_mean

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ── Cross-entropy ────────────────────────────────────────────────────────────────────────────────────────────────────


def loop_cross_entropy(logits: Tensor, label: Tensor) -> float:
    total, count = 0.0, 0
    for b in range(label.shape[0]):
        for y in range(label.shape[1]):
            for x in range(label.shape[2]):
                c = int(label[b, y, x])
                if c < NOT_LABELLED:
                    values = [float(v) for v in logits[b, :, y, x]]
                    top = max(values)
                    total += top + math.log(sum(math.exp(v - top) for v in values)) - values[c]
                    count += 1
    return total / count if count else 0.0


def labels_with_ignored(share: float, classes: int = 5, shape: tuple[int, int, int] = (2, 6, 8)) -> Tensor:
    label = torch.randint(0, classes, shape, generator=rng(1)).to(torch.uint8)
    flat = label.view(-1)
    chosen = torch.randperm(flat.numel(), generator=rng(2))[: round(share * flat.numel())]
    flat[chosen[0::2]] = VOID
    flat[chosen[1::2]] = NOT_LABELLED
    return label


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0, 0.25, 0.75, 1])
def test_cross_entropy_is_the_mean_over_labelled_pixels(share: float, dtype: torch.dtype) -> None:
    logits = (3 * torch.randn(2, 5, 6, 8, generator=rng())).to(dtype).requires_grad_()
    label = labels_with_ignored(share)
    loss = cross_entropy(logits, label)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(loop_cross_entropy(logits.detach(), label), abs=1e-5)
    loss.backward()
    gradient = logits.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    moved = gradient.abs().sum(1) > 0
    assert torch.equal(moved, label < NOT_LABELLED)


def test_cross_entropy_of_nothing_is_zero_with_a_gradient_of_zero() -> None:
    for pixels in (None, 0.0, torch.tensor(0.0)):
        logits = torch.randn(1, 3, 4, 4, generator=rng()).requires_grad_()
        loss = cross_entropy(logits, torch.full((1, 4, 4), VOID, dtype=torch.uint8), pixels)
        loss.backward()
        assert loss.item() == 0
        assert logits.grad is not None
        assert not logits.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cross_entropy_over_micro_batches_averages_to_the_global_batch(dtype: torch.dtype) -> None:
    logits = torch.randn(6, 5, 6, 8, generator=rng()).to(dtype)
    label = labels_with_ignored(0.75, shape=(6, 6, 8))
    label[2:4] = VOID  # one micro-batch without any label
    mean_count = (label < NOT_LABELLED).sum() / 3
    one, whole = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    parts = [cross_entropy(one[i : i + 2], label[i : i + 2], mean_count) for i in (0, 2, 4)]
    average = torch.stack(parts).mean()
    expected = cross_entropy(whole, label)
    torch.testing.assert_close(average, expected)
    average.backward()
    expected.backward()
    assert one.grad is not None
    assert whole.grad is not None
    torch.testing.assert_close(one.grad, whole.grad)


def test_one_labelled_cell_among_many_micro_batches_counts_in_full() -> None:
    """The mean count is then below 1."""
    logits, label = torch.randn(4, 5, 2, 2, generator=rng()), torch.full((4, 2, 2), VOID, dtype=torch.uint8)
    label[2, 1, 0] = 3
    whole = cross_entropy(logits, label)
    parts = [cross_entropy(logits[i : i + 1], label[i : i + 1], torch.tensor(0.25)) for i in range(4)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)
    means = [masked_mean(logits[i : i + 1, 0], label[i : i + 1] == 3, torch.tensor(0.25)) for i in range(4)]
    torch.testing.assert_close(torch.stack(means).mean(), logits[2, 0, 1, 0])


def test_cross_entropy_refuses_a_label_that_is_no_class() -> None:
    with pytest.raises(IndexError):
        cross_entropy(torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), 3, dtype=torch.uint8))


def loop_focal_poly(logits: Tensor, label: Tensor, weight: Tensor, gamma: float, epsilon: float) -> float:
    total, count = 0.0, 0
    for b in range(label.shape[0]):
        for y in range(label.shape[1]):
            for x in range(label.shape[2]):
                if (c := int(label[b, y, x])) < NOT_LABELLED:
                    exp = [math.exp(float(v)) for v in logits[b, :, y, x]]
                    p = exp[c] / sum(exp)
                    focal = -((1 - p) ** gamma) * math.log(p)
                    poly = epsilon * (1 - p) ** (gamma + 1)
                    total += float(weight[b, y, x]) * (focal + poly)
                    count += 1
    return total / count if count else 0.0


def assert_loss(loss: Tensor, expected: float, logits: Tensor, label: Tensor) -> None:
    """The loss is in fp32 and has the expected value. Its gradient is finite, and 0 at pixels without a class."""
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all()
    assert not gradient.movedim(1, -1)[label >= NOT_LABELLED].any()
    assert gradient.any() == (label < NOT_LABELLED).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("gamma", "epsilon"), [(0, 0), (2, 0), (0.5, 0), (0, 1), (0, -1), (2, 1.5)])
@pytest.mark.parametrize("share", [0, 0.25, 0.75, 1])
def test_weighted_focal_and_poly_loss_equal_a_loop(
    share: float, gamma: float, epsilon: float, dtype: torch.dtype
) -> None:
    logits = (3 * torch.randn(2, 5, 6, 8, generator=rng())).to(dtype).requires_grad_()
    label, weight = labels_with_ignored(share), torch.rand(2, 6, 8, generator=rng(3))
    for w in (None, weight):
        loss = cross_entropy(logits, label, weight=w, gamma=gamma, epsilon=epsilon)
        of_pixels = torch.ones(2, 6, 8) if w is None else w
        expected = loop_focal_poly(logits.detach(), label, of_pixels, gamma, epsilon)
        assert_loss(loss, expected, logits, label)


def test_a_weight_of_one_without_focus_is_cross_entropy() -> None:
    plain, weighted = (3 * torch.randn(2, 5, 6, 8, generator=rng()).requires_grad_() for _ in range(2))
    label = labels_with_ignored(0.25)
    expected, loss = cross_entropy(plain, label), cross_entropy(weighted, label, weight=torch.ones(2, 6, 8))
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    gradients = [torch.autograd.grad(value, of)[0] for value, of in ((expected, plain), (loss, weighted))]
    torch.testing.assert_close(*gradients, atol=1e-7, rtol=1e-5)


def test_the_weight_of_an_ignored_pixel_is_not_read() -> None:
    logits, label = torch.randn(2, 5, 6, 8, generator=rng()).requires_grad_(), labels_with_ignored(0.25)
    weight = torch.rand(2, 6, 8, generator=rng(3))
    unknown = weight.masked_fill(label >= NOT_LABELLED, float("nan"))
    loss = cross_entropy(logits, label, weight=unknown, gamma=2)
    assert loss == cross_entropy(logits, label, weight=weight, gamma=2)
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_weighted_focal_loss_over_micro_batches_averages_to_the_global_batch() -> None:
    logits, label = torch.randn(6, 5, 6, 8, generator=rng()), labels_with_ignored(0.75, shape=(6, 6, 8))
    label[2:4] = VOID
    weight, count = torch.rand(6, 6, 8, generator=rng(3)), (label < NOT_LABELLED).sum() / 3
    parts = [slice(i, i + 2) for i in (0, 2, 4)]
    average = torch.stack([cross_entropy(logits[i], label[i], count, weight=weight[i], gamma=2) for i in parts]).mean()
    torch.testing.assert_close(average, cross_entropy(logits, label, weight=weight, gamma=2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gamma", [0, 0.01, 0.5, 1, 2])
@pytest.mark.parametrize("gap", [0, 18, 104, 1e4, 1e30])
def test_focal_and_poly_loss_are_finite_at_any_logits(gap: float, gamma: float, dtype: torch.dtype) -> None:
    """For sure and right, sure and wrong, and everything labelled or nothing."""
    logits = torch.zeros(1, 3, 2, 2, dtype=dtype)
    logits[:, 0] = gap
    logits.requires_grad_()
    for c in (0, 1, VOID):
        label = torch.full((1, 2, 2), c, dtype=torch.uint8)
        loss = cross_entropy(logits, label, weight=torch.full((1, 2, 2), 0.5), gamma=gamma, epsilon=1)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
        assert gradient.isfinite().all()
        assert c != VOID or (loss == 0 and not gradient.any())


# ── Entropy ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def loop_entropy(values: list[float]) -> float:
    top = max(values)
    exp = [math.exp(v - top) for v in values]
    return -sum(e / sum(exp) * math.log(e / sum(exp)) for e in exp if e > 0)


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=8))
def test_entropy_equals_its_definition_and_lies_in_its_range(values: list[float]) -> None:
    h = entropy(torch.tensor(values).view(1, -1, 1, 1)).item()
    assert h == pytest.approx(loop_entropy(values), abs=2e-5)
    assert -1e-6 <= h <= math.log(len(values)) + 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gap", [0, 18, 104, 1e3, 1e4])
def test_entropy_is_finite_with_a_finite_gradient_at_any_gap(gap: float, dtype: torch.dtype) -> None:
    logits = torch.zeros(1, 4, 2, 2, dtype=dtype)
    logits[:, 0] = gap
    logits[:, 1] = -gap
    logits.requires_grad_()
    h = entropy(logits)
    h.sum().backward()
    assert logits.grad is not None
    assert h.isfinite().all()
    assert logits.grad.isfinite().all()
    assert h.min() >= 0
    assert h.max() <= math.log(4) + 1e-6


@pytest.mark.parametrize("classes", [1, 2, 19, 254])
@pytest.mark.parametrize("dtype", DTYPES)
def test_uniform_logits_have_the_entropy_log_c(classes: int, dtype: torch.dtype) -> None:
    h = entropy(torch.full((2, classes, 3, 3), 7.0, dtype=dtype))
    torch.testing.assert_close(h, torch.full((2, 3, 3), math.log(classes)))


def test_entropy_does_not_depend_on_class_order() -> None:
    logits = torch.randn(2, 7, 5, 5, generator=rng())
    torch.testing.assert_close(entropy(logits), entropy(logits[:, torch.randperm(7, generator=rng(3))]))


def test_masked_mean_equals_a_loop_and_leaves_no_gradient_outside() -> None:
    values = torch.randn(2, 4, 5, generator=rng()).requires_grad_()
    mask = torch.rand(2, 4, 5, generator=rng(1)) < 0.4
    chosen = [float(v) for v, m in zip(values.detach().flatten(), mask.flatten(), strict=True) if m]
    mean = masked_mean(values, mask)
    assert mean.item() == pytest.approx(sum(chosen) / len(chosen), abs=1e-6)
    mean.backward()
    assert values.grad is not None
    assert torch.equal(values.grad != 0, mask)
    assert masked_mean(values, mask, 4.0).item() == pytest.approx(sum(chosen) / 4, abs=1e-6)
    assert masked_mean(values, torch.zeros_like(mask)).item() == 0
    assert masked_mean(values, torch.zeros_like(mask), 0.0).item() == 0


def test_masked_mean_is_not_poisoned_by_what_it_leaves_out() -> None:
    values = torch.tensor([1.0, float("nan"), 3.0])
    assert masked_mean(values, torch.tensor([True, False, True])).item() == 2


# ── Similarities ─────────────────────────────────────────────────────────────────────────────────────────────────────


def unit_prototypes(classes: int, per_class: int = 2, dim: int = 6, seed: int = 5) -> Tensor:
    return F.normalize(torch.randn(classes, per_class, dim, generator=rng(seed)), dim=-1)


@pytest.mark.parametrize("per_class", [1, 3])
def test_similarities_equal_a_loop(per_class: int) -> None:
    embedding = torch.randn(2, 6, 3, 4, generator=rng())
    prototypes = unit_prototypes(5, per_class)
    dot, cosine = dot_similarity(embedding, prototypes), cosine_similarity(embedding, 3 * prototypes)
    for b in range(2):
        for y in range(3):
            for x in range(4):
                e = embedding[b, :, y, x]
                for g in range(5):
                    best = max(float(e @ p) for p in prototypes[g])
                    assert dot[b, g, y, x].item() == pytest.approx(best, abs=1e-5)
                    assert cosine[b, g, y, x].item() == pytest.approx(best / float(e.norm()), abs=1e-5)


def test_similarity_is_computed_in_fp32_under_autocast() -> None:
    embedding, prototypes = torch.randn(2, 32, 3, 4, generator=rng()), unit_prototypes(5, dim=32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = cosine_similarity(embedding, prototypes)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, cosine_similarity(embedding, prototypes))


def test_similarity_commutes_with_upsampling() -> None:
    """With E a 1×1 convolution, at any stride: so the entropies need no finer grid than the features'."""
    project = torch.nn.Conv2d(12, 6, 1)
    features = torch.randn(2, 12, 5, 7, generator=rng())
    prototypes = unit_prototypes(5, per_class=1)

    def up(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=8.0, mode="bilinear", align_corners=False)

    before = dot_similarity(project(up(features)), prototypes)
    after = up(dot_similarity(project(features), prototypes))
    assert (before - after).abs().max() < 1e-5


# ── Alignment ────────────────────────────────────────────────────────────────────────────────────────────────────────


def loop_alignment(
    logits: dict[int, Tensor],
    unlabelled: dict[int, Tensor],
    classes: list[int],
    unknown: Tensor | None = None,
    gate: dict[int, Tensor] | None = None,
) -> tuple[float, float]:
    first = [sum(classes[:k]) for k in range(len(classes))]
    cross, within = 0.0, 0.0
    for i, v in logits.items():
        cells = [tuple(c) for c in torch.nonzero(unlabelled[i]).tolist()]
        for b, y, x in cells:
            for j, c in enumerate(classes):
                values = [float(v[b, g, y, x]) for g in range(first[j], first[j] + c)]
                if j == i:
                    within += loop_entropy(values) / len(cells)
                elif gate is None or gate[i][b, j, y, x]:
                    values += [] if unknown is None else [float(unknown[j])]
                    cross += loop_entropy(values) / len(cells) / (len(classes) - 1)
    return cross, within


def alignment_case(domains: int, seed: int = 0) -> tuple[dict[int, Tensor], dict[int, Tensor], list[int]]:
    classes = [2, 4, 3, 5, 1][:domains]
    logits = {i: 3 * torch.randn(1 + i % 2, sum(classes), 3, 4, generator=rng(seed + i)) for i in range(domains)}
    masks = {i: torch.rand(v.shape[0], 3, 4, generator=rng(50 + i)) < 0.6 for i, v in logits.items()}
    return logits, masks, classes


@pytest.mark.parametrize("answer", ["none", "unknown", "gate"])
@pytest.mark.parametrize("domains", [1, 2, 3, 5])
def test_alignment_equals_a_loop(domains: int, answer: str) -> None:
    logits, masks, classes = alignment_case(domains)
    unknown = torch.linspace(-1, 1, domains) if answer == "unknown" else None
    gate = None
    if answer == "gate":
        gate = {i: torch.rand(v.shape[0], domains, 3, 4, generator=rng(90 + i)) < 0.5 for i, v in logits.items()}
    got = alignment(logits, masks, classes, unknown=unknown, gate=gate)
    cross, within = loop_alignment(logits, masks, classes, unknown, gate)
    assert got.cross.item() == pytest.approx(cross, abs=1e-5)
    assert got.within.item() == pytest.approx(within, abs=1e-5)


def test_alignment_of_two_domains_is_the_published_sum() -> None:
    logits, masks, classes = alignment_case(2)
    got = alignment(logits, masks, classes)
    h_12, h_21 = (masked_mean(entropy(logits[i].split(classes, 1)[1 - i]), masks[i]) for i in (0, 1))
    h_11, h_22 = (masked_mean(entropy(logits[i].split(classes, 1)[i]), masks[i]) for i in (0, 1))
    assert torch.equal(got.cross, h_12 + h_21)
    assert torch.equal(got.within, h_11 + h_22)


def test_alignment_with_one_domain_of_the_batch_alone() -> None:
    logits, masks, classes = alignment_case(3)
    got = alignment({1: logits[1]}, {1: masks[1]}, classes)
    cross, within = loop_alignment({1: logits[1]}, {1: masks[1]}, classes)
    assert got.cross.item() == pytest.approx(cross, abs=1e-5)
    assert got.within.item() == pytest.approx(within, abs=1e-5)


def test_alignment_does_not_depend_on_the_order_of_classes() -> None:
    logits, masks, classes = alignment_case(3)
    order = torch.cat([torch.tensor([1, 0]), 2 + torch.randperm(4, generator=rng(1)), torch.tensor([8, 6, 7])])
    one, other = (alignment(v, masks, classes) for v in (logits, {i: v[:, order] for i, v in logits.items()}))
    torch.testing.assert_close(one, other)


def test_alignment_over_micro_batches_averages_to_the_global_batch() -> None:
    classes = [2, 3]
    logits = {i: torch.randn(4, 5, 3, 3, generator=rng(i)) for i in range(2)}
    masks = {i: torch.rand(4, 3, 3, generator=rng(9 + i)) < 0.5 for i in range(2)}
    count = [masks[i].sum() / 2 for i in range(2)]
    parts = [
        alignment({i: v[s] for i, v in logits.items()}, {i: m[s] for i, m in masks.items()}, classes, count)
        for s in (slice(0, 1), slice(1, 4))
    ]
    whole = alignment(logits, masks, classes)
    torch.testing.assert_close((parts[0].cross + parts[1].cross) / 2, whole.cross)
    torch.testing.assert_close((parts[0].within + parts[1].within) / 2, whole.within)


def test_cells_left_out_get_no_gradient() -> None:
    logits, masks, classes = alignment_case(3)
    logits = {i: v.requires_grad_() for i, v in logits.items()}
    got = alignment(logits, masks, classes)
    (got.cross + got.within).backward()
    for i, v in logits.items():
        assert v.grad is not None
        assert torch.equal(v.grad.abs().sum(1) > 0, masks[i])


def test_the_marginal_entropy_tells_one_chosen_class_from_many() -> None:
    sure_of_one = torch.zeros(1, 4, 2, 2)
    sure_of_one[:, 0] = 50
    sure_of_four = 50 * torch.eye(4).view(1, 4, 2, 2)
    mask = {0: torch.ones(1, 2, 2, dtype=torch.bool)}
    assert alignment({0: sure_of_one}, mask, [4]).marginal.item() == pytest.approx(0, abs=1e-5)
    assert alignment({0: sure_of_four}, mask, [4]).marginal.item() == pytest.approx(math.log(4), abs=1e-5)
    for v in (sure_of_one, sure_of_four):
        assert alignment({0: v}, mask, [4]).within.item() == pytest.approx(0, abs=1e-5)
    mask[0][0, 1] = False  # of the unlabelled cells alone
    assert alignment({0: sure_of_four}, mask, [4]).marginal.item() == pytest.approx(math.log(2), abs=1e-5)


def test_scaling_the_embedding_lowers_the_dot_product_loss_and_not_the_cosine_one() -> None:
    """The trivial minimum of the published loss."""
    embedding = torch.randn(1, 6, 6, 6, generator=rng())
    prototypes, mask, classes = unit_prototypes(7, per_class=1), {0: torch.ones(1, 6, 6, dtype=torch.bool)}, [3, 4]

    def loss(like: object, scale: float) -> float:
        assert callable(like)
        got = alignment({0: like(scale * embedding, prototypes)}, mask, classes)
        return float(got.cross + got.within)

    dot = [loss(dot_similarity, s) for s in (0.1, 1, 5, 20)]
    assert dot == sorted(dot, reverse=True)
    assert dot[-1] < 0.1 * dot[0]
    cosine = [loss(cosine_similarity, s) for s in (0.1, 1, 5, 20)]
    assert max(cosine) - min(cosine) < 1e-5


def loop_dice(logits: Tensor, label: Tensor, weight: Tensor) -> float:
    total = count = 0.0
    for b in range(label.shape[0]):
        p = logits[b].double().softmax(0)
        pixels = [(y, x) for y in range(label.shape[1]) for x in range(label.shape[2]) if label[b, y, x] < NOT_LABELLED]
        coefficients = []
        for c in {int(label[b, y, x]) for y, x in pixels}:
            overlap = sum(float(weight[b, y, x] * p[c, y, x]) for y, x in pixels if label[b, y, x] == c)
            of_label = sum(float(weight[b, y, x]) for y, x in pixels if label[b, y, x] == c)
            of_prediction = sum(float(weight[b, y, x] * p[c, y, x]) for y, x in pixels)
            coefficients.append(2 * overlap / (of_label + of_prediction))
        if coefficients:
            total += sum(float(weight[b, y, x]) for y, x in pixels) * (1 - sum(coefficients) / len(coefficients))
            count += len(pixels)
    return total / count if count else 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0, 0.25, 0.75, 1])
def test_dice_loss_equals_a_loop(share: float, dtype: torch.dtype) -> None:
    logits = (3 * torch.randn(2, 5, 6, 8, generator=rng())).to(dtype).requires_grad_()
    label, weight = labels_with_ignored(share), 0.1 + torch.rand(2, 6, 8, generator=rng(3))
    for w in (None, weight):
        loss = dice_loss(logits, label, weight=w)
        expected = loop_dice(logits.detach(), label, torch.ones(2, 6, 8) if w is None else w)
        assert_loss(loss, expected, logits, label)


def test_dice_loss_is_0_for_a_perfect_prediction_and_1_for_a_wrong_one() -> None:
    label = labels_with_ignored(0.25)
    one_hot = torch.nn.functional.one_hot(torch.where(label < NOT_LABELLED, label, 0).long(), 5).movedim(-1, 1)
    assert dice_loss(100.0 * one_hot, label).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(100.0 * one_hot.roll(1, dims=1), label).item() == pytest.approx(1, abs=1e-6)


def test_dice_loss_over_micro_batches_averages_to_the_global_batch() -> None:
    logits, label = torch.randn(6, 5, 6, 8, generator=rng()), labels_with_ignored(0.75, shape=(6, 6, 8))
    label[2:4] = VOID
    count, parts = (label < NOT_LABELLED).sum() / 3, [slice(i, i + 2) for i in (0, 2, 4)]
    average = torch.stack([dice_loss(logits[i], label[i], count) for i in parts]).mean()
    torch.testing.assert_close(average, dice_loss(logits, label))
