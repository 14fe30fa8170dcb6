"""Souly et al. (ICCV 2017): each term against a loop, both players' gradients, weak labels, and what void does.

Shapes: B rows of a batch, U of them of the pool · K domains, C_k classes of domain k · H×W pixels.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import domains, model, relabelled, run, same, steps, train_settings
from semi_supervised import opinionated, rng
from test_hung2018 import gradients
from torch import Tensor, nn

from fewmask.data.batch import Batch
from fewmask.data.domain import Domain
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.losses.adversarial import surprise_if_fake, surprise_if_real, with_fake
from fewmask.losses.cross_entropy import cross_entropy
from fewmask.methods import METHODS
from fewmask.methods.souly2017 import Souly2017
from fewmask.models.generator import Generator
from fewmask.models.universal import UniversalSegmenter

GAMES = ["minimax", "non-saturating"]


def method(of: dict[str, Domain], **options: Any) -> Souly2017:
    plain = {"side": 8, "channels": 4, "noise": 6, "supervised": 0.5, "real": 2, "fake": 3}
    made = METHODS["souly2017"](Souly2017.Settings.model_validate({**plain, **options}), of)
    assert isinstance(made, Souly2017)
    return made


def prepared(of: dict[str, Domain], network: UniversalSegmenter, **options: Any) -> Souly2017:
    made = method(of, **options)
    made.prepare(opinionated(network), rng())
    network.eval()
    made.eval()
    return made


def drawn(of: dict[str, Domain], network: UniversalSegmenter, made: Souly2017) -> Batch:
    """With holes in the labelled rows, void and answers in the pool."""
    (part,) = steps(of, made.phases(4), train_settings(unlabelled_batch_size=4), network)[3]
    label = part.label.clone()
    label[0, 20:, :10] = NOT_LABELLED
    label[-1, 10:30, 15:25] = 1
    label[-2, :, 25:] = VOID
    remade = relabelled(part, label, network)
    object.__setattr__(remade, "names", part.names)
    return remade


def weak_file(folder: Path, of: dict[str, Domain], text: str | None = None) -> dict[str, Path]:
    """Only the first two classes are in any image of domain a."""
    file = folder / "weak.yaml"
    first, second, *_ = of["a"].space.names
    file.write_text(text or "".join(f"{s}: [{first}, {second}]\n" for s in of["a"].splits["train"]))
    return {"a": file}


# ── The terms ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("weak", [False, True])
def test_the_terms_equal_a_loop(game: str, weak: bool, tmp_path: Path) -> None:
    of = domains(3, 4)
    network = model(of)
    options = {"weak": weak_file(tmp_path, of)} if weak else {}
    made = prepared(of, network, generator_loss=game, **options)
    part = drawn(of, network, made)
    images: list[Tensor] = []
    made.generator.register_forward_hook(lambda *call: images.append(call[-1].detach()))
    got = {n: t.item() for n, t in made.step(network, part, rng(7)).items()}
    (made_images,) = images
    sums: dict[str, list[list[float]]] = {n: [[], []] for n in ("supervised", "real", "fake", "generator")}
    for row, owner in enumerate(part.domain.tolist()):
        name = list(of)[owner]
        pool = row - part.pool
        with torch.no_grad():
            logits = network(part.image[row : row + 1], name)[0]
            p = torch.cat([logits, torch.zeros(1, 32, 32)]).softmax(0).tolist()
            if pool >= 0:
                void = part.label[row] == VOID
                fake = torch.where(void, part.image[row].float(), made_images[pool])
                q = torch.cat([network(fake[None], name)[0], torch.zeros(1, 32, 32)]).softmax(0)[-1].tolist()
        classes = range(2 if weak and owner == 0 else of[name].space.num_classes)
        for y in range(32):
            for x in range(32):
                value = int(part.label[row, y, x])
                if value < NOT_LABELLED:
                    sums["supervised"][owner].append(-math.log(p[value][y][x]))
                if pool >= 0 and value == NOT_LABELLED:
                    sums["real"][owner].append(-math.log(sum(p[c][y][x] for c in classes)))
                if pool >= 0 and value != VOID:
                    sums["fake"][owner].append(-math.log(q[y][x]))
                    sums["generator"][owner].append(-math.log1p(-q[y][x]))
    means = {n: sum(sum(v) / len(v) for v in by_domain) for n, by_domain in sums.items()}
    expected = {"supervised": means["supervised"] / 2, "real": 2 * means["real"], "fake": 3 * means["fake"]}
    if game == "non-saturating":
        expected["generator"] = means["generator"]
    assert got == pytest.approx(expected, rel=1e-3)


def test_surprises_of_the_softmax_with_one_class_more() -> None:
    logits = torch.tensor([2.0, -1.0, 0.5])[None, :, None, None]
    p = torch.tensor([2.0, -1.0, 0.5, 0.0]).softmax(0)
    assert with_fake(logits)[0, :, 0, 0].tolist() == [2.0, -1.0, 0.5, 0.0]
    assert surprise_if_fake(logits).item() == pytest.approx(-math.log(p[3]))
    assert surprise_if_real(logits).item() == pytest.approx(-math.log(1 - p[3]))
    possible = torch.tensor([[False, True, True]])
    assert surprise_if_real(logits, possible).item() == pytest.approx(-math.log(p[1] + p[2]))
    for far in (1e4, -1e4):
        huge = torch.full((1, 3, 1, 1), far, requires_grad=True)
        values = surprise_if_fake(huge) + surprise_if_real(huge) + surprise_if_real(huge, possible)
        values.sum().backward()
        assert values.isfinite().all()
        assert huge.grad is not None
        assert huge.grad.isfinite().all()


@pytest.mark.parametrize("side", [8, 64])
def test_a_generator_draws_from_its_generator_alone_and_makes_images(side: int) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = Generator(5, side, 4, rng(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(one.state_dict(), Generator(5, side, 4, rng(1)).state_dict())
    image = one(torch.rand(3, 5, generator=rng()), (20, 36))
    assert image.shape == (3, 3, 20, 36)
    assert 0 <= image.min() < image.max() <= 255
    assert image[0].std() > 0
    assert one.layers(torch.zeros(3, 5)).shape[-1] == side


# ── Whom a term moves, and where to ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("game", GAMES)
def test_each_term_moves_its_own_player(game: str) -> None:
    of = domains(3, 4)
    network = model(of)
    made = prepared(of, network, generator_loss=game)
    for name, term in made.step(network, drawn(of, network, made), rng()).items():
        assert bool(gradients(network, term)) == (name != "generator"), name
        assert bool(gradients(made, term)) == (name == ("fake" if game == "minimax" else "generator")), name


@pytest.mark.parametrize("game", GAMES)
def test_the_players_pull_in_opposite_directions(game: str) -> None:
    """A step of the network makes it surer that the generator's images are fake, a step of the generator less sure."""
    of = domains(3)
    network = model(of)
    made = prepared(of, network, generator_loss=game)
    part = drawn(of, network, made)

    def after(module: nn.Module | None, name: str) -> float:
        if module is None:
            return made.step(network, part, rng(7))["fake"].item()
        before = {n: v.clone() for n, v in module.state_dict().items()}
        moved = gradients(module, made.step(network, part, rng(7))[name])
        length = torch.cat([g.flatten() for g in moved.values()]).norm()
        with torch.no_grad():
            for n, p in module.named_parameters():
                if n in moved:
                    p -= 1e-3 * moved[n] / length
        loss = after(None, name)
        module.load_state_dict(before)
        return loss

    first = after(None, "fake")
    assert after(network, "fake") < first
    assert after(made, "fake" if game == "minimax" else "generator") > first


def test_generated_images_do_not_move_the_running_statistics() -> None:
    of = domains(3)
    one, other = model(of), model(of)
    part = drawn(of, one, prepared(of, one))
    one.train()
    other.train()
    for network, fake in ((one, 0), (other, 3)):
        made = method(of, fake=fake)
        made.prepare(network, rng())
        torch.manual_seed(0)
        made.step(network, part, rng())
    statistics = [{n: v for n, v in m.state_dict().items() if "running" in n} for m in (one, other)]
    assert statistics[0]
    assert same(*statistics)


# ── The method's idea ────────────────────────────────────────────────────────────────────────────────────────────────


def bars(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points (N,2) of two classes, which lie on two long parallel bars, and their classes (N,)."""
    label = torch.arange(count) % 2
    along = 4 * torch.rand(count, generator=rng(seed)) - 2
    across = 1 - 2 * label + 0.1 * torch.randn(count, generator=rng(seed + 1))
    return torch.stack([along, across], 1), label


def accuracy(weight: float, seed: int) -> float:
    """Of points, learnt from one label a class, at opposite ends of the bars, and from points without one; what is fake
    is spread over the plane, as by a generator that knows no better. The seed is the network's and the points'."""
    first = rng(seed)
    network = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    for layer in (network[0], network[2], network[4]):
        assert isinstance(layer, nn.Linear)
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -(layer.in_features**-0.5), layer.in_features**-0.5, generator=first)
    labelled, label = torch.tensor([[-1.5, 1.0], [1.5, -1.0]]), torch.tensor([0, 1])[:, None, None]
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for step in range(10_000 * seed, 10_000 * seed + 200):
        real = bars(128, 10 * step)[0]
        fake = torch.tensor([6.0, 4.0]) * (torch.rand(128, 2, generator=rng(10 * step + 2)) - 0.5)
        logits = network(torch.cat([labelled, real, fake]))[:, :, None, None]
        loss = cross_entropy(with_fake(logits[:2]), label)
        loss = loss + weight * (surprise_if_real(logits[2:130]).mean() + surprise_if_fake(logits[130:]).mean())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    points, truth = bars(1000, 5)
    return float((network(points).argmax(1) == truth).float().mean())


@pytest.mark.slow
def test_what_is_fake_between_the_classes_carries_labels_along_them() -> None:
    """With every seed. On bars half as long again, labels as far apart are cut across, and three of eight networks
    stay with that cut, in which each bar is real by halves of two classes."""
    without, with_it = ([accuracy(weight, seed) for seed in range(5)] for weight in (0, 1))
    assert max(without) < 0.8
    assert min(with_it) > 0.95


# ── Weak labels ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_weak_labels_condition_the_generator_and_bound_the_classes(tmp_path: Path) -> None:
    of = domains(3, 4)
    network = model(of)
    made = prepared(of, network, weak=weak_file(tmp_path, of))
    part = drawn(of, network, made)
    vectors: list[Tensor] = []
    made.generator.register_forward_pre_hook(lambda _, inputs: vectors.append(inputs[0]))
    made.step(network, part, rng())
    expected = {0: [1, 1, 0, 0, 0, 0, 0], 1: [0, 0, 0, 1, 1, 1, 1]}
    owners = part.domain[part.pool :].tolist()
    assert set(owners) == {0, 1}
    assert vectors[0][:, 6:].tolist() == [expected[k] for k in owners]
    assert vectors[0][:, :6].abs().max() <= 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nobody: [a0]\n", "nobody: no image of train"),
        ("a-0: [sky]\n", r"a-0: \['sky'\] is no list of classes; there are a0, a1, a2"),
        ("a-0: []\n", "a-0: .* is no list of classes"),
        ("a-0: a0\n", "a-0: 'a0' is no list"),
        ("- a0\n", "holds no mapping"),
        ("a-0: [a0]\na-0: [a1]\n", "cannot be read"),
    ],
)
def test_weak_labels_that_do_not_fit_are_refused(text: str, message: str, tmp_path: Path) -> None:
    of = domains(3, 4)
    with pytest.raises(ValueError, match=message):
        method(of, weak=weak_file(tmp_path, of, text))


def test_weak_labels_of_nobody_are_refused(tmp_path: Path) -> None:
    of = domains(3)
    with pytest.raises(ValueError, match="no domain z; there are a"):
        method(of, weak={"z": tmp_path})
    with pytest.raises(ValueError, match="cannot be read"):
        method(of, weak={"a": tmp_path / "nowhere.yaml"})


# ── Batches at the edges ─────────────────────────────────────────────────────────────────────────────────────────────


def test_weights_of_zero_are_joint_training_bit_for_bit() -> None:
    of = domains(3, 4)
    one, other = model(of), model(of)
    joint = METHODS["joint"](METHODS["joint"].Settings(name="joint"), of)
    made = method(of, supervised=1, real=0, fake=0)
    assert run(joint, one, of, 3) == run(made, other, of, 3)
    assert made.optimisers() == {}
    assert same(one.state_dict(), other.state_dict())


def test_void_never_enters() -> None:
    of = domains(3)
    network = model(of)
    made = prepared(of, network)
    part = drawn(of, network, made)
    terms = made.step(network, relabelled(part, torch.full_like(part.label, VOID), network), rng())
    assert all(t.item() == 0 for t in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    assert not any(p.grad.any() for p in [*network.parameters(), *made.parameters()] if p.grad is not None)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("game", GAMES)
def test_any_number_of_domains_trains(count: int, game: str) -> None:
    of = domains(*[3, 4, 2][:count])
    made = method(of, generator_loss=game)
    history = run(made, model(of), of, 3)
    assert all(math.isfinite(v) for terms in history for v in terms.values())
    assert made.extra_modules(model(of)).keys() == {"generator"}
