"""Runs that are stopped or killed and gone on with are bit for bit those that were not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ondisk import (
    Stop,
    assert_same_run,
    plain,
    run_python,
    stop_at,
    weights_of,
    write_config,
)
from variants import QUICK, VARIANTS, small

from fewmask.config import Config
from fewmask.engine.fit import ProgressEvent, train
from fewmask.methods import METHODS, parse_config
from fewmask.runs import RunFolder

STEPS = 4


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
    evaluations = []

    def observe(event: ProgressEvent) -> None:
        evaluations.append(event.stage == "evaluate")
        if sum(evaluations) == nth and evaluations[-1]:
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
