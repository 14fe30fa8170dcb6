"""Regional contrast beside slow loops over its definition, and its draws beside the distribution that they follow.

Shapes: B images · h×w cells, P = B·h·w · D size of the representation · C classes · Q queries · S sets of N negatives.
"""

from __future__ import annotations

import ast
import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fewmask.labels import NOT_LABELLED, VOID
from fewmask.losses import regional_contrast as module
from fewmask.losses.prototypes import by_class
from fewmask.losses.regional_contrast import Draws, class_means, contrast, draw_queries, regional_contrast

B, D, H, W, C = 2, 12, 6, 8, 5
TEMPERATURE, HARD = 0.5, 0.7


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def case(ignored: float = 0.25, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Representation, label without class 3, confidence. Class 2 has no hard pixel."""
    label = torch.randint(0, C, (B, H, W), generator=rng(1)).to(torch.uint8)
    label[label == 3] = 0
    flat = label.view(-1)
    chosen = torch.randperm(flat.numel(), generator=rng(2))[: round(ignored * flat.numel())]
    flat[chosen[0::2]], flat[chosen[1::2]] = VOID, NOT_LABELLED
    mean = torch.randn(256, D, generator=rng(4))
    representation = torch.randn(B, D, H, W, generator=rng(3)) + mean[label.long()].permute(0, 3, 1, 2)
    confidence = torch.rand(B, H, W, generator=rng(5)).masked_fill(label == 2, 0.99)
    return representation.to(dtype), label, confidence


def run(
    representation: Tensor,
    label: Tensor,
    confidence: Tensor,
    seed: int = 0,
    queries: int = 8,
    negatives: int = 6,
    sets: int = 4,
) -> Tensor:
    return regional_contrast(
        representation, label, confidence, rng(seed), classes=C, queries=queries, negatives=negatives,
        hard=HARD, temperature=TEMPERATURE, sets=sets,
    )  # fmt: skip


def flat(representation: Tensor, label: Tensor, confidence: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    pixels = representation.permute(0, 2, 3, 1).reshape(-1, representation.shape[1])
    target = torch.where(label >= NOT_LABELLED, C, label.long()).flatten()
    return pixels, target, confidence.flatten() < HARD


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def loop_means(pixels: Tensor, target: Tensor) -> dict[int, Tensor]:
    members = {c: [pixels[p].double() for p in range(len(pixels)) if target[p] == c] for c in range(C)}
    return {c: torch.stack(m).mean(0) for c, m in members.items() if m}


def loop_contrast(pixels: Tensor, target: Tensor, is_hard: Tensor, drawn: Draws) -> float:
    """The definition, given which pixels were drawn: the mean over classes that are there, those without a hard pixel
    with nothing to add."""
    means, losses = loop_means(pixels, target), []
    run_length = drawn.queries.shape[1] // drawn.negatives.shape[1]
    for c, mean in means.items():
        if len(means) < 2 or not any(is_hard[p] and target[p] == c for p in range(len(pixels))):
            losses.append(0.0)
            continue
        of_queries = []
        for q, index in enumerate(drawn.queries[c].tolist()):
            query = pixels[index].double()
            positive = cosine(query, mean) / TEMPERATURE
            others = [cosine(query, pixels[n].double()) / TEMPERATURE for n in drawn.negatives[c, q // run_length]]
            of_queries.append(math.log(sum(math.exp(v) for v in [positive, *others])) - positive)
        losses.append(sum(of_queries) / len(of_queries))
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize("sets", [1, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ignored", [0, 0.25, 0.75, 1])
def test_it_equals_a_loop_over_the_same_draws(ignored: float, dtype: torch.dtype, sets: int) -> None:
    representation, label, confidence = case(ignored, dtype)
    representation.requires_grad_()
    loss = run(representation, label, confidence, sets=sets)
    pixels, target, is_hard = flat(representation.detach(), label, confidence)
    means = class_means(pixels, target, C)
    drawn = draw_queries(means, target, is_hard, rng(), 8, 6, TEMPERATURE, sets)
    expected = loop_contrast(pixels, target, is_hard, drawn)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, abs=1e-5 if dtype == torch.float32 else 1e-2)
    assert (expected == 0) == (ignored == 1)
    loss.backward()
    assert representation.grad is not None
    assert representation.grad.isfinite().all()


def test_the_gradient_equals_that_of_the_definition_and_reaches_the_queries_alone() -> None:
    representation, label, confidence = case()
    one, other = representation.clone().requires_grad_(), representation.clone().requires_grad_()
    run(one, label, confidence).backward()
    pixels, target, is_hard = flat(other, label, confidence)
    fixed = pixels.detach()
    drawn = draw_queries(class_means(fixed, target, C), target, is_hard, rng(), 8, 6, TEMPERATURE, 4)
    means, total = loop_means(fixed, target), []
    for c in [0, 1, 4]:
        for q in range(8):
            query = F.normalize(pixels[drawn.queries[c, q]], dim=0)
            keys = torch.stack([means[c].float(), *fixed[drawn.negatives[c, q // 2]]])
            total.append(-torch.log_softmax(F.normalize(keys, dim=1) @ query / TEMPERATURE, 0)[0])
    (torch.stack(total).sum() / (4 * 8)).backward()  # class 2 is there, but has no hard pixel
    assert one.grad is not None
    assert other.grad is not None
    torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4)
    queried = torch.zeros(B * H * W, dtype=torch.bool)
    queried[drawn.queries[drawn.active].flatten()] = True
    assert torch.equal(one.grad.abs().sum(1).flatten() > 0, queried)
    assert drawn.active.tolist() == [True, True, False, False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("why", ["all ignored", "one class", "nothing hard"])
def test_nothing_to_contrast_is_zero_with_a_gradient_of_zero(why: str, dtype: torch.dtype) -> None:
    representation, label, confidence = case(dtype=dtype)
    if why == "all ignored":
        label = torch.full_like(label, VOID)
    if why == "one class":
        label = torch.where(label < NOT_LABELLED, 4, label)
    if why == "nothing hard":
        confidence = torch.full_like(confidence, HARD)
    representation.requires_grad_()
    loss = run(representation, label, confidence)
    loss.backward()
    assert loss.item() == 0
    assert representation.grad is not None
    assert not representation.grad.any()


def test_what_is_ignored_has_no_say() -> None:
    representation, label, confidence = case()
    ignored = label >= NOT_LABELLED
    changed = torch.where(ignored[:, None], 50 * torch.randn(B, D, H, W, generator=rng(9)), representation)
    other_confidence = torch.where(ignored, float("nan"), confidence)
    assert run(representation, label, confidence) == run(changed, label, other_confidence)
    swapped = torch.where(label == VOID, NOT_LABELLED, torch.where(label == NOT_LABELLED, VOID, label))
    assert run(representation, label, confidence) == run(representation, swapped, confidence)


def test_random_features_give_log_of_one_plus_n() -> None:
    label = torch.randint(0, C, (B, 32, 32), generator=rng(1))
    representation = torch.randn(B, 256, 32, 32, generator=rng(2))
    loss = run(representation, label, torch.zeros(B, 32, 32), queries=64, negatives=100)
    # Nearly: cosines of random vectors are not quite 0, and a prototype holds a little of each of its queries.
    assert loss.item() == pytest.approx(math.log(101), abs=0.15)


def test_a_scaled_representation_has_the_same_loss() -> None:
    representation, label, confidence = case()
    torch.testing.assert_close(run(100 * representation, label, confidence), run(representation, label, confidence))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [0.0, 1e4])
def test_it_is_finite_for_equal_and_for_large_features(value: float, dtype: torch.dtype) -> None:
    _, label, confidence = case()
    representation = torch.full((B, D, H, W), value, dtype=dtype, requires_grad=True)
    loss = run(representation, label, confidence)
    loss.backward()
    assert loss.item() == pytest.approx(3 / 4 * math.log(7), abs=1e-2)  # one class of four has no hard pixel
    assert representation.grad is not None
    assert representation.grad.isfinite().all()


def test_it_is_computed_in_the_precision_of_the_representation_under_autocast() -> None:
    representation, label, confidence = case()
    with torch.autocast("cpu", torch.bfloat16):
        inside = run(representation, label, confidence)
    assert torch.equal(inside, run(representation, label, confidence))


def test_it_depends_on_the_generator_alone_and_not_on_the_global_one() -> None:
    representation, label, confidence = case()
    state = torch.get_rng_state()
    losses = [run(representation, label, confidence, seed).item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(state, torch.get_rng_state())


def test_the_order_of_pixels_matters_to_the_draws_alone() -> None:
    pixels, target, is_hard = flat(*case())
    drawn = draw_queries(class_means(pixels, target, C), target, is_hard, rng(), 8, 6, TEMPERATURE, 4)
    order = torch.randperm(len(pixels), generator=rng(7))
    place = order.argsort()
    moved = drawn._replace(queries=place[drawn.queries], negatives=place[drawn.negatives])
    means, other_means = class_means(pixels, target, C), class_means(pixels[order], target[order], C)
    torch.testing.assert_close(means, other_means)
    torch.testing.assert_close(contrast(pixels, means, drawn, 0.5), contrast(pixels[order], other_means, moved, 0.5))


def test_the_order_of_classes_does_not_matter_to_the_expected_loss() -> None:
    representation, label, confidence = case()
    renamed = torch.where(label < NOT_LABELLED, C - 1 - label.long(), label.long())
    one, other = (run(representation, y, confidence, queries=2000, negatives=50, sets=200) for y in (label, renamed))
    torch.testing.assert_close(one, other, rtol=0.01, atol=0)


def test_sharing_negatives_leaves_the_expected_loss_and_gradient() -> None:
    """S sets of negatives for Q queries, beside ReCo's one set a query (S = Q)."""
    representation, label, confidence = case()
    means, gradients = [], []
    for sets in (1, 8):
        leaf = representation.clone().requires_grad_()
        loss = torch.stack([run(leaf, label, confidence, seed, sets=sets) for seed in range(400)]).mean()
        loss.backward()
        assert leaf.grad is not None
        means.append(loss.item())
        gradients.append(leaf.grad)
    assert means[0] == pytest.approx(means[1], rel=0.01)
    assert (gradients[0] - gradients[1]).norm() < 0.1 * gradients[1].norm()


def test_negatives_follow_the_likeness_of_classes_and_are_uniform_inside_one() -> None:
    pixels, target, is_hard = flat(*case())
    means = class_means(pixels, target, C)
    drawn = draw_queries(means, target, is_hard, rng(), 8, 4000, TEMPERATURE, 4)
    there = [0, 1, 2, 4]
    for c in there:
        index = drawn.negatives[c].flatten()
        weights = {j: math.exp(cosine(means[c], means[j]) / TEMPERATURE) for j in there if j != c}
        assert not (target[index] == c).any() and not (target[index] == C).any()
        for j, weight in weights.items():
            share = weight / sum(weights.values())
            count = torch.stack([(index == p).sum() for p in torch.nonzero(target == j).flatten()])
            deviation = math.sqrt(len(index) * share * (1 - share))
            assert abs(int(count.sum()) - len(index) * share) < 4 * deviation
            expected = count.sum() / len(count)
            chi_square = float(((count - expected) ** 2 / expected).sum())
            assert chi_square < len(count) - 1 + 4 * math.sqrt(2 * (len(count) - 1)) + 4


def test_queries_are_hard_pixels_of_their_class_uniformly() -> None:
    pixels, target, is_hard = flat(*case())
    drawn = draw_queries(class_means(pixels, target, C), target, is_hard, rng(), 4000, 6, TEMPERATURE, 4)
    for c in [0, 1, 4]:
        members = torch.nonzero((target == c) & is_hard).flatten()
        count = torch.stack([(drawn.queries[c] == p).sum() for p in members])
        assert count.sum() == 4000
        expected = 4000 / len(members)
        chi_square = float(((count - expected) ** 2 / expected).sum())
        assert chi_square < len(count) - 1 + 4 * math.sqrt(2 * (len(count) - 1)) + 4


def test_a_label_that_is_no_class_is_refused() -> None:
    representation, label, confidence = case()
    label[0, 0, 0] = C + 1
    with pytest.raises(RuntimeError):
        run(representation, label, confidence)


def test_by_class_sorts_and_counts() -> None:
    label = torch.tensor([2, 0, 255, 2, 4, 254, 0, 2], dtype=torch.uint8)
    order, first, count = by_class(label, 4)
    assert count.tolist() == [2, 0, 3, 0]
    assert [sorted(order[f : f + n].tolist()) for f, n in zip(first, count, strict=True)] == [[1, 6], [], [0, 3, 7], []]


def test_there_is_no_python_loop_and_no_wait_for_a_value() -> None:
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        assert not isinstance(node, ast.For | ast.While | ast.comprehension)
        assert not (isinstance(node, ast.Attribute) and node.attr in {"item", "tolist", "cpu", "nonzero", "numpy"})
