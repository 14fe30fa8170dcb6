"""DEAL: the error mask, how far its gradient goes, and a branch that finds where its network is wrong.

Shapes: B rows · C classes · H×W pixels.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import domain, domains, model, relabelled, run, same, steps, train_settings
from ondisk import plain, two_domains
from torch import Tensor

from fewmask.data.batch import Batch, count_pixels
from fewmask.data.domain import Domain
from fewmask.engine.checkpoint import load_weights
from fewmask.engine.fit import train
from fewmask.engine.run import load_domains, load_model
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.losses.difficulty import difficulty_loss
from fewmask.methods import SETTINGS, build, parse_config
from fewmask.methods.deal import Deal
from fewmask.models.universal import UniversalSegmenter
from fewmask.runs import RunFolder


def deal(of: dict[str, Domain], network: UniversalSegmenter | None = None, **options: object) -> Deal:
    made = build(SETTINGS["deal"].model_validate({"name": "deal", "channels": 8, **options}), of, 4)
    assert isinstance(made, Deal)
    if network is not None:
        made.prepare(network, torch.Generator().manual_seed(1))
    return made


def drawn(of: dict[str, Domain], network: UniversalSegmenter, made: Deal) -> Batch:
    (part,) = steps(of, made.phases(1), train_settings(batch_size=2 * len(of)), network)[0]
    return part


# ── The loss ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ignored", [0, 0.25, 0.75, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_is_that_of_a_loop_over_labelled_pixels(ignored: float, dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(0)
    logits, difficulty = torch.randn(2, 3, 4, 5, generator=rng).to(dtype), torch.randn(2, 1, 4, 5, generator=rng)
    difficulty = difficulty.to(dtype).requires_grad_()
    label = torch.randint(0, 3, (2, 4, 5), generator=rng).to(torch.uint8)
    left_out = torch.randperm(40, generator=rng)[: int(40 * ignored)]
    label.view(-1)[left_out[::2]], label.view(-1)[left_out[1::2]] = VOID, NOT_LABELLED
    losses = []
    for b, y, x in torch.nonzero(label < NOT_LABELLED).tolist():
        wrong = logits[b, :, y, x].argmax().item() != label[b, y, x].item()
        p = 1 / (1 + math.exp(-difficulty[b, 0, y, x].item()))
        losses.append(-math.log(p if wrong else 1 - p))
    got = difficulty_loss(difficulty, logits, label)
    assert got.item() == pytest.approx(np.mean(losses) if losses else 0, rel=1e-5)
    got.backward()
    assert difficulty.grad is not None
    assert torch.equal(difficulty.grad[:, 0] != 0, label < NOT_LABELLED)
    if losses:
        halved = difficulty_loss(difficulty, logits, label, 2.0 * len(losses))
        assert halved.item() == pytest.approx(got.item() / 2, rel=1e-5)


@pytest.mark.parametrize("weighs", [False, True])
def test_the_terms_are_the_sums_over_domains_of_each_ones_means(weighs: bool) -> None:
    """Also where rows of partly labelled images count more."""
    of = domains(3, 4)
    network = model(of).eval()
    made = deal(of, network, weight=0.5).eval()
    part = drawn(of, network, made)
    weight = torch.arange(1.0, len(part.domain) + 1) if weighs else torch.ones(len(part.domain))
    if weighs:
        counted = {1: count_pixels(part.label, part.domain, len(of), len(part.domain), weight)}
        part = replace(part, pixel_weight=weight, counts={**part.counts, **counted})
    got = {n: t.item() for n, t in made.step(network, part, torch.Generator()).items()}
    expected = {"supervised": 0.0, "difficulty": 0.0}
    for k, name in enumerate(of):
        rows = part.domain == k
        label, logits = part.label[rows].long(), network(part.image[rows], name)
        own = network.upsample(made.difficulty(network.encode(part.image[rows])), (32, 32))[:, 0]
        labelled = label < NOT_LABELLED
        each = weight[rows][:, None, None].expand_as(label)[labelled]
        log_p = logits.log_softmax(1).permute(0, 2, 3, 1)[labelled].gather(1, label[labelled][:, None])[:, 0]
        wrong = logits.argmax(1)[labelled] != label[labelled]
        sure = own[labelled].sigmoid()
        right = torch.where(wrong, sure, 1 - sure).log()
        expected["supervised"] -= ((each * log_p).sum() / each.sum()).item()
        expected["difficulty"] -= 0.5 * ((each * right).sum() / each.sum()).item()
    assert got == pytest.approx(expected, rel=1e-4)


def test_a_batch_without_any_label_has_the_same_terms_and_all_are_zero() -> None:
    of = domains(3, 4)
    network = model(of)
    made = deal(of, network)
    part = drawn(of, network, made)
    for value in (NOT_LABELLED, VOID):
        terms = made.step(network, relabelled(part, torch.full_like(part.label, value), network), torch.Generator())
        assert {n: t.item() for n, t in terms.items()} == {"supervised": 0, "difficulty": 0}
        torch.stack(list(terms.values())).sum().backward()


# ── How far its gradient goes ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("reach", ["features", "branch"])
def test_the_gradient_of_the_branch_goes_as_far_as_is_said(reach: str) -> None:
    of = domains(3, 4)
    network = model(of)
    made = deal(of, network, reach=reach)
    made.step(network, drawn(of, network, made), torch.Generator())["difficulty"].backward()
    assert all(p.grad is None or not p.grad.any() for p in network.heads.parameters())
    reached = any(p.grad is not None and p.grad.any() for p in network.encoder.parameters())
    assert reached == (reach == "features")
    assert any(p.grad is not None and p.grad.any() for p in made.branch.parameters())


def test_a_branch_that_keeps_to_itself_leaves_joint_training_as_it_is_bit_for_bit() -> None:
    of = domains(3, 4)
    one, other, third = model(of), model(of), model(of)
    expected = run(build(SETTINGS["joint"].model_validate({"name": "joint"}), of, 4), one, of, 4)
    got = run(deal(of, reach="branch"), other, of, 4)
    assert [terms["supervised"] for terms in got] == [terms["supervised"] for terms in expected]
    assert same(one.state_dict(), other.state_dict())
    run(deal(of, reach="features"), third, of, 4)
    assert not same(one.state_dict(), third.state_dict())


# ── What it is for ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_branch_finds_where_the_network_is_wrong() -> None:
    """A network that says class 0 of everything is wrong wherever the image shows the colours of another."""
    of = {"a": domain("a", 3, images=8, labelled=6)}
    network = model(of)
    head = network.heads["of_a"]
    for parameter, value in ((head.weight, torch.zeros_like(head.weight)), (head.bias, torch.tensor([1.0, 0, 0]))):
        parameter.data = value
    network.requires_grad_(False).eval()
    made = deal(of, network, channels=32)
    data = steps(of, made.phases(60), train_settings(batch_size=6), network)
    optimiser = torch.optim.AdamW(made.parameters(), lr=0.01)

    def rank(part: Batch) -> float:
        """The share of pairs of a wrong and a right pixel in which the wrong one is the more difficult."""
        made.eval()
        with torch.no_grad():
            difficulty = network.upsample(made.difficulty(network.encode(part.image)), (32, 32))[:, 0]
        made.train()
        labelled = part.label < NOT_LABELLED
        values, wrong = difficulty[labelled], part.label[labelled] != 0
        return (values[wrong][:, None] > values[~wrong]).float().mean().item()

    (unseen,) = data[59]
    first = rank(unseen)
    for step in range(59):
        loss = made.step(network, data[step][0], torch.Generator())["difficulty"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert first < 0.8
    assert rank(unseen) > 0.9


def test_the_branch_is_kept_and_scores_as_it_did(tmp_path: Path) -> None:
    root = two_domains(tmp_path / "data")
    settings = plain(root, {"name": "deal", "channels": 8}, steps=3)
    config = parse_config(settings)
    train(config, tmp_path / "run")

    network = load_model(tmp_path / "run")
    made = build(config.method, load_domains(config), config.train.steps)
    assert isinstance(made, Deal)
    made.prepare(network, torch.Generator().manual_seed(9))
    stored = load_weights(RunFolder(tmp_path / "run").module_weights("difficulty"))
    assert not same(made.branch.state_dict(), stored)
    made.branch.load_state_dict(stored)
    assert same(made.branch.state_dict(), stored)
    image = torch.randint(0, 256, (2, 3, 41, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    difficulty = network.upsample(made.eval().difficulty(network.encode(image)), (41, 50))
    assert difficulty.shape == (2, 1, 41, 50)
    assert difficulty.isfinite().all()


def terms_of(history: list[dict[str, float]]) -> Tensor:
    return torch.tensor([list(terms.values()) for terms in history])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_domains_trains(count: int) -> None:
    of = domains(*[3, 4, 1][:count])
    assert terms_of(run(deal(of), model(of), of, 3, train_settings(batch_size=2 * count))).isfinite().all()
