"""Hung et al. (BMVC 2018): each term against a loop, whom it moves and where to, and what the discriminator may see.

Shapes: B rows of a batch, U of them of the pool · K domains, C_k classes of domain k · H×W pixels.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers import domains, in_parts, model, relabelled, run, same, steps, train_settings
from semi_supervised import opinionated, rng
from torch import Tensor, nn

from fewmask.data.batch import Batch
from fewmask.data.domain import Domain
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.losses.adversarial import one_hot, verdict_loss
from fewmask.methods import METHODS
from fewmask.methods.common.adversary import frozen
from fewmask.methods.hung2018 import Hung2018
from fewmask.models.discriminator import Discriminator
from fewmask.models.universal import UniversalSegmenter

WEIGHTS = {"adversarial": 0.5, "semi_adversarial": 0.25, "semi": 2.0}


def method(of: dict[str, Domain], **options: Any) -> Hung2018:
    plain = {"warmup": 0, "channels": 4, "threshold": 0.5}
    made = METHODS["hung2018"](Hung2018.Settings.model_validate({**plain, **WEIGHTS, **options}), of)
    assert isinstance(made, Hung2018)
    return made


def prepared(of: dict[str, Domain], network: UniversalSegmenter, **options: Any) -> Hung2018:
    """In eval mode, where rows do not meet in batch normalisation; with a discriminator that trusts some pixels."""
    made = method(of, **options)
    made.prepare(opinionated(network), rng())
    for parameter in made.discriminators.parameters():
        parameter.data *= 3
    network.eval()
    return made


def drawn(of: dict[str, Domain], network: UniversalSegmenter, made: Hung2018, **rows: int) -> Batch:
    """A step's batch with void, and with answers in the pool and holes in the labelled rows."""
    settings = train_settings(**{"batch_size": 4, "unlabelled_batch_size": 4, "crop": (64, 64), **rows})
    (part,) = steps(of, made.phases(4), settings, network)[3]
    label = part.label.clone()
    label[0, 40:, :20] = NOT_LABELLED
    label[1, :9] = VOID
    label[-1, 20:60, 30:50] = 1
    label[-2, :, 50:] = VOID
    return relabelled(part, label, network)


def gradients(module: nn.Module, term: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    term.backward(retain_graph=True)
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None and p.grad.any()}


# ── The terms ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("classes", [(3,), (3, 4)])
def test_the_terms_equal_a_loop(classes: tuple[int, ...]) -> None:
    of = domains(*classes)
    network = model(of, seed=3)
    made = prepared(of, network)
    part = drawn(of, network, made)
    got = {n: t.item() for n, t in made.step(network, part, rng()).items()}
    sums: dict[str, list[list[float]]] = {n: [[] for _ in of] for n in (*got, "fake", "real")}
    believed = []
    for row, owner in enumerate(part.domain.tolist()):
        with torch.no_grad():
            p = network(part.image[row : row + 1], list(of)[owner]).softmax(1)[0]
        judge = made.discriminators[owner]
        label, pool = part.label[row], row >= part.pool
        shown, truth = p.clone(), torch.zeros_like(p)
        for y in range(64):
            for x in range(64):
                value = int(label[y, x])
                if value >= NOT_LABELLED:
                    if not (pool and value == NOT_LABELLED):
                        shown[:, y, x] = 0
                else:
                    truth[value, y, x] = 1
        hidden = p * (label < NOT_LABELLED)  # the same pixels as the truth has
        with torch.no_grad():
            fake, real, trust = judge(torch.stack([hidden, truth, shown])).sigmoid().tolist()
        answer, best = p.tolist(), p.amax(0).tolist()
        for y in range(64):
            for x in range(64):
                value = int(label[y, x])
                if value < NOT_LABELLED:
                    sums["supervised"][owner].append(-math.log(answer[value][y][x]))
                    sums["adversarial"][owner].append(-math.log(fake[y][x]))
                    sums["fake"][owner].append(-math.log(1 - fake[y][x]))
                    sums["real"][owner].append(-math.log(real[y][x]))
                elif value == NOT_LABELLED and pool:
                    sums["semi_adversarial"][owner].append(-math.log(trust[y][x]))
                    sure = bool(trust[y][x] > 0.5)
                    sums["semi"][owner].append(-math.log(best[y][x]) * sure)
                    believed.append(sure)
    means = {n: sum(sum(v) / len(v) for v in of_domain) for n, of_domain in sums.items() if n != "discriminator"}
    assert got == pytest.approx(
        {
            "supervised": means["supervised"],
            "adversarial": 0.5 * means["adversarial"],
            "discriminator": (means["fake"] + means["real"]) / 2,
            "semi_adversarial": 0.25 * means["semi_adversarial"],
            "semi": 2 * means["semi"],
        },
        rel=1e-4,
    )
    assert 0 < sum(believed) < len(believed)
    assert float(made.metrics["sure"]) == pytest.approx(sum(believed) / len(believed))


def test_a_map_of_labels_and_a_verdict() -> None:
    label = torch.tensor([[[0, 2], [NOT_LABELLED, VOID]]], dtype=torch.uint8)
    assert one_hot(label, 3).tolist() == [[[[1, 0], [0, 0]], [[0, 0], [0, 0]], [[0, 1], [0, 0]]]]
    verdict = torch.tensor([[[3.0, 0.0], [90.0, -90.0]]], requires_grad=True)
    mask = torch.tensor([[[True, False], [True, True]]])
    assert verdict_loss(verdict, True, mask).item() == pytest.approx((math.log1p(math.exp(-3)) + 90) / 3)
    assert verdict_loss(verdict, False, mask, 2).item() == pytest.approx((math.log1p(math.exp(3)) + 90) / 2)
    empty = verdict_loss(verdict, True, torch.zeros_like(mask))
    empty.backward()
    assert empty.item() == 0
    assert verdict.grad is not None
    assert not verdict.grad.any()


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (40, 52), (5, 7)])
def test_a_discriminator_of_any_size_of_map_draws_from_its_generator_alone(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    judge = Discriminator(3, 4, rng(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(judge.state_dict(), Discriminator(3, 4, rng(1)).state_dict())
    maps = torch.rand(2, 3, *size)
    assert judge(maps).shape == (2, *size)
    assert sum(p.numel() for p in judge.parameters()) == sum(
        16 * a * b + b for a, b in [(3, 4), (4, 8), (8, 16), (16, 32), (32, 1)]
    )


# ── Whom a term moves ────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_term_moves_its_own_player() -> None:
    of = domains(3, 4)
    network = model(of)
    made = prepared(of, network)
    terms = made.step(network, drawn(of, network, made), rng())
    for name, term in terms.items():
        of_network, of_judges = gradients(network, term), gradients(made, term)
        assert bool(of_network) == (name != "discriminator"), name
        assert bool(of_judges) == (name == "discriminator"), name
    both = gradients(made, terms["discriminator"])
    assert {n.split(".")[1] for n in both} == {"0", "1"}


def test_the_gradients_have_the_right_sign() -> None:
    """A step down the network's term makes its maps look more real; one down the discriminator's, less."""
    of = domains(3)
    network = model(of)
    made = prepared(of, network)
    part = drawn(of, network, made)
    labelled = part.label[: part.pool] < NOT_LABELLED

    def realness() -> float:
        with torch.no_grad():
            p = network(part.image[: part.pool], "a").softmax(1) * labelled[:, None]
            return float(made.discriminators[0](p)[labelled].sigmoid().mean())

    def after(module: nn.Module, name: str, rate: float) -> float:
        before = {n: v.clone() for n, v in module.state_dict().items()}
        moved = gradients(module, made.step(network, part, rng())[name])
        length = torch.cat([g.flatten() for g in moved.values()]).norm()
        with torch.no_grad():
            for n, p in module.named_parameters():
                if n in moved:
                    p -= rate * moved[n] / length
        score = realness()
        module.load_state_dict(before)
        return score

    first = realness()
    assert after(network, "adversarial", 1e-3) > first + 1e-6
    assert after(network, "semi_adversarial", 1e-3) > first - 1e-3
    assert after(made, "discriminator", 1e-2) < first - 1e-6


# ── What the discriminator may see ───────────────────────────────────────────────────────────────────────────────────


def test_void_is_no_giveaway() -> None:
    """What the network says of void, of padding and of what nobody has labelled reaches no discriminator; the
    maps of the network and of people have the same holes."""
    of = domains(3)
    network = model(of)
    made = prepared(of, network)
    part = drawn(of, network, made)
    maps: list[Tensor] = []
    made.discriminators[0].register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0].detach()))
    made.step(network, part, rng())
    alone, pair, pool, believed = maps
    guess, truth = pair.chunk(2)
    assert torch.equal(alone, guess)
    label = part.label[part.has_label]  # one row of the pool has an answer
    assert not guess.movedim(1, -1)[label >= NOT_LABELLED].any()
    assert not truth.movedim(1, -1)[label >= NOT_LABELLED].any()
    torch.testing.assert_close(guess.sum(1), (label < NOT_LABELLED).float())
    assert torch.equal(truth.sum(1), (label < NOT_LABELLED).float())
    for shown in (pool, believed):
        torch.testing.assert_close(shown.sum(1), (part.label[part.pool :] != VOID).float())


def test_void_never_enters() -> None:
    of = domains(3)
    network = model(of)
    made = prepared(of, network)
    part = drawn(of, network, made)
    void = torch.full_like(part.label, VOID)
    terms = made.step(network, relabelled(part, void, network), rng())
    assert all(t.item() == 0 for t in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    assert not any(p.grad.any() for p in [*network.parameters(), *made.parameters()] if p.grad is not None)


# ── The method's idea ────────────────────────────────────────────────────────────────────────────────────────────────


def layouts(count: int, seed: int) -> Tensor:
    """Labels (B,64,64) of a world where 0 lies above a horizon, 1 below it, and nothing else ever happens."""
    horizon = torch.randint(20, 44, (count, 1, 1), generator=rng(seed))
    return (torch.arange(64)[None, :, None] >= horizon).expand(count, 64, 64).to(torch.uint8)


def test_the_discriminator_mends_what_breaks_the_rules_of_the_world() -> None:
    """All images mislead about one block, as surely as they lead elsewhere. Their evidence alone gives that block up;
    with L_adv the maps obey the world, which the discriminator knows from other maps."""
    truth = layouts(4, 1)
    misled = truth.clone()
    misled[:, :16, 16:48] = 1
    evidence = 0.3 + 0.4 * one_hot(misled, 2)
    maps = evidence.log().requires_grad_()
    assert torch.equal(maps.argmax(1), misled.long())
    judge = Discriminator(2, 8, rng(4))
    players = [torch.optim.Adam([maps], lr=0.05), torch.optim.Adam(judge.parameters(), lr=1e-3, betas=(0.9, 0.99))]
    everywhere = torch.ones(4, 64, 64, dtype=torch.bool)
    for step in range(75):
        with frozen(judge):
            fooling = verdict_loss(judge(maps.softmax(1)), True, everywhere)
        real = one_hot(layouts(4, 100 + step), 2)
        fake, genuine = judge(torch.cat([maps.softmax(1).detach(), real])).chunk(2)
        telling = verdict_loss(fake, False, everywhere) + verdict_loss(genuine, True, everywhere)
        seeing = -(evidence * maps.log_softmax(1)).sum(1).mean()
        for player in players:
            player.zero_grad()
        (seeing + 0.03 * fooling + telling / 2).backward()
        for player in players:
            player.step()
        if step == 24:  # it knows where
            assert fake[:, :16, 16:48].mean() < fake[:, 40:].mean()
    assert (maps.argmax(1) == 0)[:, :16, 16:48].float().mean() > 0.9
    assert (maps.argmax(1) == truth).float().mean() > 0.95


# ── Batches at the edges ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("classes", [(3,), (3, 4)])
def test_weights_of_zero_are_joint_training_bit_for_bit(classes: tuple[int, ...]) -> None:
    of = domains(*classes)
    one, other = model(of), model(of)
    made = method(of, adversarial=0, semi_adversarial=0, semi=0)
    joint = METHODS["joint"](METHODS["joint"].Settings(name="joint"), of)
    assert run(joint, one, of, 3) == run(made, other, of, 3)
    assert made.optimisers() == {}
    assert same(one.state_dict(), other.state_dict())


def test_the_pool_comes_after_the_warm_up_and_not_at_all_without_its_terms() -> None:
    of = domains(3, 4)
    made = method(of, warmup=0.25)
    assert [(p.name, p.start, p.stop, p.unlabelled) for p in made.phases(8)] == [
        ("warm-up", 0, 2, ()),
        ("semi", 2, 8, ("a", "b")),
    ]
    history = run(made, model(of), of, 4)
    assert [set(terms) - {"supervised", "adversarial", "discriminator"} for terms in history] == [
        set(),
        *[{"semi", "semi_adversarial"}] * 3,
    ]
    assert [p.unlabelled for p in method(of, semi=0, semi_adversarial=0).phases(8)] == [()]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_domains_trains(count: int) -> None:
    of = domains(*[3, 4, 2][:count])
    network = model(of)
    made = method(of)
    history = run(made, network, of, 3, train_settings(batch_size=max(2, count)))
    assert len(made.discriminators) == count
    assert all(math.isfinite(v) for terms in history for v in terms.values())


@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_equal_one_batch_however_the_labels_lie(parts: int) -> None:
    of = domains(3, 4)
    network = model(of)
    made = prepared(of, network)
    whole = drawn(of, network, made, batch_size=8, unlabelled_batch_size=8)
    expected = {n: t.item() for n, t in made.step(network, whole, rng()).items()}
    assert in_parts(made, network, whole, parts) == pytest.approx(expected, rel=1e-4)
