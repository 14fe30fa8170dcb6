"""Ctrl-C and SIGTERM: the step is ended and saved, the message says where the same command goes on, and it does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import campaigns
import pytest
from ondisk import assert_same_run, environment, metrics_of, plain, run_python, two_domains, write_config

from fewmask import stopping
from fewmask.campaigns import campaign
from fewmask.engine import fit, pool
from fewmask.engine.checkpoint import load_state
from fewmask.engine.fit import ProgressEvent, train
from fewmask.methods import parse_config
from fewmask.runs import RunFolder
from fewmask.stopping import Stopped


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_domains(tmp_path_factory.mktemp("data"), train=6, pool=2)


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    """As in a terminal, also where the tests run as a background job, and unchanged at the end."""
    before = {one: signal.getsignal(one) for one in stopping.SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is before[signal.SIGTERM]
    for one, handler in before.items():
        signal.signal(one, handler)


def small(data: Path, **changes: Any) -> dict[str, Any]:
    return plain(data, "joint", **{"steps": 6, "checkpoint_every": 100, "evaluate_every": 2, **changes})


class Sends:
    """An observer that sends this process a signal when it gets the nth event of a kind."""

    def __init__(self, nth: int, evaluates: bool = False, number: int = signal.SIGINT) -> None:
        self.left, self.evaluates, self.number = nth, evaluates, number

    def __call__(self, event: ProgressEvent) -> None:
        self.left -= event.stage.endswith("evaluate") == self.evaluates
        if self.left == 0:
            self.left = -1
            os.kill(os.getpid(), self.number)


# ── The wish itself ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_first_signal_is_a_wish_and_the_second_is_what_it_was() -> None:
    with stopping.defer_signals():
        assert not stopping.stop_requested()
        signal.raise_signal(signal.SIGTERM)
        assert stopping.stop_requested()
        with pytest.raises(KeyboardInterrupt) as raised:
            signal.raise_signal(signal.SIGINT)
        assert raised.type is KeyboardInterrupt
    assert not stopping.stop_requested()


def test_a_wish_between_two_runs_reaches_the_second() -> None:
    with stopping.defer_signals():
        with stopping.defer_signals():
            signal.raise_signal(signal.SIGINT)
        with stopping.defer_signals():
            assert stopping.stop_requested()


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stopping.defer_signals():
        signal.raise_signal(signal.SIGINT)
        assert not stopping.stop_requested()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, signal.default_int_handler)


# ── Trainings ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("workers", "number"), [(0, signal.SIGINT), (2, signal.SIGTERM)])
def test_a_training_stopped_after_every_step_is_bit_for_bit_the_one_that_was_not(
    workers: int, number: int, data: Path, tmp_path: Path
) -> None:
    settings = parse_config(small(data, steps=4, workers=workers))
    for step in range(1, 4):
        with pytest.raises(Stopped, match=rf"stopped after step {step} of 4, which is saved; .* step {step + 1}$"):
            train(settings, tmp_path / "run", Sends(1, number=number))
        assert load_state(RunFolder(tmp_path / "run").state)["step"] == step
    train(settings, tmp_path / "run")
    train(settings, tmp_path / "reference")
    assert_same_run(tmp_path / "reference", tmp_path / "run")
    assert [line["step"] for line in metrics_of(tmp_path / "run") if "validation" in line] == [2, 4]


@pytest.mark.parametrize(("nth", "step", "onward"), [(1, 2, "validation"), (7, 4, "validation"), (13, 6, "scores")])
def test_a_training_stopped_in_an_evaluation_goes_on_with_it(
    nth: int, step: int, onward: str, data: Path, tmp_path: Path
) -> None:
    """Of 2 domains with 2 images each: 4 moments a validation, one an image."""
    settings, events = parse_config(small(data)), []
    train(settings, tmp_path / "reference", events.append)
    each = sum(m.stage == "evaluate" for m in events) // 4
    nth = 1 + (nth // 6) * each if onward == "validation" else 3 * each + 1
    with pytest.raises(Stopped, match=rf"stopped after step {step} of 6, which is saved; .* its {onward}$"):
        train(settings, tmp_path / "run", Sends(nth, evaluates=True))
    assert load_state(RunFolder(tmp_path / "run").state)["step"] == step
    assert [line["step"] for line in metrics_of(tmp_path / "run") if "loss" in line] == list(range(1, step + 1))
    train(settings, tmp_path / "run")
    assert_same_run(tmp_path / "reference", tmp_path / "run")
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "reference")


def test_the_state_is_saved_by_time_as_well_as_by_steps(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step takes two minutes, on this clock."""
    saved: list[int] = []
    real, now = fit.save_state, [0.0]

    def clock() -> float:
        now[0] += 1e-6  # rates are divided by it
        return now[0]

    def ticks(event: ProgressEvent) -> None:
        now[0] += 120 * (event.stage != "evaluate")

    def record(path: Path, state: dict[str, Any], *more: Any) -> None:
        saved.append(state["step"])
        real(path, state, *more)

    monkeypatch.setattr(fit.time, "monotonic", clock)
    monkeypatch.setattr(fit, "save_state", record)
    train(parse_config(small(data, steps=8, evaluate_every=0)), tmp_path / "default", ticks)
    assert saved == [4, 7, 8]
    saved.clear()
    train(parse_config(small(data, evaluate_every=0, checkpoint_minutes=None)), tmp_path / "never", ticks)
    assert saved == [6]
    saved.clear()
    train(parse_config(small(data, evaluate_every=0, checkpoint_minutes=0.5)), tmp_path / "often", ticks)
    assert saved == [2, 3, 4, 5, 6]


# Forks a process for each moment, so that the imports are paid once. A child that was stopped says where, and the
# state on the disk must be of that step.
STOPPED = """
import os, random, signal, sys, time
from pathlib import Path
from fewmask.engine.checkpoint import load_state
from fewmask.engine.fit import train
from fewmask.methods import read_config
from fewmask.stopping import Stopped, exit_on_signal

settings, folder, random = read_config(Path(sys.argv[1])), Path(sys.argv[2]), random.Random(int(sys.argv[4]))
stops, steps = int(sys.argv[3]), []
signal.signal(signal.SIGINT, signal.default_int_handler)
while not (folder / "summary.json").exists():
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        code = 1
        try:
            with exit_on_signal():
                train(settings, folder)
            code = 0
        except Stopped as end:
            print(end, flush=True)
            code = 3
        os._exit(code)
    if len(steps) < stops:
        log = folder / "metrics.jsonl"
        lines = lambda: log.read_bytes().count(b"\\n") if log.exists() else 0
        start = lines()
        while lines() <= start and os.waitpid(child, os.WNOHANG)[0] == 0:
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.2))
        number, whole = random.choice([signal.SIGINT, signal.SIGTERM]), random.random() < 0.5
        try:
            (os.killpg if whole else os.kill)(child, number)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        except (ProcessLookupError, ChildProcessError):
            break
        assert code in (0, 3), code
        if code == 3:
            steps.append(load_state(folder / "state" / "last.pt")["step"])
            print("state", steps[-1], flush=True)
    else:
        assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_training_stopped_by_signals_at_random_moments_loses_no_step(
    seed: int, workers: int, data: Path, tmp_path: Path
) -> None:
    """SIGINT and SIGTERM, to the main process alone and to all of its group."""
    settings = small(data, steps=40, evaluate_every=7, workers=workers)
    path = write_config(tmp_path / "config.yaml", settings)
    done = run_python(STOPPED, path, tmp_path / "run", 10, seed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    steps = [int(step) for step in re.findall(r"stopped after step (\d+) of 40", done.stdout)]
    assert steps == [int(step) for step in re.findall(r"state (\d+)", done.stdout)]
    assert len(steps) >= 3, done.stdout
    train(parse_config(settings), tmp_path / "reference")
    assert_same_run(tmp_path / "reference", tmp_path / "run")


# ── The command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def started(*arguments: object, torchrun: bool = False) -> subprocess.Popen[str]:
    many = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if torchrun else []
    return subprocess.Popen(
        [sys.executable, *many, "-m", "fewmask", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def waits_for(process: subprocess.Popen[str], file: Path, lines: int = 1) -> None:
    while process.poll() is None and not (file.exists() and file.read_bytes().count(b"\n") >= lines):
        time.sleep(0.01)


def test_a_second_signal_ends_the_command_at_once_and_without_a_traceback(data: Path, tmp_path: Path) -> None:
    """Also where the second comes before the step is done."""
    config = write_config(tmp_path / "c.yaml", small(data, steps=100_000, evaluate_every=0))
    process = started("train", config, "--out", tmp_path / "run")
    waits_for(process, tmp_path / "run" / "metrics.jsonl")
    for _ in range(2):
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("error: ")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_is_stopped_early_at_any_moment_without_a_traceback(
    number: int, data: Path, tmp_path: Path
) -> None:
    """While it imports, reads, builds and begins: 0.2 to 4 s after its start, whatever it does then."""
    config = write_config(tmp_path / "c.yaml", small(data, steps=100_000, evaluate_every=0, workers=2))
    for event in range(12):
        process = started("train", config, "--out", tmp_path / "run")
        time.sleep(1 + 0.25 * event)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
        assert "Traceback" not in err, err
        assert process.returncode in (1, -number)


@pytest.mark.slow
def test_two_processes_stop_after_the_same_step_and_go_on(data: Path, tmp_path: Path) -> None:
    """The signal goes to torchrun, as that of a terminal or of a scheduler does; what it prints of it is its own."""
    settings = small(data, steps=60, evaluate_every=20, workers=1, crop=[64, 64])
    config = write_config(tmp_path / "c.yaml", settings)
    signals = [signal.SIGINT, signal.SIGTERM]
    for number in signals:
        process = started("train", config, "--out", tmp_path / "run", torchrun=True)
        log = tmp_path / "run" / "metrics.jsonl"
        there = log.read_bytes().count(b"\n") if log.exists() else 0
        waits_for(process, log, there + 5)
        process.send_signal(number)
        _, err = process.communicate(timeout=240)
        stopped_after = {int(step) for step in re.findall(r"stopped after step (\d+) of 60", err)}
        assert stopped_after == {load_state(RunFolder(tmp_path / "run").state)["step"]}, err
    for name in ("run", "reference"):
        finish_in_two_processes(config, tmp_path / name)
    assert_same_run(tmp_path / "reference", tmp_path / "run")


def finish_in_two_processes(config: Path, run: Path) -> None:
    """Train to the end. If the processes do not end after the summary is written, the error shows their stacks."""
    with (run.parent / f"{run.name}.log").open("w+") as log:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        process = subprocess.Popen(
            [*command, "-m", "fewmask", "train", str(config), "--out", str(run)],
            stdout=log,
            stderr=log,
            env={**environment(), "PYTHONFAULTHANDLER": "1"},
        )
        while process.poll() is None and not RunFolder(run).summary.exists():
            time.sleep(0.1)
        try:
            code = process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            for child in subprocess.check_output(["pgrep", "-P", str(process.pid)], text=True).split():
                os.kill(int(child), signal.SIGABRT)
            code = process.wait()
        log.seek(0)
        assert code == 0, log.read()


# ── Campaigns ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_campaign_stopped_in_its_trainings_and_looks_is_bit_for_bit_the_one_that_was_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every step, and after every piece of a look; 3 images make a piece here."""
    monkeypatch.setattr(pool, "PIECE", 3)
    made = campaigns.settings_of(data, labelled=1, rounds=2, ask=campaigns.SQUARES, train={"checkpoint_every": 100})
    settings, messages = parse_config(made), []
    for _ in range(20):
        try:
            campaign(settings, tmp_path / "run", Sends(1))
        except Stopped as end:
            messages.append(str(end))
        else:
            break
    assert any("round 1 of 2: " in message and "stopped after step 1 of 2" in message for message in messages)
    looks = [message for message in messages if re.search(r"round 2 of 2: .* stopped after image [36] of 7", message)]
    assert len(looks) == 4
    campaign(settings, tmp_path / "reference")
    campaigns.assert_same_campaign(tmp_path / "reference", tmp_path / "run")
