"""Joint training and what equals it, entropy minimisation, fine-tuning, on tiny domains in memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import batch, domains, model, run, same, steps, train_settings
from univ_batches import MODES, UNIVERSAL, aligned_batch, evaluated, method

from fewmask.data.batch import Batch, PixelCounts, count_pixels
from fewmask.data.domain import Domain
from fewmask.labels import NOT_LABELLED
from fewmask.methods import METHODS, build
from fewmask.models.universal import UniversalSegmenter, at_stride


def weights(name: str, alpha: float, beta: float) -> dict[str, float]:
    return {"alpha": alpha, "beta": beta} if name == "univ-full" else {"alpha": alpha}


# ── Joint training, and what equals it ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", UNIVERSAL)
@pytest.mark.parametrize("mode", MODES)
def test_without_its_terms_the_entropy_module_is_joint_training_bit_for_bit(name: str, mode: str) -> None:
    of = domains(3, 4)
    plain, bare = model(of), model(of)
    expected = run(method("joint", of), plain, of, 5)
    got = run(method(name, of, mode=mode, **weights(name, 0, 0)), bare, of, 5)
    assert got == expected
    assert same(plain.state_dict(), bare.state_dict())


def test_the_terms_do_change_the_network() -> None:
    of = domains(3, 4)
    plain, full = model(of), model(of)
    run(method("univ-full", of, alpha=0, beta=0), plain, of, 3)
    run(method("univ-full", of, pretrain=0), full, of, 3)
    assert not same(plain.state_dict(), full.state_dict())


def test_the_supervised_loss_is_the_sum_over_domains_of_means_over_labelled_pixels() -> None:
    of = domains(3, 4)
    network = model(of)
    made = method("joint", of)
    part = aligned_batch(of, network, made)
    got = evaluated(made, network, part)["supervised"]
    expected = 0.0
    for k, name in enumerate(of):
        losses = []
        for row in range(len(part.domain)):
            if part.domain[row] == k:
                log_p = network(part.image[row : row + 1], name)[0].log_softmax(0)
                labelled = part.label[row] < NOT_LABELLED
                chosen = log_p.gather(0, part.label[row].long().clamp_max(of[name].space.num_classes - 1)[None])[0]
                losses.append(-chosen[labelled])
        expected += torch.cat(losses).mean().item()
    assert got == pytest.approx(expected, rel=1e-4)


def weighed(of: dict[str, Domain], network: UniversalSegmenter) -> Batch:
    """Six rows by hand, of which the second and the fifth have a few labels that count 7 and 3 times."""
    generator = torch.Generator().manual_seed(5)
    labels = [torch.randint(0, 3, (32, 32), generator=generator, dtype=torch.uint8) for _ in range(6)]
    labels[1][4:], labels[4][:, 3:] = NOT_LABELLED, NOT_LABELLED
    image = torch.randint(0, 256, (6, 3, 32, 32), generator=generator, dtype=torch.uint8)
    part = batch([(0, labels[0]), (0, labels[1]), *((1, y) for y in labels[2:])], image, network, len(of), pool=6)
    weight = torch.tensor([1.0, 7, 1, 1, 3, 1])
    return replace(
        part,
        pixel_weight=weight,
        counts={
            s: count_pixels(at_stride(part.label, s, network.multiple), part.domain, 2, 6, weight) for s in part.counts
        },
    )


@pytest.mark.parametrize("name", ["joint", "deal", "s4al-plus"])
def test_labels_count_what_their_row_is_worth(name: str) -> None:
    """Also where a step is taken in micro-batches, one of which has no such row."""
    of = domains(3, 4)
    network = model(of)
    made = method(name, of, **({"contrast": {"weight": 0}} if name == "s4al-plus" else {}))
    made.prepare(network, torch.Generator().manual_seed(0))
    part = weighed(of, network)
    got = evaluated(made, network, part)["supervised"]
    assert part.pixel_weight is not None
    expected = 0.0
    for k, domain_name in enumerate(of):
        total = counted = 0.0
        for row in range(6):
            if part.domain[row] == k:
                log_p = network(part.image[row : row + 1], domain_name)[0].log_softmax(0)
                for y, x in (part.label[row] < NOT_LABELLED).nonzero().tolist():
                    total -= part.pixel_weight[row].item() * log_p[part.label[row, y, x].long(), y, x].item()
                    counted += part.pixel_weight[row].item()
        expected += total / counted
    assert got == pytest.approx(expected, rel=1e-4)

    counts, means = {stride: PixelCounts(*count.table() / 2) for stride, count in part.counts.items()}, []
    for rows, weight in (([0, 2, 3], None), ([1, 4, 5], part.pixel_weight[[1, 4, 5]])):
        owned = list(zip(part.domain[rows].tolist(), part.label[rows], strict=True))
        one = replace(batch(owned, part.image[rows], network, 2, pool=3), pixel_weight=weight, counts=counts)
        means.append(evaluated(made, network, one)["supervised"])
    assert np.mean(means) == pytest.approx(got, rel=1e-4)


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"cycada"}))  # its target's head learns from other rows
def test_each_head_sees_only_its_own_rows(name: str) -> None:
    of = domains(3, 4, 2)
    network = model(of)
    options: dict[str, object] = {"supervised": {"domain": "b"}, "fine-tune": {"order": ["a", "c", "b"]}}.get(name, {})
    made = method(name, of, **options)
    rng = torch.Generator().manual_seed(0)
    made.prepare(network, rng)
    (part,) = steps(of, made.phases(4), train_settings(batch_size=6), network)[3]
    keep = part.domain == 1
    rows = list(zip([1] * int(keep.sum()), part.label[keep], strict=True))
    only_b = batch(rows, part.image[keep], network, 3, step=3, of=4, pool=int(keep[: part.pool].sum()))
    only_b = replace(only_b, strong=None if part.strong is None else part.strong[:, keep[part.pool :]])
    evaluated(made, network, only_b, lambda terms: torch.stack(list(terms.values())).sum())
    for other in ("a", "c"):
        assert all(p.grad is None for p in network.heads[f"of_{other}"].parameters())
    assert any(p.grad is not None and p.grad.any() for p in network.heads["of_b"].parameters())


# ── The other methods ────────────────────────────────────────────────────────────────────────────────────────────────


def test_entropy_minimisation_equals_a_loop() -> None:
    of = domains(3, 4)
    network = model(of)
    made = method("entropy-min", of, weight=0.5)
    part = aligned_batch(of, network, made)
    got = evaluated(made, network, part)
    label = at_stride(part.label, network.stride, network.multiple)
    expected = 0.0
    for k, name in enumerate(of):
        values = []
        for row in torch.nonzero(part.domain == k).flatten():
            logits = network.decode(network.encode(part.image[row : row + 1]), name)[0].flatten(1).T
            for cell, value in zip(logits, label[row].flatten(), strict=True):
                if value == NOT_LABELLED:
                    p = cell.softmax(0)
                    values.append(-(p * p.log()).sum().item())
        expected += float(np.mean(values))
    assert got["entropy"] == pytest.approx(0.5 * expected, rel=1e-4)


def test_entropy_minimisation_of_weight_zero_is_joint_training_bit_for_bit() -> None:
    of = domains(3, 4)
    one, other = model(of), model(of)
    assert run(method("joint", of), one, of, 4) == run(method("entropy-min", of, weight=0), other, of, 4)
    assert same(one.state_dict(), other.state_dict())


def test_fine_tuning_trains_one_domain_after_the_other() -> None:
    of = domains(3, 4, 2)
    made = method("fine-tune", of, order=["b", "a", "c"])
    phases = made.phases(10)
    assert [(p.name, p.start, p.stop, p.labelled, p.unlabelled) for p in phases] == [
        ("b", 0, 3, ("b",), ()),
        ("a", 3, 6, ("a",), ()),
        ("c", 6, 10, ("c",), ()),
    ]
    assert all(p.restart for p in phases)
    data = steps(of, phases)
    assert [set(data[s][0].domain.tolist()) for s in (0, 4, 9)] == [{1}, {0}, {2}]


def test_fine_tuning_leaves_the_heads_of_other_domains_alone() -> None:
    of = domains(3, 4)
    network = model(of)
    before = {n: v.clone() for n, v in network.state_dict().items()}
    made = method("fine-tune", of)
    rng = torch.Generator().manual_seed(0)
    (part,) = steps(of, made.phases(2), None, network)[1]
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.01)
    made.step(network, part, rng)["supervised"].backward()
    optimiser.step()
    after = network.state_dict()
    assert torch.equal(before["heads.of_a.weight"], after["heads.of_a.weight"])
    assert not torch.equal(before["heads.of_b.weight"], after["heads.of_b.weight"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fine-tune", {"order": ["a"]}, r"method.order: \['a'\] is not an order of the domains a, b"),
        ("fine-tune", {"order": ["a", "a"]}, r"is not an order"),
        ("supervised", {"domain": None}, r"method.domain: missing; supervised trains on one of a, b"),
        ("supervised", {"domain": "z"}, r"no domain 'z'; there are a, b"),
    ],
)
def test_settings_that_do_not_fit_the_domains_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method(name, domains(3, 4), **options)


def test_fine_tuning_needs_two_domains() -> None:
    with pytest.raises(ValueError, match="give at least two domains"):
        method("fine-tune", domains(3))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_restores_from_its_state(name: str) -> None:
    of = domains(3, 4)
    made, network = method(name, of), model(of)
    run(made, network, of, 3)
    again = build(made.settings, of, 100)
    again.prepare(model(of), torch.Generator().manual_seed(99))
    again.load_state_dict(made.state_dict())
    assert same(made.state_dict(), again.state_dict())


@pytest.mark.parametrize("name", sorted(METHODS))
def test_no_method_touches_the_global_generator(name: str) -> None:
    of = domains(3, 4)
    network = model(of)
    network.eval()
    made = method(name, of)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    rng = torch.Generator().manual_seed(0)
    made.prepare(network, rng)
    for phase in made.phases(4):
        made.begin(phase, network, rng)
        (part,) = steps(of, made.phases(4), None, network)[phase.start]
        made.step(network, part, rng)
        made.after_step(network, rng)
    assert torch.equal(torch.rand(3), expected)
