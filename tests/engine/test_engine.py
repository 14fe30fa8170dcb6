"""The training loop: resuming, non-finite losses, accumulation, schedules, selection of weights.

Shapes: B rows of a batch · K domains.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers
import pytest
import torch
from ondisk import (
    Stop,
    assert_same_run,
    config,
    metrics_of,
    plain,
    run_python,
    stop_at,
    summary_of,
    two_domains,
    weights_of,
    write_config,
)
from torch import Tensor, nn

from fewmask.config import AdamSettings, Config, OptimiserSettings
from fewmask.data.batch import Batch, Phase, mean_counts
from fewmask.data.domain import Domain
from fewmask.engine import fit
from fewmask.engine.checkpoint import load_state
from fewmask.engine.fit import NonFiniteError, ProgressEvent, train
from fewmask.engine.optimiser import Optimisers, build_optimiser, rate_factor, set_rate
from fewmask.engine.run import load_domains, load_model
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.methods import METHODS, SETTINGS, parse_config
from fewmask.methods.common.base import Method, OwnOptimiser
from fewmask.models.universal import UniversalSegmenter
from fewmask.runs import RunFolder

# Every method in every mode that has a state of its own; `pretrain` puts the change of phase inside of the run.
VARIANTS: dict[str, dict[str, Any]] = {
    "supervised": {"name": "supervised", "domain": "a"},
    "joint": {"name": "joint"},
    "fine-tune": {"name": "fine-tune"},
    "entropy-min": {"name": "entropy-min"},
    "univ-cross": {"name": "univ-cross", "pretrain": 0.5},
    "univ-full": {"name": "univ-full", "pretrain": 0.5},
    "univ-full, gate": {"name": "univ-full", "pretrain": 0.5, "private": "gate"},
    "univ-full, one forward": {"name": "univ-full", "pretrain": 0.5, "forward": "joint", "anchor_trains": "encoder"},
    "univ-full, faithful": {"name": "univ-full", "pretrain": 0.5, "mode": "faithful"},
    "univ-full, faithful, PCA": {
        "name": "univ-full",
        "pretrain": 0.5,
        "mode": "faithful",
        "initial_embedding": "pca",
    },
    "univ-teacher": {"name": "univ-teacher", "pretrain": 0.5, "threshold": 0},
    "s4al-plus": {"name": "s4al-plus"},
    "deal": {"name": "deal"},
    "pseudo-label": {"name": "pseudo-label", "begin": 0.25, "end": 0.75},
    "fixmatch": {"name": "fixmatch", "threshold": 0, "ema": None, "labels_in": "train", "forward": "joint"},
    "fixmatch, teacher": {"name": "fixmatch", "threshold": 0, "ema": 0.9, "answers": "student"},
    "unimatch": {"name": "unimatch", "threshold": 0, "ema": None, "begin": 0.25},
    "unimatch, second version": {
        "name": "unimatch",
        "threshold": 0,
        "ema": 0.9,
        "features_weight": 0,
        "complementary": True,
    },
    "s4al": {"name": "s4al", "cold": 0.25, "threshold": 0.3},
    "s4al, replay": {"name": "s4al", "cold": 0.25, "threshold": 0.3, "adaptive": "always", "tail_share": 0.5},
    "hung2018": {"name": "hung2018", "warmup": 0.5, "channels": 4},
    "souly2017": {"name": "souly2017", "side": 8, "channels": 4},
    "cycada": {
        "name": "cycada",
        "channels": 4,
        "translator": {"channels": 4, "blocks": 1, "patch": 16, "discriminator_channels": 4, "history": 3},
    },
    "souly2017, two terms": {"name": "souly2017", "side": 8, "channels": 4, "generator_loss": "non-saturating"},
    "mmd": {"name": "mmd"},
    "adversarial-align": {"name": "adversarial-align", "channels": 4},
    "co-training": {"name": "co-training", "begin": 0.5},
    "co-training, mean": {"name": "co-training", "answers": "mean", "labels_in": "train"},
    "distill": {"name": "distill"},
}
STEPS = 4
# Images of each forward in train mode of a step, where it is not one with the 4 labelled ones alone.
FORWARDS: dict[str, list[list[int]]] = {
    "entropy-min": [[6]] * 4,
    "univ-full, one forward": [[4], [4], [6], [6]],
    "pseudo-label": [[4], [6], [6], [6]],
    "fixmatch": [[6 + 2]] * 4,
    "fixmatch, teacher": [[4, 2]] * 4,
    "unimatch": [[4], [6, 4], [6, 4], [6, 4]],
    "unimatch, second version": [[4, 4]] * 4,
    "s4al": [[4], [4, 2], [4, 2], [4, 2]],
    "hung2018": [[4], [4], [6], [6]],
    "souly2017": [[6, 2]] * 4,
    "cycada": [[4], [], [], [6]],
    "souly2017, two terms": [[6, 2, 2]] * 4,
    "mmd": [[6]] * 4,
    "adversarial-align": [[6]] * 4,
    "co-training": [[4], [4], [6], [6]],
    "co-training, mean": [[2, 6]] * 4,
    "distill": [[6]] * 4,
    "s4al, replay": [[4], [4, 2, 2], [4, 2, 2], [4, 2, 2]],
}
# Those whose loop differs from another's in nothing but the method's arithmetic are left to the slow tests.
SLOW = (
    "univ-full, gate",
    "univ-full, one forward",
    "univ-full, faithful",
    "fixmatch, teacher",
    "unimatch, second version",
    "souly2017, two terms",
    "co-training, mean",
)
QUICK = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in VARIANTS]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_domains(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def domains(data: Path) -> dict[str, Domain]:
    return load_domains(config(data))


def small(data: Path, method: str | dict[str, Any], **changes: Any) -> Config:
    """The smallest network there is; a fifth of the time of a real one."""
    settings = plain(data, method, **changes)
    settings["model"]["encoder"] = helpers.ENCODER
    return parse_config(settings)


def captured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every `_Fit` that is made from here on."""
    made: list[Any] = []
    start = fit._Fit.__init__

    def remember(self: Any, *arguments: Any) -> None:
        start(self, *arguments)
        made.append(self)

    monkeypatch.setattr(fit._Fit, "__init__", remember)
    return made


# ── Resuming ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_method_is_resumed_here() -> None:
    assert {v["name"] for v in VARIANTS.values()} == set(METHODS)


def resumable(data: Path, variant: str, **changes: Any) -> Config:
    return small(data, VARIANTS[variant], **{"steps": STEPS, "checkpoint_every": 3, "evaluate_every": 2, **changes})


@pytest.fixture(scope="session")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    done: dict[str, Path] = {}

    def of(variant: str) -> Path:
        if variant not in done:
            done[variant] = tmp_path_factory.mktemp("uninterrupted")
            train(resumable(data, variant), done[variant])
        return done[variant]

    return of


@pytest.mark.parametrize("variant", QUICK)
def test_a_run_stopped_twice_is_bit_for_bit_the_run_that_was_not(
    variant: str, data: Path, tmp_path: Path, uninterrupted: Callable[[str], Path]
) -> None:
    """Stopped after step 1, gone on with and stopped after step 3: before and behind the change of phase, from
    checkpoints every 3 steps. The slow test below stops after every step."""
    settings = resumable(data, variant)
    for step in (1, 3):
        with pytest.raises(Stop):
            train(settings, tmp_path / "run", stop_at(step))
    train(settings, tmp_path / "run")
    assert_same_run(uninterrupted(variant), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("checkpoint_every", [1, 2])
@pytest.mark.parametrize("step", range(1, STEPS + 1))
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_stopped_once_is_bit_for_bit_the_run_that_was_not(
    variant: str,
    step: int,
    checkpoint_every: int,
    workers: int,
    data: Path,
    tmp_path: Path,
    uninterrupted: Callable[[str], Path],
) -> None:
    settings = resumable(data, variant, checkpoint_every=checkpoint_every, workers=workers)
    with pytest.raises(Stop):
        train(settings, tmp_path / "run", stop_at(step))
    train(settings, tmp_path / "run")
    assert_same_run(uninterrupted(variant), tmp_path / "run")


def test_the_network_before_a_phase_is_kept_also_across_a_stop(
    data: Path, tmp_path: Path, uninterrupted: Callable[[str], Path]
) -> None:
    settings = resumable(data, "univ-full")
    for step in (1, 2, 3):
        with pytest.raises(Stop):
            train(settings, tmp_path / "run", stop_at(step))
    train(settings, tmp_path / "run")
    whole, stopped = (
        RunFolder(folder).phase("pretrain").read_bytes() for folder in (uninterrupted("univ-full"), tmp_path / "run")
    )
    assert whole == stopped != RunFolder(tmp_path / "run").weights.read_bytes()
    assert [p.name for p in (tmp_path / "run" / "phases").iterdir()] == ["pretrain.safetensors"]
    assert not (uninterrupted("joint") / "phases").exists()
    with pytest.raises(ValueError, match="not a path below"):
        RunFolder(tmp_path).phase("../a/b")


def test_loader_processes_change_nothing_also_across_a_stop(
    data: Path, tmp_path: Path, uninterrupted: Callable[[str], Path]
) -> None:
    settings = resumable(data, "univ-full", workers=2)
    with pytest.raises(Stop):
        train(settings, tmp_path / "run", stop_at(3))
    train(settings, tmp_path / "run")
    assert_same_run(uninterrupted("univ-full"), tmp_path / "run")


@pytest.mark.parametrize("nth", [1, 4, 5])
def test_a_stop_while_evaluating(nth: int, data: Path, tmp_path: Path, uninterrupted: Callable[[str], Path]) -> None:
    """The first validation, the last one, and the final look at test: each tells twice, once a domain."""
    heard = []

    def observe(event: ProgressEvent) -> None:
        heard.append(event.stage == "evaluate")
        if sum(heard) == nth and heard[-1]:
            raise Stop

    settings = resumable(data, "joint")
    with pytest.raises(Stop):
        train(settings, tmp_path / "run", observe)
    train(settings, tmp_path / "run")
    assert_same_run(uninterrupted("joint"), tmp_path / "run")


def test_a_finished_run_gives_its_summary_again_and_changes_nothing(data: Path, tmp_path: Path) -> None:
    settings = small(data, "joint", steps=1)
    first = train(settings, tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    assert train(settings, tmp_path / "run", stop_at(1)) == first
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before


def test_training_leaves_the_global_generator_as_it_was(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    train(small(data, "joint", steps=1), tmp_path / "run")
    assert torch.equal(torch.rand(4), expected)


def test_another_seed_is_another_run(data: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        train(small(data, "joint", steps=1).model_copy(update={"seed": seed}), tmp_path / f"{seed}")
    one, other = weights_of(tmp_path / "0"), weights_of(tmp_path / "1")
    assert any(not torch.equal(one[n], other[n]) for n in one)


# Forks a process for each moment, so that the imports are paid once; a child trains and is killed.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from fewmask.engine.fit import train
from fewmask.methods import read_config

settings, folder = read_config(Path(sys.argv[1])), Path(sys.argv[2])
kills = 0
while not (folder / "summary.json").exists():
    child = os.fork()
    if child == 0:
        train(settings, folder)
        os._exit(0)
    if kills < int(sys.argv[3]):
        log = folder / "metrics.jsonl"
        lines = lambda: log.read_bytes().count(b"\\n") if log.exists() else 0
        start = lines()
        while lines() <= start and os.waitpid(child, os.WNOHANG)[0] == 0:
            time.sleep(0.002)
        delay = random.uniform(0, 0.3)
        time.sleep(delay)
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            print("killed after", lines(), "lines and", delay, "s", flush=True)
        except (ProcessLookupError, ChildProcessError):
            print("was done before it was killed", flush=True)
        kills += 1
    else:
        assert os.waitpid(child, 0)[1] == 0
"""


def killed_and_gone_on_with(settings: dict[str, Any], tmp_path: Path, kills: int) -> None:
    settings["model"]["encoder"] = helpers.ENCODER
    path = write_config(tmp_path / "config.yaml", settings)
    done = run_python(KILLED, path, tmp_path / "run", kills)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed after" in done.stdout
    print(done.stdout)
    train(parse_config(settings), tmp_path / "reference")
    assert_same_run(tmp_path / "reference", tmp_path / "run")
    assert not list((tmp_path / "run").rglob(".*.tmp"))


def test_a_run_killed_at_random_moments_is_bit_for_bit_the_run_that_was_not(data: Path, tmp_path: Path) -> None:
    settings = plain(data, VARIANTS["univ-full"], steps=8, checkpoint_every=3, evaluate_every=4)
    killed_and_gone_on_with(settings, tmp_path, kills=2)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("variant", ["joint", "univ-full", "univ-full, faithful"])
def test_a_run_killed_many_times(variant: str, workers: int, data: Path, tmp_path: Path) -> None:
    settings = plain(data, VARIANTS[variant], steps=40, checkpoint_every=3, evaluate_every=7, workers=workers)
    killed_and_gone_on_with(settings, tmp_path, kills=10)


# ── A loss or a gradient that is not finite ──────────────────────────────────────────────────────────────────────────

BROKEN: dict[str, Callable[[Tensor], Tensor]] = {
    "the term 'odd' is nan": lambda zero: zero / zero.detach(),
    "the term 'odd' is inf": lambda zero: zero + math.inf,
    "the gradient's norm is": lambda zero: zero.sqrt(),  # 0, with an infinite gradient
}


@pytest.mark.parametrize(("message", "clip"), [*((m, None) for m in BROKEN), ("the gradient's norm is", 1.0)])
def test_a_non_finite_step_names_itself_and_updates_nothing(
    message: str, clip: float | None, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: dict[str, Any] = {}
    made = captured(monkeypatch)
    univ = METHODS["univ-full"]
    step, broken_at = univ.step, 3

    def breaks(self: Method, model: UniversalSegmenter, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        terms = step(self, model, batch, rng)
        zero = sum((p.sum() for p in model.heads.parameters()), torch.zeros(())) * 0
        odd = zero
        if batch.step == broken_at:
            before["names"] = batch.names
            before["parameters"] = {n: p.detach().clone() for n, p in made[0].training.named_parameters()}
            before["method"] = {n: v.clone() for n, v in self.state_dict().items()}
            before["optimiser"] = optimiser_tensors(made[0].optimisers.main)
            odd = BROKEN[message](zero)
        return {**terms, "odd": odd}

    monkeypatch.setattr(univ, "step", breaks)
    settings = small(data, VARIANTS["univ-full"], steps=6, checkpoint_every=1, optimiser={"clip_norm": clip})
    with pytest.raises(NonFiniteError) as raised:
        train(settings, tmp_path / "run")
    text = str(raised.value)
    assert text.startswith(f"step {broken_at}: {message}")
    assert "nothing was updated" in text
    assert before["names"]
    assert all(name in text for name in before["names"])

    assert helpers.same(before["parameters"], dict(made[0].training.named_parameters()))
    assert helpers.same(before["method"], made[0].method.state_dict())
    assert before["optimiser"].keys() == optimiser_tensors(made[0].optimisers.main).keys()
    assert helpers.same(before["optimiser"], optimiser_tensors(made[0].optimisers.main))

    state = load_state(RunFolder(tmp_path / "run").state)
    assert state["step"] == broken_at
    on_disk = {f"model.{n}": v for n, v in state["model"].items()}
    parameters = {n: v for n, v in before["parameters"].items() if n.startswith("model.")}
    assert helpers.same(parameters, {n: on_disk[n] for n in parameters})
    assert helpers.same(before["method"], state["method"])
    assert [line["step"] for line in metrics_of(tmp_path / "run")] == [1, 2, 3]


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimiser.state_dict()["state"]
    return {f"{i}.{name}": v.clone() for i, own in state.items() for name, v in own.items() if isinstance(v, Tensor)}


# ── One forward; micro-batches ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("variant", QUICK)
def test_the_forwards_of_a_step(variant: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labelled images of all domains go through together, those of the pool with them or, where a method has it so, by
    themselves; and what is refused for batch normalisation goes by these."""
    rows: list[list[int]] = []
    domains_seen: list[set[int]] = []
    forward = fit.Training.forward

    def counting(self: fit.Training, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        rows.append([])
        hook = self.model.encoder.register_forward_hook(
            lambda encoder, inputs, _: rows[-1].append(len(inputs[0])) if encoder.training else None
        )
        domains_seen.append(set(batch.domain.tolist()))
        try:
            return forward(self, batch, rng)
        finally:
            hook.remove()

    monkeypatch.setattr(fit.Training, "forward", counting)
    settings = small(data, VARIANTS[variant], steps=4)
    made = captured(monkeypatch)
    train(settings, tmp_path / "run")
    aligned = variant.startswith("univ-")
    assert rows == FORWARDS.get(variant, [[4], [4], [4, 2], [4, 2]] if aligned else [[4]] * 4)
    (fitted,) = made
    drawn = [next(2 * bool(p.unlabelled) for p in fitted.phases if step < p.stop) for step in range(4)]
    asked = [list(fitted.method.forward_batch_sizes(4, unlabelled)) for unlabelled in drawn]
    # Where translators learn, the network stands still.
    assert [found or wanted for found, wanted in zip(rows, asked, strict=True)] == asked
    if aligned:
        assert domains_seen == [{0, 1}] * 4


def accumulated(
    network: UniversalSegmenter, made: Method, batches: list[Batch], weight: float
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Gradients of a step as the loop makes them, and the means of its terms."""
    training = fit.Training(network, made)
    training.zero_grad()
    counts = mean_counts(batches)
    totals: dict[str, float] = {}
    for batch in batches:
        terms = training(replace(batch, counts=counts), torch.Generator().manual_seed(0))
        (torch.stack(list(terms.values())).sum() * weight).backward()
        for name, term in terms.items():
            totals[name] = totals.get(name, 0) + float(term.detach()) / len(batches)
    return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}, totals


@pytest.mark.parametrize("name", ["joint", "univ-full", "entropy-min", "univ-full, faithful"])
@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_equal_one_batch_however_the_labels_lie(name: str, parts: int) -> None:
    """Some rows are void in a quarter, some wholly, some half labelled: a mean of the parts' means would differ.

    In eval mode, where batch normalisation does not make rows depend on each other.
    """
    of = helpers.domains(3, 4)
    network = helpers.model(of).eval()
    option = VARIANTS[name]
    made = METHODS[option["name"]](SETTINGS[option["name"]].model_validate({**option, **pretrain(option)}), of)
    made.prepare(network, torch.Generator().manual_seed(1))
    phases = made.phases(4)
    made.begin(phases[-1], network, torch.Generator().manual_seed(2))
    settings = helpers.train_settings(batch_size=8, unlabelled_batch_size=4)
    (whole,) = helpers.steps(of, phases, settings, network)[3]
    label = whole.label.clone()
    for row in range(8):
        label[row, : [8, 32, 0, 20][row % 4]] = VOID
        label[row, 24:, : 4 * row] = NOT_LABELLED
    whole = helpers.relabelled(whole, label, network)
    size = len(whole.label) // parts
    split = []
    for part in range(parts):
        rows = slice(part * size, (part + 1) * size)
        owned = list(zip(whole.domain[rows].tolist(), whole.label[rows], strict=True))
        split.append(helpers.batch(owned, whole.image[rows], network, 2, step=3, of=4, phase=whole.phase))
    expected, terms = accumulated(network, made, [whole], 1)
    got, means = accumulated(network, made, split, 1 / parts)
    assert means == pytest.approx(terms, rel=1e-5)
    assert expected.keys() == got.keys()
    for n in expected:
        torch.testing.assert_close(got[n], expected[n], rtol=2e-4, atol=2e-6, msg=lambda m, n=n: f"{n}: {m}")
    # A mean of the parts' own means is something else, so the comparison above can fail.
    unweighted = [accumulated(network, made, [part], 1)[1]["supervised"] for part in split]
    assert sum(unweighted) / parts != pytest.approx(terms["supervised"], rel=1e-4)


def pretrain(option: dict[str, Any]) -> dict[str, float]:
    return {"pretrain": 0.25} if option["name"].startswith("univ") else {}


def test_accumulation_trains(data: Path, tmp_path: Path) -> None:
    summary = train(small(data, "univ-full", steps=3, accumulate=2, unlabelled_batch_size=4), tmp_path / "run")
    assert summary["steps"] == 3
    assert all(math.isfinite(line["loss"]) for line in metrics_of(tmp_path / "run") if "loss" in line)


# ── The optimiser and its schedules ──────────────────────────────────────────────────────────────────────────────────

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
    first, second = (found.method.numbers for found in made)
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
    assert [sorted(found) for found in norms] == [["main"], ["main", "own"], ["main", "own"]]
    assert all(found["main"] == pytest.approx(1) for found in norms)
    assert all(found["own"] < 0.9 for found in norms[1:])
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


# ── Selection on validation; test once ───────────────────────────────────────────────────────────────────────────────


class Counting:
    """A source that writes down which masks it was asked for."""

    def __init__(self, source: Any, events: list[tuple[str, Any]]) -> None:
        self.source, self.events = source, events

    def mask(self, stem: str) -> Any:
        self.events.append(("mask", stem))
        return self.source.mask(stem)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    events: list[tuple[str, Any]] = []

    def counting(settings: Config) -> dict[str, Domain]:
        return {n: replace(d, source=Counting(d.source, events)) for n, d in load_domains(settings).items()}

    monkeypatch.setattr(fit, "load_domains", counting)
    return events


@pytest.mark.parametrize("variant", QUICK)
def test_test_is_looked_at_once_at_the_end_and_the_pool_never(
    variant: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, domains: dict[str, Domain]
) -> None:
    events = counted(monkeypatch)
    train(
        small(data, VARIANTS[variant], steps=4, evaluate_every=1),
        tmp_path / "run",
        lambda event: events.append((event.stage, event.step)),
    )
    last = max(i for i, (what, _) in enumerate(events) if what not in ("mask", "evaluate"))
    reads = [(i, stem) for i, (what, stem) in enumerate(events) if what == "mask"]
    test = [(i, stem) for i, stem in reads if stem.startswith("test")]
    trained = 1 if variant.startswith("supervised") else 2
    assert sorted(stem for _, stem in test) == sorted(trained * ["test0", "test1"])
    assert all(i > last for i, _ in test)
    asked = {stem for _, stem in reads}
    assert not asked & {"train4", "train5"}  # the unlabelled ones
    assert {"val0", "val1"} <= asked


def scripted(monkeypatch: pytest.MonkeyPatch, scores: dict[str, list[float]]) -> list[dict[str, Tensor]]:
    """Validation gives these scores, one after the other; returns the weights that it saw."""
    seen: list[dict[str, Tensor]] = []
    real = fit.evaluate

    def evaluate(model: UniversalSegmenter, domains: dict[str, Domain], split: str, **options: Any) -> dict[str, Any]:
        result = real(model, domains, split, **options)
        if split == "val":
            for name, of in scores.items():
                result["domains"][name]["miou"] = of[len(seen)]
            seen.append({n: v.detach().clone() for n, v in model.state_dict().items()})
        return result

    monkeypatch.setattr(fit, "evaluate", evaluate)
    return seen


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ({"a": [0.1, 0.5, 0.2, 0.3], "b": [0.1, 0.5, 0.2, 0.3]}, 2),
        ({"a": [0.1, 0.2, 0.3, 0.4], "b": [0.1, 0.2, 0.3, 0.4]}, 4),
        ({"a": [0.4, 0.4, 0.4, 0.4], "b": [0.1, 0.1, 0.1, 0.1]}, 1),  # of equals the first
        ({"a": [0.9, 0.2, 0.6, 0.1], "b": [0.1, 0.4, 0.6, 0.1]}, 3),  # the mean over domains counts
    ],
)
def test_the_weights_that_validation_found_best_are_scored_and_kept(
    scores: dict[str, list[float]], chosen: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = scripted(monkeypatch, scores)
    summary = train(small(data, "joint", steps=4, evaluate_every=1), tmp_path / "run")
    assert summary["selected_step"] == chosen
    assert helpers.same(seen[chosen - 1], weights_of(tmp_path / "run"))
    assert [h["step"] for h in summary["validation"]] == [1, 2, 3, 4]
    assert [p.name for p in (tmp_path / "run" / "state").glob("best*")] == [f"best-{chosen}.safetensors"]
    # What was scored on test are these weights.
    of = load_domains(small(data, "joint"))
    again = fit.evaluate(load_model(tmp_path / "run"), of, "test", workers=0, precision="fp32")
    assert again["domains"] == summary["domains"]


def test_a_best_step_that_a_resumed_run_does_not_find_again_is_not_taken(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU a resumed run may differ: the weights kept are those of the step that the state names."""
    settings = small(data, "joint", steps=4, evaluate_every=1, checkpoint_every=2)
    with monkeypatch.context() as patch:
        first = scripted(patch, {n: [0.2, 0.3, 0.9] for n in "ab"})
        with pytest.raises(Stop):
            train(settings, tmp_path / "run", stop_at(3))
    scripted(monkeypatch, {n: [0.1, 0.1] for n in "ab"})
    summary = train(settings, tmp_path / "run")
    assert summary["selected_step"] == 2
    assert helpers.same(first[1], weights_of(tmp_path / "run"))


def test_fine_tuning_shows_what_is_forgotten(data: Path, tmp_path: Path) -> None:
    """Both domains at the end of both phases; only weights that have seen the last domain may be chosen."""
    summary = train(small(data, "fine-tune", steps=6, evaluate_every=2), tmp_path / "run")
    steps = [h["step"] for h in summary["validation"]]
    assert {3, 6} <= set(steps)
    assert all(set(h["miou"]) == {"a", "b"} for h in summary["validation"])
    assert summary["selected_step"] > 3
    assert set(summary["domains"]) == {"a", "b"}
    logged = [line for line in metrics_of(tmp_path / "run") if "validation" in line]
    assert [line["step"] for line in logged] == steps


def test_without_validation_the_last_weights_are_kept_and_a_domain_without_test_is_scored_on_val(
    tmp_path: Path,
) -> None:
    root = two_domains(tmp_path / "data", val=0)
    summary = train(small(root, "joint", steps=2), tmp_path / "run")
    assert summary["validation"] == []
    assert summary["selected_step"] == 2
    assert {d["split"] for d in summary["domains"].values()} == {"test"}

    (root / "a" / "splits" / "val.txt").write_text("test0\n")
    (root / "a" / "splits" / "test.txt").unlink()
    summary = train(small(root, "joint", steps=2), tmp_path / "other")
    assert {n: d["split"] for n, d in summary["domains"].items()} == {"a": "val", "b": "test"}


def test_a_run_without_anything_to_score_still_trains(tmp_path: Path) -> None:
    root = two_domains(tmp_path / "data", val=0, test=0)
    summary = train(small(root, "joint", steps=1), tmp_path / "run")
    assert summary["domains"] == {}
    assert summary["avg_miou"] is None
    assert weights_of(tmp_path / "run")


# ── What an observer hears, and what the run's folder says ───────────────────────────────────────────────────────────


def test_an_observer_hears_every_step_with_its_terms(data: Path, tmp_path: Path) -> None:
    moments: list[ProgressEvent] = []
    train(small(data, VARIANTS["univ-full"], steps=4), tmp_path / "run", moments.append)
    steps = [m for m in moments if m.stage != "evaluate"]
    assert [(m.stage, m.step, m.steps) for m in steps] == [
        ("pretrain", 1, 4),
        ("pretrain", 2, 4),
        ("align", 3, 4),
        ("align", 4, 4),
    ]
    assert set(steps[0].terms) == {"supervised", "anchor"}
    assert set(steps[-1].terms) == {"supervised", "anchor", "cross", "within"}
    assert all(m.loss == sum(m.terms.values()) and m.memory_mib > 0 and m.steps_per_second > 0 for m in steps)
    assert steps[-1].seconds_left == 0
    logged = [line for line in metrics_of(tmp_path / "run") if "loss" in line]
    assert [line["loss"] for line in logged] == [m.loss for m in steps]
    assert "marginal_entropy" in logged[-1]


def test_metrics_are_logged_every_so_often_and_at_the_end(data: Path, tmp_path: Path) -> None:
    train(small(data, "joint", steps=5, log_every=2), tmp_path / "run")
    assert [line["step"] for line in metrics_of(tmp_path / "run") if "loss" in line] == [2, 4, 5]


def test_the_summary_says_what_was_done(data: Path, tmp_path: Path) -> None:
    returned = train(small(data, "joint", steps=1), tmp_path / "run")
    summary = summary_of(tmp_path / "run")
    assert summary == {k: v for k, v in returned.items() if k not in ("seconds", "memory_mib")}
    assert (summary["method"], summary["seed"], summary["steps"]) == ("joint", 0, 1)
    assert summary["labelled"] == {"a": 4, "b": 4}
    assert summary["unlabelled"] == {"a": 2, "b": 2}
    assert set(summary["domains"]["a"]["iou"]) == {"c0", "c1", "c2"}
    assert summary["avg_miou"] == pytest.approx(sum(d["miou"] for d in summary["domains"].values()) / 2)
    assert summary["hardware"]["device"] == "cpu"
    assert summary["versions"]["torch"] == torch.__version__


# ── Batch normalisation needs two values ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("method", "changes", "refused"),
    [
        ("joint", {"batch_size": 1}, True),
        ("joint", {"batch_size": 4, "accumulate": 4, "unlabelled_batch_size": 4}, True),
        ("joint", {"batch_size": 2}, False),
        ("entropy-min", {"batch_size": 1, "unlabelled_batch_size": 1}, False),  # two rows in one forward
        ("univ-full", {"batch_size": 1, "unlabelled_batch_size": 1}, True),  # one of them during the pretraining
        ({"name": "fixmatch", "forward": "joint"}, {"batch_size": 1, "unlabelled_batch_size": 1}, False),
        ("fixmatch", {"batch_size": 2, "unlabelled_batch_size": 1}, True),  # its strong view is alone
        ("unimatch", {"batch_size": 2, "unlabelled_batch_size": 1}, False),
        ("s4al", {"batch_size": 4, "accumulate": 2, "unlabelled_batch_size": 2}, True),
    ],
)
def test_a_single_image_a_micro_batch_is_refused_where_batch_normalisation_has_one_value(
    method: str | dict[str, Any], changes: dict[str, Any], refused: bool, data: Path, tmp_path: Path
) -> None:
    settings = small(data, method, steps=4, **changes)
    if not refused:
        train(settings, tmp_path / "run")
        return
    alone = "batch_size" if settings.train.batch_size == settings.train.accumulate else "unlabelled_batch_size"
    with pytest.raises(ValueError, match=rf"train.{alone}: with one image of 32×32 .* take at least two images"):
        train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()  # the fixed command may use the same folder
    train(small(data, method, steps=1, batch_size=2, unlabelled_batch_size=2), tmp_path / "run")


def test_a_single_image_is_fine_for_a_decoder_without_a_pooled_branch(data: Path, tmp_path: Path) -> None:
    settings = plain(data, "joint", steps=1, batch_size=1, crop=[64, 64])
    settings["model"] = {"encoder": helpers.ENCODER, "decoder": "fpn", "output_stride": 32}
    train(parse_config(settings), tmp_path / "run")
