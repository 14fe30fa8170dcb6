"""Pseudo-label, FixMatch, UniMatch and S4AL: each term against a loop over pixels."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import domains, model, steps
from semi_supervised import (
    SURE,
    by_hand,
    drawn,
    log_probabilities,
    looped,
    method,
    prepared,
    rng,
    supervised_loop,
    swap,
)
from torch import Tensor

from fewmask.labels import NOT_LABELLED, VOID
from fewmask.losses.pseudo_label import pseudo_label, pseudo_weight, ramp, sure_fraction
from fewmask.methods.common.pool import pool_targets
from fewmask.methods.common.teacher import MeanTeacherMethod
from fewmask.methods.s4al import S4al
from fewmask.methods.unimatch import channel_dropout, complementary_dropout
from fewmask.views.mixing import box_masks, class_masks, partners

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


# ── Settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_ramp_that_falls_is_refused() -> None:
    with pytest.raises(ValueError, match=r"it lies before begin 0.5"):
        method("pseudo-label", domains(3), begin=0.5, end=0.4)


def test_before_the_ramp_labelled_rows_alone_are_drawn() -> None:
    phases = method("pseudo-label", domains(3), begin=0.25, end=0.5).phases(8)
    assert [(p.start, p.stop, p.unlabelled) for p in phases] == [(0, 2, ()), (2, 8, ("a",))]
