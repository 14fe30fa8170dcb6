"""Pseudo-label, FixMatch, UniMatch and S4AL on odd batches, in parts, and where they are joint training."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import batch, domains, model, relabelled, run, same, train_settings
from semi_supervised import NAMES, STRONG, drawn, method, prepared, rng, total
from torch import Tensor

from fewmask.data.batch import Batch, mean_counts
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.methods import METHODS
from fewmask.methods.common.pool import pool_targets

OFF: dict[str, dict[str, Any]] = {
    "pseudo-label": {"alpha": 0},
    "fixmatch": {"strong_weight": 0, "supervised_weight": 1},
    "unimatch": {"strong_weight": 0, "features_weight": 0, "supervised_weight": 1},
    "s4al": {"weight": 0, "replay_weight": 0, "cold_weight": 1},
}


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
    of, losses = domains(3, 4), []
    joint: dict[str, Any] = {} if name == "pseudo-label" else {"forward": "joint"}
    for mixed in [{"cutmix": 0}, {"cutmix": 1}] if name in ("fixmatch", "unimatch") else [{}]:
        network = model(of)
        made = prepared(name, of, network, **joint, **mixed)
        losses.append(made.step(network, drawn(of, network, made, pool=1), rng()))
        network.train()
        trained = made.step(network, drawn(of, network, made, pool=1), rng())
        total(trained).backward()
        assert all(math.isfinite(v.item()) for v in trained.values())
    assert all(torch.equal(losses[0][term], losses[-1][term]) for term in losses[0])


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
