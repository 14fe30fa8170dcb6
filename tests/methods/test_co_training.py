"""Co-training: each term against a loop, who learns from whom, and that two that disagree come to be right together.

Shapes: B rows of a batch, U of them of the pool · C_k classes of domain k · H×W pixels.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import batch, domains, in_parts, model, relabelled, run, same, steps, train_settings
from ondisk import assert_same_run, plain, two_domains, weights_of
from safetensors.torch import load_file
from semi_supervised import by_hand, looped, opinionated, rng, supervised_loop, swap
from torch import Tensor, nn

from fewmask.config import Config
from fewmask.data.batch import Batch
from fewmask.data.domain import Domain
from fewmask.engine.fit import ProgressEvent, train
from fewmask.engine.run import load_model
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.losses.divergence import js_divergence, kl_divergence, log_mean_softmax
from fewmask.methods import METHODS, parse_config
from fewmask.methods.co_training import BOX, CoTraining
from fewmask.models.ensemble import Ensemble
from fewmask.models.universal import UniversalSegmenter, at_stride
from fewmask.views.mixing import box_masks, partners


def method(of: dict[str, Domain], **options: Any) -> CoTraining:
    made = METHODS["co-training"](CoTraining.Settings.model_validate(options), of)
    assert isinstance(made, CoTraining)
    return made


def prepared(of: dict[str, Domain], network: UniversalSegmenter, **options: Any) -> CoTraining:
    """In eval mode, where rows do not meet in batch normalisation; both networks say different things of pixels."""
    made = method(of, **options)
    network.eval()
    made.prepare(opinionated(network), rng())
    opinionated(made.second)
    return made


def drawn(of: dict[str, Domain], network: UniversalSegmenter, made: CoTraining, rows: int = 4) -> Batch:
    """A step's batch with answers and void in its pool."""
    settings = train_settings(batch_size=rows, unlabelled_batch_size=rows)
    (part,) = steps(of, made.phases(4), settings, network)[3]
    label = part.label.clone()
    label[part.pool :: 2, 4:12, 4:12] = 1
    label[part.pool :: 2, 20:28, 6:20] = VOID
    return relabelled(part, label, network)


# ── How far two answers are apart ────────────────────────────────────────────────────────────────────────────────────


def test_divergences_equal_a_loop() -> None:
    one, other = (3 * torch.randn(2, 4, 3, 5, generator=rng(seed)) for seed in (0, 1))
    mean, kl, js = (
        log_mean_softmax([one, other], 2.0),
        kl_divergence(one.log_softmax(1), other),
        js_divergence(one, other),
    )
    for b in range(2):
        for y in range(3):
            for x in range(5):
                p, q = (z[b, :, y, x].double().softmax(0).tolist() for z in (one, other))
                soft = [(z[b, :, y, x].double() / 2).softmax(0).tolist() for z in (one, other)]
                assert mean[b, :, y, x].exp().tolist() == pytest.approx(
                    [(s + t) / 2 for s, t in zip(*soft, strict=True)]
                )
                assert kl[b, y, x].item() == pytest.approx(
                    sum(s * math.log(s / t) for s, t in zip(p, q, strict=True)), rel=1e-3
                )
                m = [(s + t) / 2 for s, t in zip(p, q, strict=True)]
                parts = [sum(s * math.log(s / t) for s, t in zip(v, m, strict=True)) for v in (p, q)]
                assert js[b, y, x].item() == pytest.approx(sum(parts) / 2, rel=1e-3, abs=1e-6)


def test_divergences_are_finite_and_at_their_ends() -> None:
    sure, sure_of_another = torch.tensor([3e4, -3e4]).view(1, 2, 1, 1), torch.tensor([-3e4, 3e4]).view(1, 2, 1, 1)
    assert js_divergence(sure, sure).item() == 0
    assert js_divergence(sure, sure_of_another).item() == pytest.approx(math.log(2))
    logits = sure_of_another.clone().requires_grad_()
    far = kl_divergence(log_mean_softmax([sure, sure_of_another]), logits, 4.0)
    far.sum().backward()
    assert logits.grad is not None
    assert far.isfinite().all()
    assert logits.grad.isfinite().all()


# ── The terms ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cutmix", [0.0, 1.0])
def test_the_terms_equal_a_loop(cutmix: float) -> None:
    of = domains(3, 4)
    network = model(of)
    made = prepared(of, network, cutmix=cutmix, weight=0.3)
    part = drawn(of, network, made)
    terms = made.step(network, part, rng(5))
    pair = (network, made.second)
    supervised = sum(supervised_loop(n, part, part.pool) for n in pair)
    assert terms["supervised"].item() == pytest.approx(supervised, rel=1e-4)

    source = partners(part.domain[part.pool :])
    mask = box_masks(4, (32, 32), rng(5), cutmix, BOX)
    assert bool(mask.any()) == bool(cutmix)
    image = swap(mask, source, part.image[part.pool :])
    labels = [by_hand(n, part)[0] for n in pair]
    assert not torch.equal(*labels)
    mixed = [swap(mask, source, label) for label in labels]
    everything = torch.ones(mixed[0].shape)
    cross = [looped(n, image, part, its, everything) for n, its in zip(pair, reversed(mixed), strict=True)]
    assert terms["cross"].item() == pytest.approx(0.3 * sum(cross), rel=1e-4)

    free = part.label[part.pool :] == NOT_LABELLED
    expected = float((labels[0] == labels[1])[free].float().mean())
    assert float(made.metrics["agreement"]) == pytest.approx(expected)
    assert 0 < expected < 1
    cells, apart = at_stride(part.label[part.pool :], network.stride, network.multiple), []
    with torch.no_grad():
        for row, k in enumerate(part.domain[part.pool :].tolist()):
            views = part.image[part.pool + row][None]
            p, q = (n.decode(n.encode(views), list(of)[k])[0].softmax(0).flatten(1).T.tolist() for n in pair)
            for one, other, value in zip(p, q, cells[row].flatten().tolist(), strict=True):
                if value != VOID:
                    middle = [(a + b) / 2 for a, b in zip(one, other, strict=True)]
                    apart += [
                        sum(a * math.log(a / m) for a, m in zip(v, middle, strict=True) if a) for v in (one, other)
                    ]
    assert float(made.metrics["diversity"]) == pytest.approx(sum(apart) / len(apart), rel=1e-3)


@pytest.mark.parametrize("cutmix", [0.0, 1.0])
def test_each_learns_from_the_other_and_from_nobody_else(cutmix: float) -> None:
    """The pool's gradient of the first network is that of its own answer to fixed labels of the second one."""
    of = domains(3, 4)
    network = model(of)
    made = prepared(of, network, cutmix=cutmix)
    part = drawn(of, network, made)

    def gradient(of_network: nn.Module) -> Tensor:
        network.zero_grad()
        made.zero_grad()
        made.step(network, part, rng(3))["cross"].backward()
        return torch.cat([p.grad.flatten() for p in of_network.parameters() if p.grad is not None])

    first = gradient(network)
    assert first.any()
    assert gradient(made.second).any()
    weight = made.second.heads["of_a"].weight
    with torch.no_grad():
        weight.mul_(2)  # as many pixels of every class as before, with other probabilities
    assert torch.equal(gradient(network), first)
    with torch.no_grad():
        weight.copy_(weight.roll(1, 0))
    assert not torch.equal(gradient(network), first)


@pytest.mark.parametrize("cutmix", [0.0, 1.0])
def test_a_head_without_a_labelled_row_learns_from_the_pool_under_autocast(cutmix: float) -> None:
    """Labels are made without a gradient; autocast must not remember weights from there."""
    of = domains(3, 4)
    network = model(of)
    made = prepared(of, network, cutmix=cutmix)
    part = drawn(of, network, made)
    label = part.label.clone()
    label[: part.pool][part.domain[: part.pool] == 1] = VOID
    part = relabelled(part, label, network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = made.step(network, part, rng())
    torch.stack(list(terms.values())).sum().backward()
    for n in (network, made.second):
        moved = [n.heads["of_b"].weight, next(n.encoder.parameters())]
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in moved)


@pytest.mark.parametrize("cutmix", [0.0, 1.0])
def test_void_never_enters(cutmix: float) -> None:
    of = domains(3)
    network = model(of)
    made = prepared(of, network, cutmix=cutmix)
    part = drawn(of, network, made)
    terms = made.step(network, relabelled(part, torch.full_like(part.label, VOID), network), rng())
    assert all(t.item() == 0 for t in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    assert not any(p.grad.any() for p in [*network.parameters(), *made.parameters()] if p.grad is not None)
    assert all(v.isfinite() for v in made.metrics.values())


@pytest.mark.parametrize("classes", [(3,), (3, 4)])
def test_a_weight_of_zero_leaves_the_first_network_to_joint_training_bit_for_bit(classes: tuple[int, ...]) -> None:
    of = domains(*classes)
    one, other = model(of), model(of)
    # The second network draws its dropout after the first: with a step of its own each the draws are the same.
    run(METHODS["joint"](METHODS["joint"].Settings(name="joint"), of), one, of, 3)
    made = method(of, weight=0)
    before = model(of, seed=1).state_dict()
    assert {len(terms) for terms in run(made, other, of, 3)} == {1}
    assert same(one.state_dict(), other.state_dict())
    assert not same(made.second.state_dict(), one.state_dict())
    assert not same(made.second.state_dict(), before)


@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_equal_one_batch_however_the_labels_lie(parts: int) -> None:
    """Without CutMix, which knows the rows of its own micro-batch alone."""
    of = domains(3, 4)
    network = model(of)
    made = prepared(of, network, cutmix=0)
    whole = drawn(of, network, made, rows=8)
    expected = {n: t.item() for n, t in made.step(network, whole, rng()).items()}
    assert in_parts(made, network, whole, parts) == pytest.approx(expected, rel=1e-4)


def test_the_second_network_begins_elsewhere_and_is_trained() -> None:
    of = domains(3, 4)
    network = model(of)
    made = method(of)
    made.prepare(network, rng())
    again = method(of)
    again.prepare(network, rng())
    assert same(made.second.state_dict(), again.second.state_dict())
    begun = {n: v.clone() for n, v in made.second.named_parameters()}
    assert not torch.equal(begun["heads.of_a.weight"], network.heads["of_a"].weight)
    history = run(made, network, of, 3)
    moved = [n for n, v in made.second.named_parameters() if not torch.equal(v, begun[n])]
    assert {"features", "heads"} <= {n.split(".")[0] for n in moved}
    assert all(math.isfinite(v) for terms in history for v in terms.values())


# ── The method's idea ────────────────────────────────────────────────────────────────────────────────────────────────


class Pointwise(UniversalSegmenter):
    """A network whose every pixel is a point of its own: one hidden layer on its colour."""

    def __init__(self, of: dict[str, Domain], seed: int) -> None:
        other = model(of)
        super().__init__(other.settings, other.spaces)
        made = rng(seed)
        self.features = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Tanh())
        self.heads = nn.ModuleDict({"of_a": nn.Conv2d(16, 2, 1)})
        for parameter in [*self.features.parameters(), *self.heads.parameters()]:
            parameter.data = (
                torch.randn(parameter.shape, generator=made) / parameter.shape[-3 if parameter.ndim > 1 else 0] ** 0.5
            )
        self.stride, self.multiple = 1, 1

    @property
    def encoder(self) -> nn.Module:
        return self.features


def points(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Colours (3,count,1) of two long clouds side by side, and which of them each is of (count,1)."""
    draws = torch.randn(2, count, generator=rng(seed))
    owner = torch.arange(count) % 2
    across, along = 40 * (2 * owner - 1) + 10 * draws[0], 45 * draws[1]
    colour = torch.stack([124 + across, 116 + along, torch.full_like(across, 104)]).clamp(0, 255)
    return colour[..., None], owner.to(torch.uint8)[:, None]


def taught(start: int, other: int, weight: float) -> tuple[float, list[float]]:
    """How much of unseen points the first network gets right after training beside one that began at `other`, from four
    labels, two of each cloud near opposite ends; and how far the two agree, step by step."""
    of = domains(2)
    colour, owner = points(512, 1)
    label = torch.full((512, 1), NOT_LABELLED, dtype=torch.uint8)
    along, across = colour[1, :, 0] - 116, owner[:, 0] == 1
    ends = (along.abs() > 20) & (along.abs() < 50)
    for chosen in (ends & ~across & (along < 0), ends & across & (along > 0)):
        few = torch.nonzero(chosen)[:2, 0]
        label[few] = owner[few]
    nothing = torch.full_like(label, NOT_LABELLED)
    network, made = Pointwise(of, start), method(of, weight=weight, cutmix=0)
    made.second = Pointwise(of, other)
    part = batch([(0, v) for v in (label, nothing, nothing)], torch.stack([colour, colour, colour.flip(1)]), network, 1)
    optimiser = torch.optim.Adam([*network.parameters(), *made.second.parameters()], lr=0.04)
    agreement = []
    for step in range(60):
        optimiser.zero_grad()
        torch.stack(list(made.step(network, part, rng(step)).values())).sum().backward()
        optimiser.step()
        agreement.append(float(made.metrics.get("agreement", 0)))
    test, truth = points(2000, 9)
    with torch.no_grad():
        return float((network(test[None], "a").argmax(1)[0] == truth).float().mean()), agreement


@pytest.mark.parametrize("start", [3, 6])
def test_two_that_began_apart_mend_what_one_alone_and_one_with_its_twin_do_not(start: int) -> None:
    """The labels alone cut askew through both clouds. Two networks whose cuts differ move each other's to where nothing
    is; a network that learns from its equal learns its own errors."""
    alone, _ = taught(start, start + 10, weight=0)
    right, agreement = taught(start, start + 10, weight=1.5)
    twins, always = taught(start, start, weight=1.5)
    assert alone < 0.85
    assert right > 0.97
    assert twins < 0.9
    assert agreement[0] < 0.7
    assert agreement[-1] > 0.97
    assert min(always) == 1


# ── In a run ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_domains(tmp_path_factory.mktemp("data"))


def settings(data: Path, **options: Any) -> Config:
    made = plain(data, {"name": "co-training", **options}, steps=4, checkpoint_every=1)
    return parse_config(made)


def test_the_second_network_of_a_stopped_run_is_that_of_one_that_was_not(data: Path, tmp_path: Path) -> None:
    def stop(event: ProgressEvent) -> None:
        if event.step == 3 and event.stage != "evaluate":
            raise KeyboardInterrupt

    train(settings(data), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(settings(data), tmp_path / "run", stop)
    train(settings(data), tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    one, other = (load_file(tmp_path / run / "second.safetensors") for run in ("whole", "run"))
    assert same(one, other)
    assert one.keys() == weights_of(tmp_path / "run").keys()
    assert not same(one, weights_of(tmp_path / "run"))


def test_both_may_answer_as_one_model(data: Path, tmp_path: Path) -> None:
    """It is the mean of the two that the same run keeps apart."""
    train(settings(data, answers="mean"), tmp_path / "mean")
    train(settings(data), tmp_path / "first")
    both, first = load_model(tmp_path / "mean"), load_model(tmp_path / "first")
    assert isinstance(both, Ensemble)
    assert not (tmp_path / "mean" / "second.safetensors").exists()
    second = UniversalSegmenter(first.settings, first.spaces).eval()
    second.load_state_dict(load_file(tmp_path / "first" / "second.safetensors"))
    image = torch.randint(0, 256, (1, 3, 40, 48), generator=rng(), dtype=torch.uint8)
    with torch.no_grad():
        for name in both.domains:
            torch.testing.assert_close(both(image, name), (first(image, name) + second(image, name)) / 2)
