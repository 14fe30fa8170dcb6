"""The optimiser, its schedules, and optimisers of a method's own."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers
import pytest
import torch
from ondisk import (
    Stop,
    assert_same_run,
    metrics_of,
    stop_at,
)
from torch import Tensor, nn
from variants import captured, small

from fewmask.config import AdamSettings, OptimiserSettings
from fewmask.data.batch import Batch, Phase
from fewmask.data.domain import Domain
from fewmask.engine import fit
from fewmask.engine.checkpoint import load_state
from fewmask.engine.fit import NonFiniteError, train
from fewmask.engine.optimiser import Optimisers, build_optimiser, rate_factor, set_rate
from fewmask.methods import METHODS, SETTINGS
from fewmask.methods.common.base import Method, OwnOptimiser
from fewmask.models.universal import UniversalSegmenter
from fewmask.runs import RunFolder

ONE = [Phase("train", 0, 10, ("a",))]


def factors(phases: list[Phase], **settings: Any) -> list[float]:
    return [rate_factor(OptimiserSettings(**settings), s, phases) for s in range(phases[-1].stop)]


@pytest.mark.parametrize(
    ("settings", "closed"),
    [
        ({"schedule": "poly", "power": 0.9}, lambda s: (1 - s / 10) ** 0.9),
        ({"schedule": "poly", "power": 2}, lambda s: (1 - s / 10) ** 2),
        ({"schedule": "cosine"}, lambda s: 0.5 * (1 + math.cos(math.pi * s / 10))),
        ({"schedule": "constant"}, lambda s: 1.0),
        ({"schedule": "constant", "warmup": 0.4}, lambda s: min((s + 1) / 4, 1)),
        ({"schedule": "poly", "power": 1, "warmup": 0.4}, lambda s: (s + 1) / 4 if s < 4 else 1 - (s - 4) / 6),
        ({"schedule": "cosine", "warmup": 1.0}, lambda s: (s + 1) / 10),
    ],
)
def test_schedules_have_their_closed_forms(settings: dict[str, Any], closed: Callable[[int], float]) -> None:
    assert factors(ONE, **settings) == pytest.approx([closed(s) for s in range(10)])


def test_a_schedule_runs_over_all_phases_up_to_one_that_restarts_it() -> None:
    phases = [Phase("a", 0, 3, ()), Phase("b", 3, 6, ()), Phase("c", 6, 10, (), restart=True), Phase("d", 10, 12, ())]
    first = [1 - s / 6 for s in range(6)]
    second = [1 - s / 6 for s in range(6)]
    assert factors(phases, schedule="poly", power=1) == pytest.approx(first + second)
    warm = factors(phases, schedule="constant", warmup=0.5)
    assert warm == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1] * 2)


def test_a_rate_is_never_above_its_peak_nor_zero_before_the_end() -> None:
    for schedule in ("poly", "cosine", "constant"):
        for warmup in (0.0, 0.05, 0.5, 1.0):
            assert all(0 < f <= 1 for f in factors(ONE, schedule=schedule, warmup=warmup))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_each_group_has_its_own_peak(name: str) -> None:
    one, other = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    settings = OptimiserSettings(name=name, lr=0.1, head_lr=0.4, weight_decay=0.03, momentum=0.8)  # type: ignore[arg-type]
    optimiser = build_optimiser(settings, [one], [other])
    set_rate(optimiser, 0.5)
    assert [g["lr"] for g in optimiser.param_groups] == [0.05, 0.2]
    assert [g["weight_decay"] for g in optimiser.param_groups] == [0.03, 0.03]
    assert [g["params"] for g in optimiser.param_groups] == [[one], [other]]
    if name == "sgd":
        assert [(g["momentum"], g["nesterov"]) for g in optimiser.param_groups] == [(0.8, True)] * 2


def test_sgd_without_momentum_is_plain_gradient_descent() -> None:
    weight = nn.Parameter(torch.tensor([2.0]))
    settings = OptimiserSettings(name="sgd", lr=0.1, momentum=0, weight_decay=0)
    optimiser = build_optimiser(settings, [weight], [])
    (weight**2).sum().backward()
    optimiser.step()
    assert weight.item() == pytest.approx(2 - 0.1 * 4)


def test_adamw_moves_by_its_rate_and_decays() -> None:
    """The first step of Adam is the rate times the gradient's sign, whatever its size."""
    weights = [nn.Parameter(torch.tensor([v])) for v in (2.0, -3.0)]
    optimiser = build_optimiser(OptimiserSettings(lr=0.1, head_lr=0.2, weight_decay=0.5), weights[:1], weights[1:])
    set_rate(optimiser, 1.0)
    sum((w**2).sum() for w in weights).backward()  # type: ignore[union-attr]
    optimiser.step()
    assert weights[0].item() == pytest.approx(2 * (1 - 0.1 * 0.5) - 0.1, rel=1e-5)
    assert weights[1].item() == pytest.approx(-3 * (1 - 0.2 * 0.5) + 0.2, rel=1e-5)


class Owner(METHODS["joint"]):  # type: ignore[misc]
    """A method with a network of its own."""

    def __init__(self, settings: Any, domains: Any) -> None:
        super().__init__(settings, domains)
        self.own = nn.Linear(3, 2)

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        terms = super().step(model, batch, rng)
        return {**terms, "own": self.own(batch.image.float().mean((2, 3)) / 255).square().mean()}


class Claiming(Owner):
    """It moves that network by itself, and has a second segmenter, which it leaves to the run's optimiser."""

    adam = AdamSettings(lr=0.1, schedule="constant", clip_norm=1e-3)

    def prepare(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        self.second = copy.deepcopy(model)

    def optimisers(self) -> dict[str, OwnOptimiser]:
        return {"own": OwnOptimiser(list(self.own.parameters()), self.adam)}

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        terms = super().step(model, batch, rng)
        return terms if batch.step else {"supervised": terms["supervised"]}  # it begins later


OWNERS = {"owner": Owner, "claiming": Claiming}


def of_class(kind: type[Method], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "build", lambda settings, domains, steps: kind(settings, domains))


class Drawing(METHODS["joint"]):  # type: ignore[misc]
    """It draws a number in every call."""

    numbers: dict[str, float]

    def __init__(self, settings: Any, domains: Any) -> None:
        super().__init__(settings, domains)
        self.numbers = {}

    def _draw(self, call: str, rng: torch.Generator) -> None:
        self.numbers[call] = float(torch.rand((), generator=rng))

    def prepare(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        self._draw("prepare", rng)

    def begin(self, phase: Phase, model: UniversalSegmenter, rng: torch.Generator) -> None:
        self._draw("begin", rng)

    def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        self._draw(f"step {batch.step}", rng)
        return super().step(model, batch, rng)  # type: ignore[no-any-return]

    def after_step(self, model: UniversalSegmenter, rng: torch.Generator) -> None:
        self._draw(f"after {len(self.numbers)}", rng)


def test_no_two_calls_of_a_method_draw_the_same_and_steps_of_two_processes_neither(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_class(Drawing, monkeypatch)
    monkeypatch.setattr(fit, "evaluate", lambda *_, **__: {"domains": {}, "avg_miou": None})
    made = captured(monkeypatch)
    train(small(data, "joint", steps=2), tmp_path / "first")
    monkeypatch.setattr(fit.distributed, "rank", lambda: 1)
    train(small(data, "joint", steps=2), tmp_path / "second")
    first, second = (training.method.numbers for training in made)
    assert len(first) == 6
    assert len(set(first.values())) == 6
    # Prototypes, a new network, a memory: what all processes have is equal in all of them.
    assert {call for call in first if first[call] != second[call]} == {"step 0", "step 1"}
    assert not {second["step 0"], second["step 1"]} & set(first.values())


@pytest.mark.parametrize("name", [*METHODS, *OWNERS])
def test_every_parameter_is_in_exactly_one_group(
    name: str, data: Path, domains: dict[str, Domain], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in OWNERS:
        of_class(OWNERS[name], monkeypatch)
    settings = small(data, "joint" if name in OWNERS else name)
    made = fit._Fit(settings, RunFolder(tmp_path / "run"), domains, torch.device("cpu"), lambda event: None, None)
    encoder, rest = ([id(p) for p in g["params"]] for g in made.optimisers.main.param_groups)
    claimed = [id(p) for own in made.method.optimisers().values() for p in own.parameters]
    assert len({*encoder, *rest, *claimed}) == len(encoder) + len(rest) + len(claimed)
    # A teacher's are no optimiser's.
    assert {*encoder, *rest, *claimed} == {id(p) for p in made.training.parameters() if p.requires_grad}
    segmenters = [m for m in made.training.modules() if isinstance(m, UniversalSegmenter)]
    assert set(encoder) == {id(p) for s in segmenters for p in s.encoder.parameters() if p.requires_grad}
    peaks = [g["peak"] for g in made.optimisers.main.param_groups]
    assert peaks == [settings.train.optimiser.lr, settings.train.optimiser.head_lr]
    if name in OWNERS:
        own = {id(p) for p in made.method.own.parameters()}
        assert own == set(claimed) if claimed else own <= set(rest)


@pytest.mark.parametrize("name", OWNERS)
def test_a_network_of_the_method_is_trained_saved_and_resumed(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_class(OWNERS[name], monkeypatch)
    # It draws its weights from the global generator, which belongs to the test here.
    settings = small(data, "joint", steps=4, checkpoint_every=2)
    torch.manual_seed(0)
    train(settings, tmp_path / "whole")
    torch.manual_seed(0)
    with pytest.raises(Stop):
        train(settings, tmp_path / "run", stop_at(3))
    train(settings, tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    one, other = (load_state(RunFolder(tmp_path / n).state)["method"] for n in ("whole", "run"))
    assert helpers.same(one, other)
    terms = [line["own"] for line in metrics_of(tmp_path / "run") if "own" in line]
    assert terms[-1] < terms[0]


def test_an_optimiser_of_the_methods_own_has_its_own_rate_schedule_and_clipping(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_class(Claiming, monkeypatch)
    made = captured(monkeypatch)
    norms: list[dict[str, float]] = []
    values: list[Tensor] = []
    clip = Optimisers.clip

    def looking(self: Optimisers) -> dict[str, Tensor]:
        before = clip(self)
        after = {"own": made[0].method.own.parameters(), "main": made[0].model.parameters()}
        left = {n: nn.utils.get_total_norm([p.grad for p in ps if p.grad is not None]) for n, ps in after.items()}
        norms.append({n: float(left[n] / before[n]) for n in before})
        values.append(made[0].method.own.weight.detach().clone())
        return before

    monkeypatch.setattr(Optimisers, "clip", looking)
    train(small(data, "joint", steps=3, optimiser={"power": 1}), tmp_path / "run")
    assert [sorted(ratios) for ratios in norms] == [["main"], ["main", "own"], ["main", "own"]]
    assert all(ratios["main"] == pytest.approx(1) for ratios in norms)
    assert all(ratios["own"] < 0.9 for ratios in norms[1:])
    # Adam's first step is its rate, however small the gradient; without a gradient there is none.
    assert torch.equal(values[0], values[1])
    torch.testing.assert_close((values[2] - values[1]).abs(), torch.full((2, 3), 0.1), rtol=1e-2, atol=0)
    (own,) = load_state(RunFolder(tmp_path / "run").state)["optimisers"]["own"]["param_groups"]
    assert (own["lr"], own["betas"]) == (0.1, (0.5, 0.999))
    logged = [line["lr"] for line in metrics_of(tmp_path / "run") if "lr" in line]
    assert logged == pytest.approx([5e-4 * f for f in (1, 2 / 3, 1 / 3)])


def test_a_broken_gradient_names_the_optimiser(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaking(Claiming):
        def step(self, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
            terms = super().step(model, batch, rng)
            return {**terms, "odd": (self.own.weight.sum() * 0).sqrt()}

    of_class(Breaking, monkeypatch)
    with pytest.raises(NonFiniteError, match=r"step 0: the gradient's norm is nan in 'own'; nothing was updated"):
        train(small(data, "joint", steps=3), tmp_path / "run")


@pytest.mark.parametrize("wrong", ["twice", "the model's", "frozen"])
def test_what_a_method_cannot_claim(wrong: str, domains: dict[str, Domain]) -> None:
    network = helpers.model(domains)
    method = Claiming(SETTINGS["joint"](name="joint"), domains)
    method.prepare(network, torch.Generator())
    (own,) = method.optimisers().values()
    claims = {"one": own, "other": own} if wrong == "twice" else {"one": own}
    if wrong == "the model's":
        claims = {"one": own._replace(parameters=list(network.parameters()))}
    if wrong == "frozen":
        method.own.requires_grad_(False)
    method.optimisers = lambda: claims  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="one parameter" if wrong == "twice" else "not the method's, or frozen"):
        Optimisers(OptimiserSettings(), network, method)


def test_the_rates_of_a_run_follow_its_phases(data: Path, tmp_path: Path) -> None:
    train(small(data, "fine-tune", steps=4, optimiser={"lr": 0.001, "power": 1}), tmp_path / "run")
    logged = [(line["phase"], line["lr"]) for line in metrics_of(tmp_path / "run") if "lr" in line]
    assert [p for p, _ in logged] == ["a", "a", "b", "b"]
    assert [r for _, r in logged] == pytest.approx([0.001, 0.0005, 0.001, 0.0005])
