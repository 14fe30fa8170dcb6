"""Pseudo-label, FixMatch, UniMatch and S4AL: each term against a loop over pixels, and batches at the edges.

Shapes: B rows of a batch, U of them of the pool · K domains, C_k classes of domain k · H×W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ArraySource, batch, domains, model, relabelled, run, same, steps, train_settings
from torch import Tensor

from fewmask.data.batch import Batch, mean_counts
from fewmask.data.domain import Domain
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.losses.pseudo_label import pseudo_label, pseudo_weight, ramp, sure_fraction
from fewmask.methods import METHODS
from fewmask.methods.common.base import Method
from fewmask.methods.common.pool import pool_targets
from fewmask.methods.common.replay import Replay
from fewmask.methods.common.teacher import MeanTeacherMethod
from fewmask.methods.s4al import S4al
from fewmask.methods.unimatch import channel_dropout, complementary_dropout
from fewmask.models.universal import UniversalSegmenter
from fewmask.views.mixing import box_masks, class_masks, partners

# About half of the pixels of an `opinionated` network are as sure as this.
SURE = 0.5
PLAIN: dict[str, dict[str, Any]] = {
    "pseudo-label": {"begin": 0, "end": 0.5, "threshold": SURE},
    "fixmatch": {"threshold": SURE, "ema": None, "labels_in": "train"},
    "unimatch": {"threshold": SURE, "ema": None, "labels_in": "train"},
    "s4al": {"ema": 0.99, "cold": 0, "threshold": SURE, "adaptive": "always", "tail_share": 0.5},
}
OFF: dict[str, dict[str, Any]] = {
    "pseudo-label": {"alpha": 0},
    "fixmatch": {"strong_weight": 0, "supervised_weight": 1},
    "unimatch": {"strong_weight": 0, "features_weight": 0, "supervised_weight": 1},
    "s4al": {"weight": 0, "replay_weight": 0, "cold_weight": 1},
}
NAMES = list(PLAIN)
STRONG = ["fixmatch", "unimatch", "s4al"]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def method(name: str, of: dict[str, Domain], **options: Any) -> Method:
    return METHODS[name](METHODS[name].Settings.model_validate({"name": name, **PLAIN[name], **options}), of)


def opinionated(network: UniversalSegmenter) -> UniversalSegmenter:
    """A random network says almost the same of every pixel; this one does not."""
    with torch.no_grad():
        for name, parameter in network.heads.named_parameters():
            parameter.mul_(300 if "weight" in name else 0)
    return network


def prepared(name: str, of: dict[str, Domain], network: UniversalSegmenter, **options: Any) -> Method:
    """In eval mode, where rows do not meet in batch normalisation; its teacher, if any, is as sure as the student, of
    another class."""
    made = method(name, of, **options)
    made.prepare(opinionated(network), rng())
    if isinstance(made, MeanTeacherMethod) and made.teacher is not None:
        for head in made.teacher.model.heads.parameters():
            head.copy_(head.roll(1, 0))
    network.eval()
    network.zero_grad()
    return made


def drawn(of: dict[str, Domain], network: UniversalSegmenter, made: Method, rows: int = 4, pool: int = 4) -> Batch:
    """A micro-batch with answers and void in its pool: a square of class 1 and one of void in every other row."""
    settings = train_settings(batch_size=rows, unlabelled_batch_size=pool)
    (part,) = steps(of, made.phases(4), settings, network)[3]
    label = part.label.clone()
    label[part.pool :: 2, 4:12, 4:12] = 1
    label[part.pool :: 2, 20:28, 6:20] = VOID
    return relabelled(part, label, network)


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def pixels(rows: Tensor, size: int = 32) -> Iterator[tuple[int, int, int]]:
    for row in rows.tolist():
        for y in range(size):
            for x in range(size):
                yield row, y, x


# ── The pure functions ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pseudo_label_is_the_most_likely_class_and_its_probability(dtype: torch.dtype) -> None:
    logits = (4 * torch.randn(2, 5, 3, 4, generator=rng())).to(dtype).requires_grad_()
    label, confidence = pseudo_label(logits)
    assert (label.dtype, confidence.dtype) == (torch.uint8, torch.float32)
    assert not confidence.requires_grad
    for b, y, x in np.ndindex(2, 3, 4):
        p = np.exp(logits[b, :, y, x].detach().double().numpy())
        assert label[b, y, x] == int(p.argmax())
        assert confidence[b, y, x].item() == pytest.approx(float((p / p.sum()).max()), rel=1e-5)
    assert pseudo_label(torch.tensor([3e4, -3e4]).view(1, 2, 1, 1))[1].item() == 1


def test_weights_of_pixels_equal_a_loop() -> None:
    label = torch.randint(0, 4, (3, 5, 6), generator=rng(1), dtype=torch.uint8)
    label[label == 3] = VOID
    label[2] = VOID
    confidence = torch.rand(3, 5, 6, generator=rng(2))
    answered = (label == 1) | (label == VOID)
    fraction, weight = sure_fraction(label, confidence, 0.6), pseudo_weight(label, confidence, answered, 0.6)
    for b in range(3):
        valid = [(y, x) for y in range(5) for x in range(6) if label[b, y, x] != VOID]
        part = sum(bool(confidence[b, y, x] >= 0.6) for y, x in valid) / max(len(valid), 1)
        assert fraction[b].item() == pytest.approx(part)
        for y, x in np.ndindex(5, 6):
            expected = 1 if answered[b, y, x] else confidence[b, y, x].item() * part
            assert weight[b, y, x].item() == pytest.approx(expected)
    assert fraction[2] == 0


def test_the_ramp() -> None:
    assert [ramp(s, 2, 6) for s in range(9)] == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert [ramp(s, 2, 2) for s in range(5)] == [0, 0, 1, 1, 1]


def test_dropped_channels() -> None:
    features = torch.rand(6, 64, 3, 3, generator=rng()) + 1
    dropped = channel_dropout(features, rng(1)) / features
    assert set(dropped.unique().tolist()) == {0, 2}
    assert (dropped == dropped[:, :, :1, :1]).all()
    assert 0.4 < (dropped == 0).float().mean() < 0.6
    assert not torch.equal(dropped[0], dropped[1])
    one, other = complementary_dropout(features, 2 * features, rng(2))
    factors = one / features, other / (2 * features)
    torch.testing.assert_close(factors[0] + factors[1], torch.full_like(features, 2))
    whole = (factors[0] == 1).flatten(1).all(1)
    assert whole.sum() == 3
    assert set(factors[0][~whole].unique().tolist()) == {0, 2}


# ── Labels of the pool ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_persons_answer_beats_the_networks_and_void_stays_void() -> None:
    of = domains(3, 4)
    network = model(of)
    made = prepared("fixmatch", of, network)
    part = drawn(of, network, made)
    targets = pool_targets(network, network.encode(part.image[part.pool :]), part)
    own = part.label[part.pool :]
    assert (own == 1).any()
    assert (own == VOID).any()
    assert torch.equal(targets.answered, own != NOT_LABELLED)
    assert torch.equal(targets.label[targets.answered], own[targets.answered])
    assert (targets.confidence[targets.answered] == 1).all()
    for row in range(len(own)):
        name = network.domains[int(part.domain[part.pool + row])]
        logits = network(part.image[part.pool + row][None], name)[0]
        free = ~targets.answered[row]
        assert torch.equal(targets.label[row][free], logits.argmax(0).to(torch.uint8)[free])
        torch.testing.assert_close(targets.confidence[row][free], logits.softmax(0).amax(0)[free])


# ── Each term against a loop over pixels ─────────────────────────────────────────────────────────────────────────────


def log_probabilities(network: UniversalSegmenter, images: Tensor, owner: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [
            network(image[None], network.domains[int(k)])[0].log_softmax(0)
            for image, k in zip(images, owner, strict=True)
        ]


def looped(
    network: UniversalSegmenter, images: Tensor, part: Batch, label: Tensor, weight: Tensor, features: Any = None
) -> float:
    """Σ_k 1/N_k Σ w · CE over the pool's rows, N_k counted in the weak views."""
    owner = part.domain[part.pool :]
    log_p = log_probabilities(network, images, owner) if features is None else features
    sums = dict.fromkeys(owner.tolist(), 0.0)
    counts = dict.fromkeys(owner.tolist(), 0)
    for row, y, x in pixels(torch.arange(len(owner))):
        k, c = int(owner[row]), int(label[row, y, x])
        counts[k] += int(part.label[part.pool + row, y, x] != VOID)
        if c < NOT_LABELLED:
            sums[k] -= float(weight[row, y, x]) * float(log_p[row][c, y, x])
    return sum(sums[k] / counts[k] for k in sums if counts[k])


def supervised_loop(network: UniversalSegmenter, part: Batch, rows: int) -> float:
    log_p = log_probabilities(network, part.image[:rows], part.domain[:rows])
    values: dict[int, list[float]] = {}
    for row, y, x in pixels(torch.arange(rows)):
        c = int(part.label[row, y, x])
        if c < NOT_LABELLED:
            values.setdefault(int(part.domain[row]), []).append(-float(log_p[row][c, y, x]))
    return sum(float(np.mean(v)) for v in values.values())


def by_hand(network: UniversalSegmenter, part: Batch) -> tuple[Tensor, Tensor]:
    """Label and confidence (U,H,W) of the pool."""
    label, confidence = part.label[part.pool :].clone(), torch.ones(part.label[part.pool :].shape)
    rows = log_probabilities(network, part.image[part.pool :], part.domain[part.pool :])
    for row, log_p in enumerate(rows):
        free = label[row] == NOT_LABELLED
        label[row][free] = log_p.argmax(0).to(torch.uint8)[free]
        confidence[row][free] = log_p.amax(0).exp()[free]
    return label, confidence


def swap(mask: Tensor, source: Tensor, values: Tensor) -> Tensor:
    out = values.clone()
    for row in range(len(out)):
        out[row][..., mask[row]] = values[source[row]][..., mask[row]]
    return out


def test_pseudo_label_equals_a_loop() -> None:
    of = domains(3, 4)
    network = model(of)
    made = prepared("pseudo-label", of, network, alpha=0.7)
    part = replace(drawn(of, network, made), step=1)  # half way up: 1 of 2 steps
    terms = made.step(network, part, rng())
    assert terms["supervised"].item() == pytest.approx(supervised_loop(network, part, len(part.label)), rel=1e-4)
    sums, counts = [0.0, 0.0], [0, 0]
    for row, log_p in enumerate(log_probabilities(network, part.image, part.domain)):
        k = int(part.domain[row])
        for y, x in np.ndindex(32, 32):
            if part.label[row, y, x] == NOT_LABELLED:
                counts[k] += 1
                best = float(log_p[:, y, x].max())
                sums[k] -= best if math.exp(best) >= SURE else 0
    expected = 0.35 * sum(s / n for s, n in zip(sums, counts, strict=True))
    assert terms["pseudo"].item() == pytest.approx(expected, rel=1e-4)
    assert expected > 0


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("forward", ["separate", "joint"])
def test_fixmatch_equals_a_loop(ema: float | None, forward: str) -> None:
    of = domains(3, 4)
    network = model(of)
    made = prepared("fixmatch", of, network, ema=ema, forward=forward, cutmix=1, strong_weight=0.3)
    part = drawn(of, network, made)
    assert part.strong is not None
    terms = made.step(network, part, rng(5))

    rows = len(part.label) if ema is None else part.pool
    assert terms["supervised"].item() == pytest.approx(0.5 * supervised_loop(network, part, rows), rel=1e-4)
    assert isinstance(made, MeanTeacherMethod)
    source = partners(part.domain[part.pool :])
    mask = box_masks(4, (32, 32), rng(5), 1)
    assert mask.any((1, 2)).all()
    assert (source != torch.arange(4)).all()
    label, confidence = by_hand(network if made.teacher is None else made.teacher.model, part)
    image = swap(mask, source, part.strong[0])
    label, confidence = swap(mask, source, label), swap(mask, source, confidence)
    expected = looped(network, image, part, label, confidence >= SURE)
    assert terms["strong"].item() == pytest.approx(0.3 * expected, rel=1e-4)
    assert 0 < ((confidence >= SURE) & (label != VOID)).float().mean() < 1


@pytest.mark.parametrize("complementary", [False, True])
def test_unimatch_equals_a_loop(complementary: bool) -> None:
    of = domains(3, 4)
    network = model(of)
    made = prepared("unimatch", of, network, cutmix=1, complementary=complementary)
    part = drawn(of, network, made)
    assert part.strong is not None
    assert not torch.equal(part.strong[0], part.strong[1])
    terms = made.step(network, part, rng(5))

    owner, draws = part.domain[part.pool :], rng(5)
    source = partners(owner)
    masks = [box_masks(4, (32, 32), draws, 1) for _ in range(2)]
    assert not torch.equal(*masks)
    label, confidence = by_hand(network, part)
    mixed = [network.encode(swap(mask, source, view)) for mask, view in zip(masks, part.strong, strict=True)]
    if complementary:
        mixed = list(complementary_dropout(mixed[0], mixed[1], draws))

    def loop(features: Tensor, mask: Tensor) -> float:
        log_p = [
            network.upsample(network.decode(f[None], network.domains[int(k)]), (32, 32))[0].detach().log_softmax(0)
            for f, k in zip(features, owner, strict=True)
        ]
        sure = swap(mask, source, confidence) >= SURE
        return looped(network, part.image, part, swap(mask, source, label), sure, log_p)

    expected = 0.25 * (loop(mixed[0], masks[0]) + loop(mixed[1], masks[1])) / 2
    assert terms["strong"].item() == pytest.approx(expected, rel=1e-4)
    dropped = channel_dropout(network.encode(part.image[part.pool :]), draws)
    expected = 0.25 * loop(dropped, torch.zeros_like(masks[0]))
    assert terms["features"].item() == pytest.approx(expected, rel=1e-4)
    assert terms["supervised"].item() == pytest.approx(0.5 * supervised_loop(network, part, 8), rel=1e-4)


@pytest.mark.parametrize("fraction", ["mixed", "source"])
@pytest.mark.parametrize("forward", ["separate", "joint"])
def test_s4al_equals_a_loop(fraction: str, forward: str) -> None:
    of = domains(3, 4)
    network = model(of)
    made = prepared("s4al", of, network, fraction=fraction, forward=forward, weight=0.3, replay_weight=0.2)
    assert isinstance(made, S4al)
    part = drawn(of, network, made)
    made.step(network, part, rng(4))
    assert made.teacher is not None
    labels = {n: v.clone() for n, v in made.teacher.model.state_dict().items()}
    made.after_step(network, rng(4))  # something is remembered
    made.teacher.model.load_state_dict(labels)
    assert part.strong is not None
    terms = made.step(network, part, rng(5))
    assert terms["supervised"].item() == pytest.approx(supervised_loop(network, part, part.pool), rel=1e-4)

    label, confidence = by_hand(made.teacher.model, part)
    answered = part.label[part.pool :] != NOT_LABELLED
    source, draws = partners(part.domain[part.pool :]), rng(5)
    mask = class_masks(label[source], draws)
    assert mask.any()
    own = pseudo_weight(label, confidence, answered, SURE)
    values = [swap(mask, source, v) for v in (part.strong[0], label, confidence, answered)]
    image, mixed, sure, people = values
    weight = pseudo_weight(mixed, sure, people, SURE) if fraction == "mixed" else swap(mask, source, own)
    differs = float((weight - pseudo_weight(mixed, sure, people, SURE)).abs().max()) > 0
    assert differs == (fraction == "source")
    assert terms["pseudo"].item() == pytest.approx(0.3 * looped(network, image, part, mixed, weight), rel=1e-4)

    image, mixed, sure, people = part.strong[0].clone(), label.clone(), confidence.clone(), answered.clone()
    weight = own.clone()
    pasted = 0
    for k in range(2):
        (rows,) = torch.nonzero(part.domain[part.pool :] == k, as_tuple=True)
        remembered, of_it, chosen = made.replay[k].draw(len(rows), draws)  # type: ignore[operator]
        for i, row in enumerate(rows.tolist()):
            image[row][:, chosen[i]] = remembered[i][:, chosen[i]]
            mixed[row][chosen[i]] = of_it[i][chosen[i]]
            sure[row][chosen[i]] = 1
            people[row][chosen[i]] = True
            weight[row][chosen[i]] = 1
            pasted += int(chosen[i].sum())
    assert pasted
    if fraction == "mixed":
        weight = pseudo_weight(mixed, sure, people, SURE)
    assert terms["replay"].item() == pytest.approx(0.2 * looped(network, image, part, mixed, weight), rel=1e-4)


def test_the_cold_start_sees_labels_alone_and_weighs_them() -> None:
    of = domains(3, 4)
    made = method("s4al", of, cold=0.5, cold_weight=1.5)
    cold, train = made.phases(8)
    assert (cold.start, cold.stop, cold.unlabelled, cold.strong) == (0, 4, (), ())
    assert (train.start, train.stop, train.unlabelled) == (4, 8, ("a", "b"))
    network = model(of)
    made.prepare(network, rng())
    network.eval()
    (part,) = steps(of, made.phases(8), None, network)[1]
    terms = made.step(network, part, rng())
    assert set(terms) == {"supervised"}
    assert terms["supervised"].item() == pytest.approx(1.5 * supervised_loop(network, part, 4), rel=1e-4)


# ── What equals joint training ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", [(3,), (3, 4)])
def test_weights_of_zero_are_joint_training_bit_for_bit(name: str, classes: tuple[int, ...]) -> None:
    of = domains(*classes)
    one, other = model(of), model(of)
    joint = METHODS["joint"](METHODS["joint"].Settings(name="joint"), of)
    off = OFF[name] | ({"cold": 0.5} if name == "s4al" else {})
    assert run(joint, one, of, 4) == run(method(name, of, **off), other, of, 4)
    assert same(one.state_dict(), other.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_the_pool_does_change_the_network(name: str) -> None:
    of = domains(3, 4)
    one, other = model(of), model(of)
    joint = METHODS["joint"](METHODS["joint"].Settings(name="joint"), of)
    run(joint, one, of, 3)
    run(method(name, of), other, of, 3)
    assert not same(one.state_dict(), other.state_dict())


# ── Batches at the edges ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [NOT_LABELLED, 1, VOID])
def test_a_pool_without_any_answer_with_nothing_else_or_void_throughout(name: str, value: int) -> None:
    of = domains(3, 4)
    network = model(of)
    made = prepared(name, of, network)
    part = drawn(of, network, made)
    names = set(made.step(network, part, rng()))
    label = part.label.clone()
    label[part.pool :] = value
    part = relabelled(part, label, network)
    terms = made.step(network, part, rng())
    total(terms).backward()
    made.after_step(network, rng())
    assert set(terms) == names  # the loop averages micro-batches term by term
    assert all(math.isfinite(v.item()) for v in terms.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    extra = names - {"supervised"}
    if value == VOID:
        # From its own rows nothing comes; S4AL may still paste what it remembers, of which there is nothing yet.
        assert all(terms[n] == 0 for n in extra)
    if name == "pseudo-label":
        assert (terms["pseudo"] == 0) == (value != NOT_LABELLED)
    elif value == 1:
        assert all(terms[n] > 0 for n in extra)


@pytest.mark.parametrize("name", STRONG)
def test_void_never_enters(name: str) -> None:
    """Nothing that is void in the weak views of the pool is a target: other pixels there give the same targets."""
    of = domains(3, 4)
    network = model(of)
    made = prepared(name, of, network)
    part = drawn(of, network, made)
    targets = pool_targets(network, network.encode(part.image[part.pool :]), part)
    own = part.label[part.pool :]
    assert (targets.label[own == VOID] == VOID).all()
    assert (targets.label[own != VOID] < 4).all()
    everything = relabelled(part, torch.full_like(part.label, VOID), network)
    assert all(v == 0 for v in made.step(network, everything, rng()).values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_domains_trains(name: str, count: int) -> None:
    of = domains(*[3, 4, 2][:count])
    network = model(of)
    made = method(name, of, threshold=0)
    history = run(made, network, of, 4, train_settings(batch_size=max(2, count)))
    assert all(math.isfinite(v) for terms in history for v in terms.values())
    assert all(v.isfinite().all() for v in made.inference_model(network).state_dict().values())
    assert any(v > 0 for n, v in history[-1].items() if n != "supervised")


@pytest.mark.parametrize("name", NAMES)
def test_one_row_of_the_pool(name: str) -> None:
    """It is its own partner: a mix leaves it as it is."""
    of, seen = domains(3, 4), []
    joint: dict[str, Any] = {} if name == "pseudo-label" else {"forward": "joint"}
    for mixed in [{"cutmix": 0}, {"cutmix": 1}] if name in ("fixmatch", "unimatch") else [{}]:
        network = model(of)
        made = prepared(name, of, network, **joint, **mixed)
        seen.append(made.step(network, drawn(of, network, made, pool=1), rng()))
        network.train()
        trained = made.step(network, drawn(of, network, made, pool=1), rng())
        total(trained).backward()
        assert all(math.isfinite(v.item()) for v in trained.values())
    assert all(torch.equal(seen[0][term], seen[-1][term]) for term in seen[0])


@pytest.mark.parametrize("name", STRONG)
def test_rows_are_mixed_within_a_domain_alone(name: str) -> None:
    """Domain b's picture in the pool does not change what domain a's rows give."""
    of = domains(3, 4)
    network = model(of)
    options = {"cutmix": 1} if name != "s4al" else {}
    made = prepared(name, of, network, **options)
    part = drawn(of, network, made, rows=4, pool=4)
    assert part.strong is not None
    image, strong = part.image.clone(), part.strong.clone()
    of_b = part.domain == 1
    image[of_b] = 255 - image[of_b]
    strong[:, of_b[part.pool :]] = 255 - strong[:, of_b[part.pool :]]

    def gradient(images: Tensor, views: Tensor) -> list[Tensor]:
        network.zero_grad()
        total(made.step(network, replace(part, image=images, strong=views), rng(3))).backward()
        return [p.grad.clone() for p in network.heads["of_a"].parameters() if p.grad is not None]

    one, other = gradient(part.image, part.strong), gradient(image, strong)
    assert len(one) == 2
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_a_head_without_a_labelled_row_learns_from_the_pool_under_autocast(name: str) -> None:
    """Its labels are made without a gradient; autocast must not remember its weights from there."""
    of = domains(3, 4)
    network = model(of)
    made = prepared(name, of, network)
    part = drawn(of, network, made)
    label = part.label.clone()
    label[: part.pool][part.domain[: part.pool] == 1] = VOID
    label[part.pool :] = NOT_LABELLED
    part = relabelled(part, label, network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = made.step(network, part, rng())
    total(terms).backward()
    weight = network.heads["of_b"].weight
    assert isinstance(weight, Tensor)
    assert weight.grad is not None
    assert float(weight.grad.abs().sum()) > 0


# ── Micro-batches ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pseudo-label", {}),
        ("fixmatch", {"cutmix": 0}),
        ("fixmatch", {"cutmix": 0, "ema": 0.9}),
        ("unimatch", {"cutmix": 0, "features_weight": 0}),
        ("s4al", {"mixing": "none", "adaptive": "never"}),
    ],
)
@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_equal_one_batch_however_the_labels_lie(name: str, options: dict[str, Any], parts: int) -> None:
    """Without mixing, which knows the rows of its own micro-batch alone."""
    of = domains(3, 4)
    network = model(of)
    made = prepared(name, of, network, **options)
    whole = drawn(of, network, made, rows=8, pool=8)
    label = whole.label.clone()
    for row in range(16):
        label[row, : [8, 32, 0, 20][row % 4]] = VOID
        label[row, 24:, : 2 * row] = [NOT_LABELLED, 1][row // 8]
    whole = relabelled(whole, label, network)
    assert len(whole.label) == 16
    split = []
    for p in range(parts):
        size = 8 // parts
        keep = torch.cat([torch.arange(8)[p * size : (p + 1) * size], torch.arange(8, 16)[p * size : (p + 1) * size]])
        rows = list(zip(whole.domain[keep].tolist(), whole.label[keep], strict=True))
        part = batch(rows, whole.image[keep], network, 2, whole.step, whole.steps, size, whole.phase)
        views = None if whole.strong is None else whole.strong[:, p * size : (p + 1) * size]
        split.append(replace(part, strong=views))

    def gradients(batches: list[Batch]) -> tuple[dict[str, Tensor], dict[str, float]]:
        network.zero_grad()
        counts, terms = mean_counts(batches), []
        for one in batches:
            terms.append(made.step(network, replace(one, counts=counts), rng()))
            (total(terms[-1]) / len(batches)).backward()
        means = {n: float(np.mean([t[n].item() for t in terms])) for n in terms[0]}
        return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}, means

    expected, terms = gradients([whole])
    got, means = gradients(split)
    assert means == pytest.approx(terms, rel=1e-5)
    assert min(terms.values()) > 0
    assert expected.keys() == got.keys()
    for n in expected:
        torch.testing.assert_close(got[n], expected[n], rtol=2e-4, atol=2e-6, msg=n)
    # A mean of the parts' own means is something else, so the comparison above can fail.
    alone = [gradients([part])[1] for part in split]
    for term in terms:
        assert abs(sum(a[term] for a in alone) / parts - terms[term]) > 1e-4 * terms[term]


# ── S4AL's memory ────────────────────────────────────────────────────────────────────────────────────────────────────


def asked(of: dict[str, Domain]) -> dict[str, Domain]:
    """One more image of each domain has an answered square."""
    out = {}
    for name, d in of.items():
        assert isinstance(d.source, ArraySource)
        stem = d.splits["train"][-1]
        mask = np.full((40, 52), NOT_LABELLED, np.uint8)
        mask[8:24, 8:24] = 1
        source = ArraySource(d.source.images, {**d.source.masks, stem: mask})
        out[name] = replace(d, source=source, labelled=(*d.labelled, stem), partial={stem: 256 / (40 * 52)})
    return out


def test_adaptive_classmix_begins_when_regions_have_been_asked_for() -> None:
    plain = domains(3, 4)
    for adaptive, of, expected in [
        ("auto", plain, False),
        ("auto", asked(plain), True),
        ("always", plain, True),
        ("never", asked(plain), False),
    ]:
        made = method("s4al", of, adaptive=adaptive)
        history = run(made, model(of), of, 3)
        assert ("replay" in history[-1]) is expected
    assert "replay" not in run(method("s4al", plain, replay_weight=0), model(plain), plain, 2)[-1]


@pytest.mark.parametrize("name", STRONG)
def test_images_with_answers_stand_in_the_pool_alone_unless_told_otherwise(name: str) -> None:
    of = asked(domains(3))
    for whole in (True, False):
        (*_, phase) = method(name, of, whole=whole).phases(4)
        data = steps(of, [phase], train_settings(batch_size=6))
        rows = [part for step in range(phase.start, 4) for part in data[step]]
        assert any("a-5" in n for part in rows for n in part.names[part.pool :])
        assert any("a-5" in n for part in rows for n in part.names[: part.pool]) is not whole


def test_frequencies_are_counted_as_labels_pass_and_rare_rows_are_remembered() -> None:
    memory = Replay(3, 4, tail_share=0.2, heads=1, tails=1)
    label = torch.zeros(3, 8, 8, dtype=torch.uint8)
    label[0, :2] = 1
    label[1, 0, :4] = 2
    label[2, :] = NOT_LABELLED
    label[:, 7] = VOID
    image = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 8, 8)
    memory.fit(image)
    memory.observe(image, label)
    assert memory.counts.tolist() == [2 * 56 - 16 - 4, 16, 4]
    # 4 and 4 + 16 of 112 pixels are less than a fifth: classes 1 and 2 are rare, and row 2 has neither.
    assert memory.remembered == 2
    drawn_image, drawn_label, mask = memory.draw(50, rng())
    for i in range(50):
        row = int(drawn_image[i, 0, 0, 0])
        assert row in (0, 1)
        assert torch.equal(drawn_label[i], label[row])
        assert torch.equal(mask[i], drawn_label[i] < NOT_LABELLED)  # one head and one tail class are all that it has


def test_a_memory_takes_no_more_rows_than_it_has_places() -> None:
    memory = Replay(2, 2, tail_share=0.5, heads=1, tails=1)
    label = torch.zeros(5, 4, 4, dtype=torch.uint8)
    label[:, 0, 0] = 1
    image = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 4, 4)
    memory.fit(image)
    memory.observe(image, label)
    assert sorted(memory.image[:, 0, 0, 0].tolist()) == [3, 4]


def test_a_memory_goes_on_from_its_state() -> None:
    memory, fresh = Replay(3, 4, 0.5, 1, 1), Replay(3, 4, 0.5, 1, 1)
    label = torch.randint(0, 3, (4, 6, 7), generator=rng(), dtype=torch.uint8)
    image = torch.randint(0, 256, (4, 3, 6, 7), generator=rng(1), dtype=torch.uint8)
    memory.fit(image)
    memory.observe(image, label)
    assert memory.remembered > 0
    fresh.load_state_dict(memory.state_dict())
    assert same(memory.state_dict(), fresh.state_dict())
    for one, other in zip(memory.draw(9, rng(2)), fresh.draw(9, rng(2)), strict=True):
        assert torch.equal(one, other)


# ── Settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_ramp_that_falls_is_refused() -> None:
    with pytest.raises(ValueError, match=r"it lies before begin 0.5"):
        method("pseudo-label", domains(3), begin=0.5, end=0.4)


def test_before_the_ramp_labelled_rows_alone_are_drawn() -> None:
    phases = method("pseudo-label", domains(3), begin=0.25, end=0.5).phases(8)
    assert [(p.start, p.stop, p.unlabelled) for p in phases] == [(0, 2, ()), (2, 8, ("a",))]
