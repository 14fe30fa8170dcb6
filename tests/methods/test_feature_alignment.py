"""Feature alignment, `mmd` and `adversarial-align`: the discrepancy against loops and its closed form, the adversary's
gradients, whom a term moves, and two shifted domains that become one.

Shapes: B rows of a batch · K domains · N cells · D features · h×w feature cells.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import batch, domains, model, relabelled, run, same, steps, train_settings
from semi_supervised import rng
from test_hung2018 import gradients
from torch import Tensor, nn

from fewmask.data.batch import Batch, mean_counts
from fewmask.data.domain import Domain
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.losses.mmd import MULTIPLES, draw_cells, linear_mmd, quadratic_mmd
from fewmask.methods import METHODS
from fewmask.methods.adversarial_align import AdversarialAlign
from fewmask.methods.common.base import Method
from fewmask.models.universal import UniversalSegmenter, at_stride

ESTIMATORS: dict[str, Callable[..., Tensor]] = {"linear": linear_mmd, "quadratic": quadratic_mmd}
TERM = {"mmd": "mmd", "adversarial-align": "domain"}


def method(name: str, of: dict[str, Domain], **options: Any) -> Method:
    return METHODS[name](METHODS[name].Settings.model_validate({"name": name, **options}), of)


def prepared(name: str, of: dict[str, Domain], network: UniversalSegmenter, **options: Any) -> Method:
    """In eval mode, where rows do not meet in batch normalisation."""
    made = method(name, of, **options)
    made.prepare(network, rng())
    network.eval()
    return made


def drawn(of: dict[str, Domain], network: UniversalSegmenter, made: Method, step: int = 3, rows: int = 6) -> Batch:
    """With void and unlabelled holes in the labelled rows, void and answers in the pool's."""
    (part,) = steps(of, made.phases(4), train_settings(batch_size=rows), network)[step]
    label = part.label.clone()
    label[0, 20:, :10] = NOT_LABELLED
    label[1, :, :20] = VOID
    label[-1, 10:30, 15:25] = 1
    label[-2, :12] = VOID
    return relabelled(part, label, network)


# ── The discrepancy ──────────────────────────────────────────────────────────────────────────────────────────────────


def sets(n: int, d: int, seed: int = 0, many: int = 1, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Two sets (G,N,D) of standard normal cells, the other one shifted in every feature."""
    one, other = torch.randn(2, many, n, d, generator=rng(seed), dtype=torch.float64)
    return one.float(), (other + shift).float()


def kernel(x: Tensor, y: Tensor, gamma: float) -> float:
    return sum(math.exp(-sum((a - b) ** 2 for a, b in zip(x.tolist(), y.tolist(), strict=True)) / (m * gamma))
               for m in MULTIPLES) / len(MULTIPLES)  # fmt: skip


def lower_median(values: list[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]


def apart(x: Tensor, y: Tensor) -> float:
    return float((x - y).square().sum())


def linear_loop(one: Tensor, other: Tensor) -> float:
    quads = [(one[i], one[i + 1], other[i], other[i + 1]) for i in range(0, len(one) - 1, 2)]
    gamma = lower_median(
        [v for x, x2, y, y2 in quads for v in (apart(x, x2), apart(y, y2), apart(x, y2), apart(x2, y))]
    )
    h = [
        kernel(x, x2, gamma) + kernel(y, y2, gamma) - kernel(x, y2, gamma) - kernel(x2, y, gamma)
        for x, x2, y, y2 in quads
    ]
    return sum(h) / len(h)


def quadratic_loop(one: Tensor, other: Tensor) -> float:
    gamma = lower_median([apart(x, y) for x, y in itertools.combinations([*one, *other], 2)])

    def mean(pairs: list[tuple[Tensor, Tensor]]) -> float:
        return sum(kernel(x, y, gamma) for x, y in pairs) / len(pairs)

    return (
        mean(list(itertools.permutations(one, 2)))
        + mean(list(itertools.permutations(other, 2)))
        - 2 * mean(list(itertools.product(one, other)))
    )


def test_the_estimators_equal_loops_over_the_valid_cells() -> None:
    one, other = sets(7, 3, many=2, shift=0.7)
    assert linear_mmd(one, other).tolist() == pytest.approx(
        [linear_loop(*p) for p in zip(one, other, strict=True)], rel=1e-4
    )
    assert quadratic_mmd(one, other).tolist() == pytest.approx(
        [quadratic_loop(*p) for p in zip(one, other, strict=True)], rel=1e-4
    )
    first = torch.arange(7)
    valid = torch.stack([first < 4, first < 7]), torch.stack([first < 6, first < 3])  # of two pairs of sets
    assert linear_mmd(one, other, valid).tolist() == pytest.approx(
        [linear_loop(one[0, :4], other[0, :4]), linear_loop(one[1, :2], other[1, :2])], rel=1e-4
    )
    assert quadratic_mmd(one, other, valid).tolist() == pytest.approx(
        [quadratic_loop(one[0, :4], other[0, :6]), quadratic_loop(one[1], other[1, :3])], rel=1e-4
    )


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_discrepancy_of_two_gaussians_is_the_closed_form_without_bias(name: str, shift: float) -> None:
    """E exp(−|x−y|²/γ) = (γ/(γ+2s))^(D/2) · exp(−|μ−ν|²/(γ+2s)) for x−y normal with mean μ−ν and variance s."""
    d, gamma, variance = 3, 4.0, 2.25
    one, other = sets(24, d, many=2000, shift=shift / 1.5)
    other = 1.5 * other

    def expected(spread: float, distance: float = 0.0) -> float:
        widths = [m * gamma + 2 * spread for m in MULTIPLES]
        k = [(m * gamma / w) ** (d / 2) * math.exp(-distance / w) for m, w in zip(MULTIPLES, widths, strict=True)]
        return sum(k) / len(k)

    truth = expected(2) + expected(2 * variance) - 2 * expected(1 + variance, d * shift**2)
    estimates = ESTIMATORS[name](one, other, bandwidth=gamma).double()
    error = float(estimates.std() / math.sqrt(len(estimates)))
    assert abs(float(estimates.mean()) - truth) < 4 * error
    assert error < truth / 15


def test_all_pairs_of_the_same_cells_have_less_noise_than_a_few() -> None:
    one, other = sets(32, 3, many=500)
    assert quadratic_mmd(one, other).std() < linear_mmd(one, other).std() / 3


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_width_follows_the_features_and_takes_no_gradient(name: str) -> None:
    mmd = ESTIMATORS[name]
    one, other = sets(16, 4, shift=0.5)
    assert mmd(100 * one, 100 * other).item() == pytest.approx(mmd(one, other).item(), rel=1e-4)
    gamma = quadratic_width(one[0], other[0]) if name == "quadratic" else linear_width(one[0], other[0])
    grads = []
    for width in (None, gamma):
        x = one.clone().requires_grad_()
        mmd(x, other, bandwidth=width).sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads)


def linear_width(one: Tensor, other: Tensor) -> float:
    x, x2, y, y2 = one[::2], one[1::2], other[::2], other[1::2]
    return lower_median([(a - b).square().sum().item() for p in ((x, x2), (y, y2), (x, y2), (x2, y))
                         for a, b in zip(*p, strict=True)])  # fmt: skip


def quadratic_width(one: Tensor, other: Tensor) -> float:
    return lower_median([apart(x, y) for x, y in itertools.combinations([*one, *other], 2)])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_nothing_to_compare_and_cells_that_are_all_alike_give_zero_and_a_finite_gradient(name: str) -> None:
    one, other = sets(6, 4)
    few = torch.arange(6).expand(1, 6) < 1
    for x, valid in ((one.clone(), (few, ~few)), (torch.ones_like(one), None)):
        x.requires_grad_()
        value = ESTIMATORS[name](x, other if valid else torch.ones_like(one), valid)
        value.sum().backward()
        assert value.item() == 0
        assert x.grad is not None
        assert not x.grad.any()


def test_cells_are_drawn_of_their_own_domain_without_replacement() -> None:
    member = torch.zeros(3, 40, dtype=torch.bool)
    member[0, :20], member[1, 25:30] = True, True
    index, valid = draw_cells(member, 12, rng())
    for k, count in enumerate([12, 5, 0]):
        chosen = index[k][valid[k]].tolist()
        assert len(chosen) == len(set(chosen)) == count
        assert all(member[k, cell] for cell in chosen)
        assert valid[k].tolist() == [True] * count + [False] * (12 - count)  # the valid ones come first
    times = torch.stack([torch.bincount(draw_cells(member, 12, rng(s))[0][0], minlength=40) for s in range(500)]).sum(0)
    assert (times[:20] > 240).all()  # of 300 ± 11
    assert (times[:20] < 360).all()


# ── The terms ────────────────────────────────────────────────────────────────────────────────────────────────────────


def cells_of(values: Tensor, label: Tensor, part: Batch, k: int) -> Tensor:
    """The cells (N,D) of domain k that are not void; values (B,D,h,w), label (B,h,w) of the cells."""
    cells = []
    for row, owner in enumerate(part.domain.tolist()):
        for y, x in itertools.product(range(label.shape[1]), range(label.shape[2])):
            if owner == k and label[row, y, x] != VOID:
                cells.append(values[row, :, y, x])
    return torch.stack(cells)


@pytest.mark.parametrize("where", ["features", "embedding"])
def test_mmd_is_the_mean_over_pairs_of_domains_of_all_cells_but_void(where: str) -> None:
    of = domains(3, 4, 2)
    network = model(of)
    made = prepared("mmd", of, network, weight=0.5, where=where, estimator="quadratic", cells=10**6)
    part = drawn(of, network, made)
    with torch.no_grad():
        features = network.encode(part.image)
        values = features if where == "features" else network.embed(features)
        got = made.step(network, part, rng())["mmd"]
    stride = network.stride if where == "features" else network.embedding_stride
    label = at_stride(part.label, stride, network.multiple)
    by_domain = [cells_of(values, label, part, k) for k in range(3)]
    assert len({len(cells) for cells in by_domain}) > 1
    pairs = [quadratic_mmd(a, b).item() for a, b in itertools.combinations(by_domain, 2)]
    assert got.item() == pytest.approx(0.5 * sum(pairs) / 3, rel=1e-3)


def test_mmd_in_linear_time_draws_from_the_generator_alone() -> None:
    of = domains(3, 4)
    network = model(of)
    made = prepared("mmd", of, network, cells=16)
    part = drawn(of, network, made)
    with torch.no_grad():
        one, again, other = (made.step(network, part, rng(seed))["mmd"].item() for seed in (1, 1, 2))
        # The mean over draws is that of all cells, to which the quadratic estimate is the less noisy way.
        many = torch.stack([made.step(network, part, rng(seed))["mmd"] for seed in range(60)])
        whole = prepared("mmd", of, network, cells=10**6, estimator="quadratic").step(network, part, rng())["mmd"]
    assert one == again != other
    assert abs(many.mean() - whole) < 5 * many.std() / math.sqrt(60)


@pytest.mark.parametrize("classes", [(3, 4), (3, 4, 2)])
def test_the_domain_term_equals_a_loop_with_both_domains_of_a_pair_weighed_alike(classes: tuple[int, ...]) -> None:
    of = domains(*classes)
    network = model(of)
    made = prepared("adversarial-align", of, network, channels=4)
    assert isinstance(made, AdversarialAlign)
    part = drawn(of, network, made)
    with torch.no_grad():
        got = made.step(network, part, rng())["domain"].item()
        features = network.encode(part.image)
    label = at_stride(part.label, network.stride, network.multiple)
    pairs, accuracies = [], []
    for (i, j), classifier in zip(made.pairs, made.classifiers, strict=True):
        halves = []
        for k in (i, j):
            cells = cells_of(features, label, part, k)
            verdict = classifier(cells[:, :, None, None]).flatten()
            p = verdict.sigmoid().tolist()
            halves.append(sum(-math.log(v if k == j else 1 - v) for v in p) / len(p))
            accuracies.append(sum((v > 0) == (k == j) for v in verdict.tolist()) / len(p))
        pairs.append(sum(halves) / 2)
    assert len(pairs) == len(classes) * (len(classes) - 1) // 2
    assert got == pytest.approx(sum(pairs) / len(pairs), rel=1e-4)
    assert float(made.metrics["domain_accuracy"]) == pytest.approx(sum(accuracies) / len(accuracies), abs=1e-4)


def test_the_reversal_grows_as_dann_says() -> None:
    of = domains(3, 4)
    network = model(of)
    made = method("adversarial-align", of, weight=0.3, gamma=5)
    assert isinstance(made, AdversarialAlign)
    label = torch.zeros(2, 8, 8, dtype=torch.uint8)
    strengths = [
        made.strength(batch([(0, label[0])], torch.zeros(1, 3, 8, 8), network, 2, step=s, of=10)) for s in (0, 1, 10)
    ]
    assert strengths == pytest.approx([0, 0.3 * (2 / (1 + math.exp(-0.5)) - 1), 0.3 * (2 / (1 + math.exp(-5)) - 1)])


# ── Whom a term moves, and where to ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "options", "reached"),
    [
        ("mmd", {}, {"features"}),
        ("mmd", {"where": "embedding"}, {"features", "embedding"}),
        ("adversarial-align", {}, {"features"}),
    ],
)
def test_the_term_moves_what_is_aligned_and_no_head(name: str, options: dict[str, Any], reached: set[str]) -> None:
    of = domains(3, 4)
    network = model(of)
    made = prepared(name, of, network, **options)
    term = made.step(network, drawn(of, network, made), rng())[TERM[name]]
    assert {n.split(".")[0] for n in gradients(network, term)} == reached
    assert set(gradients(made, term)) == {n for n, _ in made.named_parameters()}


def test_the_adversary_descends_what_the_network_climbs() -> None:
    of = domains(3, 4)
    network = model(of)
    made = prepared("adversarial-align", of, network, weight=0.5)
    assert isinstance(made, AdversarialAlign)
    for parameter in made.classifiers.parameters():
        parameter.data *= 5  # so that it has an opinion of a random network's features
    part = drawn(of, network, made)

    def loss() -> float:
        with torch.no_grad():
            return float(made.step(network, part, rng())["domain"])

    def after(module: nn.Module, rate: float) -> float:
        """L_dom after a step down the gradient that the term gives the module."""
        kept = {n: v.clone() for n, v in module.state_dict().items()}
        module.zero_grad()
        made.step(network, part, rng())["domain"].backward()
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.grad is not None:
                    parameter -= rate * parameter.grad
        changed = loss()
        module.load_state_dict(kept)
        return changed

    before = loss()
    assert after(made, 0.01) < before - 1e-5
    assert after(network, 1.0) > before + 1e-5


def test_the_reversed_gradient_is_minus_lambda_of_the_plain_one() -> None:
    of = domains(3, 4)
    network = model(of)
    made = prepared("adversarial-align", of, network, weight=0.5)
    assert isinstance(made, AdversarialAlign)
    part = drawn(of, network, made)
    term = made.step(network, part, rng())["domain"]
    got, judges = gradients(network, term), gradients(made, term)
    plain = made._domain_loss(network, network.encode(part.image), part)
    expected, same_judges = gradients(network, plain), gradients(made, plain)
    assert 0 < made.strength(part) < 0.5
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], -made.strength(part) * gradient, atol=1e-8, rtol=1e-4)
    for name, gradient in same_judges.items():  # λ is the features' alone
        torch.testing.assert_close(judges[name], gradient)


@pytest.mark.parametrize("name", TERM)
def test_frozen_parts_stay_frozen(name: str) -> None:
    of = domains(3, 4)
    network = model(of)
    for parameter in network.encoder.parameters():
        parameter.requires_grad_(False)
    before = {n: p.clone() for n, p in network.named_parameters()}
    run(method(name, of, weight=1), network, of, 3)
    after = dict(network.named_parameters())
    encoder = {id(p) for p in network.encoder.parameters()}
    assert all(torch.equal(before[n], p) for n, p in after.items() if id(p) in encoder)
    assert not torch.equal(before["heads.of_a.weight"], after["heads.of_a.weight"])


# ── Two shifted domains ──────────────────────────────────────────────────────────────────────────────────────────────

SIDE = 16


class Cells(nn.Module):
    """The interface of `UniversalSegmenter` on cells of two values: F is linear, every stride is 1."""

    stride = embedding_stride = multiple = 1
    channels = 2
    domains = ("a", "b")

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
        for layer in (self.layer, self.head):
            nn.init.normal_(layer.weight, generator=rng(7))
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def encode(self, image: Tensor) -> Tensor:
        return self.layer(image)

    def decode(self, features: Tensor, domain: str) -> Tensor:
        assert domain == "a", "b has no label"
        return self.head(features)

    def logits(self, features: Tensor, domain: str, size: tuple[int, int]) -> Tensor:
        return self.decode(features, domain)


def clusters(seed: int) -> tuple[Tensor, Tensor]:
    """Two classes, 4 apart along the first value, as images (2,2,h,w) and labels (2,h,w); domain b lies 3 to the right
    and 3 higher, which brings its left class over the border."""
    label = torch.randint(0, 2, (2, SIDE, SIDE), generator=rng(seed))
    cells = 0.5 * torch.randn(2, 2, SIDE, SIDE, generator=rng(seed + 1000))
    cells[:, 0] += 4.0 * label - 2
    cells[1] += 3
    return cells, label


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mmd", {"weight": 1, "estimator": "linear"}),
        ("mmd", {"weight": 1, "estimator": "quadratic", "cells": 64}),
        ("adversarial-align", {"weight": 1, "channels": 16}),
    ],
)
def test_a_linear_head_of_one_domain_works_on_a_shifted_one_that_was_aligned(
    name: str, options: dict[str, Any]
) -> None:
    """b has no label. Joint training of a alone makes half of b's left class wrong."""
    of, accuracies = domains(2, 2), {}
    for case in (name, "joint"):
        network: Any = Cells()
        made = method(case, of, **(options if case == name else {}))
        made.prepare(network, rng())
        parameters = [*network.parameters(), *made.parameters()]
        optimiser = torch.optim.Adam(parameters, lr=0.02)
        for step in range(200):
            image, label = clusters(step)
            rows = [(0, label[0].to(torch.uint8)), (1, torch.full((SIDE, SIDE), NOT_LABELLED, dtype=torch.uint8))]
            terms = made.step(network, batch(rows, image, network, 2, step=step, of=200), rng(step))
            optimiser.zero_grad()
            torch.stack(list(terms.values())).sum().backward()
            optimiser.step()
        image, label = clusters(10**6)
        with torch.no_grad():
            right = network.decode(network.encode(image), "a").argmax(1) == label
        accuracies[case] = right.float().mean((1, 2)).tolist()
    assert accuracies[name][0] > 0.95
    assert accuracies[name][1] > 0.95
    assert accuracies["joint"][0] > 0.99
    assert accuracies["joint"][1] < 0.7


# ── At the edges ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", TERM)
def test_weights_of_zero_are_joint_training_bit_for_bit(name: str) -> None:
    of = domains(3, 4)
    one, other = model(of), model(of)
    assert run(method("joint", of), one, of, 3) == run(method(name, of, weight=0), other, of, 3)
    assert same(one.state_dict(), other.state_dict())


@pytest.mark.parametrize("name", TERM)
def test_one_domain_is_refused_with_the_fix(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} aligns domains, and there is only one \(a\); add a second one to"):
        method(name, domains(3))


@pytest.mark.parametrize("name", TERM)
def test_a_batch_of_one_domain_has_nothing_to_align(name: str) -> None:
    of = domains(3, 4, 2)
    network = model(of)
    made = prepared(name, of, network)
    part = drawn(of, network, made)
    rows = [(1, label) for label in part.label[part.domain == 1]]
    alone = batch(rows, part.image[part.domain == 1], network, 3, step=3, of=4)
    term = made.step(network, alone, rng())[TERM[name]]
    assert term.item() == 0
    assert not gradients(network, term)


@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_of_the_adversary_equal_one_batch_however_the_void_lies(parts: int) -> None:
    of = domains(3, 4)
    network = model(of)
    made = prepared("adversarial-align", of, network)
    whole = drawn(of, network, made, rows=8)
    expected = made.step(network, whole, rng())["domain"].item()
    cut = []
    for part in range(parts):  # the first ones have rows of one domain alone
        rows = whole.domain.argsort(stable=True)[part * 16 // parts : (part + 1) * 16 // parts].tolist()
        owned = list(zip(whole.domain[rows].tolist(), whole.label[rows], strict=True))
        cut.append(batch(owned, whole.image[rows], network, 2, step=3, of=4, pool=4))
    counts = mean_counts(cut)
    got = 0.0
    for one in cut:
        object.__setattr__(one, "counts", counts)
        got += made.step(network, one, rng())["domain"].item() / parts
    assert got == pytest.approx(expected, rel=1e-4)
