"""univ-teacher: which classes correspond, and each term against a loop over cells.

Shapes: B rows of a batch, U of them of the pool · K domains, C_k classes of domain k, G = Σ_k C_k · P prototypes a
class · D embedding size · h×w feature cells.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import batch, domains, model, run, same, steps, train_settings
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fewmask.config import SETTINGS
from fewmask.data.batch import Batch
from fewmask.data.domain import Domain
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.losses.prototypes import counterparts
from fewmask.losses.pseudo_label import carried_over
from fewmask.methods import build
from fewmask.methods.univ_teacher import UnivTeacher
from fewmask.models.universal import UniversalSegmenter, at_stride

SURE = 0.4


def method(of: dict[str, Domain], **options: Any) -> UnivTeacher:
    plain = {"name": "univ-teacher", "pretrain": 0.0, "ema": 0.9, "threshold": SURE, **options}
    made = build(SETTINGS["univ-teacher"].model_validate(plain), of, 100)
    assert isinstance(made, UnivTeacher)
    return made


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ── Which classes correspond ─────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 2), st.integers(0, 99))
def test_counterparts_equal_a_loop(classes: list[int], per_class: int, seed: int) -> None:
    total, draws = sum(classes), rng(seed)
    prototypes = F.normalize(torch.randn(total, per_class, 3, generator=draws), dim=-1)
    has_prototype = torch.rand(total, generator=draws) < 0.8
    boundary = torch.rand(len(classes), generator=draws) * 0.6
    pairs = counterparts(prototypes, has_prototype, boundary, classes)
    owner = [k for k, c in enumerate(classes) for _ in range(c)]

    def similar(a: int, b: int) -> float:
        if not (has_prototype[a] and has_prototype[b]):
            return -2.0
        return max(float(p @ q) for p in prototypes[a] for q in prototypes[b])

    def nearest(a: int, k: int) -> int:
        own = [b for b in range(total) if owner[b] == k]
        return max(own, key=lambda b: similar(a, b))

    for a, b in np.ndindex(total, total):
        expected = (
            owner[a] != owner[b]
            and bool(has_prototype[a] and has_prototype[b])
            and nearest(a, owner[b]) == b
            and nearest(b, owner[a]) == a
            and similar(a, b) >= max(float(boundary[owner[a]]), float(boundary[owner[b]]))
        )
        assert bool(pairs[a, b]) == expected
    assert torch.equal(pairs, pairs.T)


def test_what_is_carried_over_equals_a_loop() -> None:
    label = torch.randint(0, 5, (2, 6, 7), generator=rng(1), dtype=torch.uint8)
    label[label == 3], label[label == 4] = NOT_LABELLED, VOID
    theirs = torch.randint(0, 4, (2, 6, 7), generator=rng(2), dtype=torch.uint8)
    sure = torch.rand(2, 6, 7, generator=rng(3)) < 0.7
    same_class = torch.rand(3, 4, generator=rng(4)) < 0.5
    got = carried_over(label, theirs, sure, same_class)
    for at in np.ndindex(2, 6, 7):
        a, b = int(label[at]), int(theirs[at])
        carried = a < 3 and bool(sure[at]) and bool(same_class[a, b])
        assert got[at] == (b if carried else VOID)
    assert (got != VOID).any()


# ── The terms ────────────────────────────────────────────────────────────────────────────────────────────────────────


def ready(of: dict[str, Domain], network: UniversalSegmenter, **options: Any) -> UnivTeacher:
    """In eval mode, with a teacher of its own mind, and prototypes by which class c is class c of every domain."""
    made = method(of, **options)
    with torch.no_grad():
        for name, parameter in network.heads.named_parameters():
            parameter.mul_(300 if "weight" in name else 0)
    made.prepare(network, rng())
    assert made.teacher is not None
    for head in made.teacher.model.heads.parameters():
        head.copy_(head.roll(1, 0))
    p = made.prototypes
    axes = torch.eye(p.vectors.shape[-1])[: max(p.classes)]
    p.vectors = torch.cat([axes[:c] for c in p.classes])[:, None].expand(-1, p.vectors.shape[1], -1).clone()
    p.initialised.fill_(True)
    p.boundary.fill_(0.5)
    network.eval()
    return made


def pooled(of: dict[str, Domain], network: UniversalSegmenter, made: UnivTeacher) -> Batch:
    """A micro-batch with answers and void in its pool."""
    (part,) = steps(of, made.phases(4), train_settings(batch_size=4, unlabelled_batch_size=4), network)[3]
    label = part.label.clone()
    label[part.pool :: 2, 4:12, 4:12] = 1
    label[part.pool :: 2, 20:28, 6:20] = VOID
    rows = list(zip(part.domain.tolist(), label, strict=True))
    whole = batch(rows, part.image, network, len(of), 3, 4, part.pool, part.phase)
    return replace(whole, strong=part.strong)


def at_cells(network: UniversalSegmenter, image: Tensor, domain: str) -> Tensor:
    with torch.no_grad():
        return network.decode(network.encode(image[None]), domain)[0]


@pytest.mark.parametrize("forward", ["separate", "joint"])
@pytest.mark.parametrize("classes", [(3, 4), (3, 4, 2)])
def test_the_terms_equal_a_loop(classes: tuple[int, ...], forward: str) -> None:
    of = domains(*classes)
    network = model(of)
    made = ready(of, network, within=0.7, across=0.3, forward=forward)
    part = pooled(of, network, made)
    assert part.strong is not None
    terms = made.step(network, part, rng())
    assert made.teacher is not None
    names, answers = list(of), at_stride(part.label, network.stride, network.multiple)
    within, across, cells = [0.0] * len(of), [0.0] * len(of), [0] * len(of)
    believed = carried = 0
    for row in range(part.pool, len(part.label)):
        i, strong = int(part.domain[row]), part.strong[0][row - part.pool]
        says = [at_cells(made.teacher.model, part.image[row], n).softmax(0) for n in names]
        log_p = [at_cells(network, strong, n).log_softmax(0) for n in names]
        for y, x in np.ndindex(*answers.shape[1:]):
            answer = int(answers[row, y, x])
            if answer == VOID:
                continue
            cells[i] += 1
            own = int(says[i][:, y, x].argmax()) if answer == NOT_LABELLED else answer
            if answer == NOT_LABELLED and says[i][own, y, x] < SURE:
                continue
            believed += 1
            within[i] -= float(log_p[i][own, y, x])
            for j in range(len(names)):
                theirs = int(says[j][:, y, x].argmax())
                if j != i and says[j][theirs, y, x] >= SURE and theirs == own:
                    across[i] -= float(log_p[j][theirs, y, x]) / (len(names) - 1)
                    carried += 1
    assert carried > 0
    assert believed < sum(cells)
    means = [sum(v / n for v, n in zip(values, cells, strict=True) if n) for values in (within, across)]
    assert terms["within"].item() == pytest.approx(0.7 * means[0], rel=1e-4)
    assert terms["across"].item() == pytest.approx(0.3 * means[1], rel=1e-4)
    assert made.metrics["carried"].item() == pytest.approx(carried / (len(names) - 1) / sum(cells), rel=1e-5)


def test_private_classes_teach_the_other_head_nothing() -> None:
    of = domains(3, 4)
    network = model(of)
    made = ready(of, network)
    made.prototypes.vectors = F.normalize(torch.randn(7, 3, 16, generator=rng()), dim=-1)
    made.prototypes.boundary.fill_(1.1)  # nothing is as near as that
    terms = made.step(network, pooled(of, network, made), rng())
    assert terms["across"].item() == 0
    assert terms["within"].item() > 0


def test_the_anchor_trains_the_embedding_alone_and_the_pool_does_not() -> None:
    of = domains(3, 4)
    network = model(of)
    made = ready(of, network)
    terms = made.step(network, pooled(of, network, made), rng())
    network.zero_grad()
    terms["anchor"].backward(retain_graph=True)
    moved = {n for n, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved
    assert all(n.startswith("embedding.") for n in moved)
    network.zero_grad()
    (terms["within"] + terms["across"]).backward()
    assert all(p.grad is None for p in network.embedding.parameters())
    assert made.teacher is not None
    assert all(p.grad is None for p in made.teacher.parameters())


# ── What equals joint training, and the edges ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("classes", [(3,), (3, 4)])
def test_weights_of_zero_are_joint_training_bit_for_bit(classes: tuple[int, ...]) -> None:
    of = domains(*classes)
    one, other = model(of), model(of)
    joint = build(SETTINGS["joint"].model_validate({"name": "joint"}), of, 4)
    assert run(joint, one, of, 4) == run(method(of, within=0, across=0), other, of, 4)
    assert same(one.state_dict(), other.state_dict())


@pytest.mark.parametrize("classes", [(3,), (3, 4), (3, 4, 2)])
def test_any_number_of_domains_trains(classes: tuple[int, ...]) -> None:
    of = domains(*classes)
    network = model(of)
    made = method(of, threshold=0, pretrain=0.5)
    history = run(made, network, of, 6, train_settings(batch_size=4))
    assert [set(t) - {"anchor"} for t in history[:3]] == [{"supervised"}] * 3
    assert all(math.isfinite(v) for terms in history for v in terms.values())
    assert history[-1]["within"] > 0
    assert ("anchor" in history[-1]) == (len(classes) > 1)


@pytest.mark.parametrize("value", [NOT_LABELLED, VOID])
def test_a_pool_that_is_void_or_has_no_answer(value: int) -> None:
    of = domains(3, 4)
    network = model(of)
    made = ready(of, network)
    part = pooled(of, network, made)
    label = part.label.clone()
    label[part.pool :] = value
    rows = list(zip(part.domain.tolist(), label, strict=True))
    whole = batch(rows, part.image, network, 2, 3, 4, part.pool, part.phase)
    terms = made.step(network, replace(whole, strong=part.strong), rng())
    torch.stack(list(terms.values())).sum().backward()
    assert all(math.isfinite(v.item()) for v in terms.values())
    assert (terms["within"].item() == 0) == (value == VOID)
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
