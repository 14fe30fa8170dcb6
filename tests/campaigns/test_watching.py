"""A campaign that waits for people's answers and goes on by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import campaigns
import pytest
from campaigns import BY_CHANCE, SQUARES, assert_same_campaign, questions_of, settings, settings_of
from command import Fewmask, is_refused
from ondisk import environment, write_config

from fewmask.annotation.ledger import Ledger
from fewmask.campaigns import campaign, watching
from fewmask.config import Config
from fewmask.engine.run import load_domains
from fewmask.files import hold, is_held
from fewmask.runs import RunFolder
from fewmask.stopping import Stopped

ROUNDS = {"annotator": "people", "first": BY_CHANCE, "ask": SQUARES, "rounds": 2}


def skip_what_nobody_knows(config: Config, run: Path) -> None:
    domains = load_domains(config)
    unknown = [q for q in questions_of(run, open_only=True) if not domains[q.domain].source.has_mask(q.stem)]
    campaigns.skip(run, unknown)


def watch(config: Config, run: Path, tell: Callable[[str], None]) -> dict[str, object]:
    return watching.wait_and_go_on(run, config, lambda: campaign(config, run), campaign(config, run), tell)


@pytest.fixture
def sleep(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Puts a function in the place of each pause between two looks at the ledger."""

    def put(pause: Callable[[], None]) -> None:
        monkeypatch.setattr(watching.time, "sleep", lambda seconds: pause())

    return put


def test_it_goes_on_when_enough_is_answered_until_the_end(
    data: Path, tmp_path: Path, sleep: Callable[[Callable[[], None]], None]
) -> None:
    config, run, other = settings(data, domains=["a"], labelled=0, **ROUNDS), tmp_path / "run", tmp_path / "other"
    lines, open_at_pauses = list[str](), list[int]()

    def answer_some() -> None:
        """One question is answered between two looks."""
        assert is_held(RunFolder(run).watch_lock)
        open_at_pauses.append(len(questions_of(run, open_only=True)))
        skip_what_nobody_knows(config, run)
        if questions_of(run, open_only=True):
            campaigns.paint(config, run, tmp_path / f"q{len(open_at_pauses)}", slice(0, 1))

    sleep(answer_some)
    assert watch(config, run, lines.append)["state"] == "done"
    expected = ("Round 1 of 2 waits", "Round 1 of 2 goes on", "Round 2 of 2 waits", "Round 2 of 2 goes on")
    assert len(lines) == len(expected) and all(map(str.startswith, lines, expected)), lines
    assert all(open_at_pauses)  # no pause once all is answered
    assert not is_held(RunFolder(run).watch_lock)

    # The same campaign by hand.
    while campaign(config, other)["state"] == "waiting":
        skip_what_nobody_knows(config, other)
        number = len(RunFolder(other).read_campaign().history)
        while questions_of(other, open_only=True):
            campaigns.paint(
                config, other, tmp_path / f"o{number}-{len(questions_of(other, open_only=True))}", slice(0, 1)
            )
    assert_same_campaign(run, other)


def test_a_look_reads_no_question_unless_there_are_new_answers(
    data: Path, tmp_path: Path, sleep: Callable[[Callable[[], None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = settings(data, domains=["a"], labelled=0, **ROUNDS), tmp_path / "run"
    read, pauses, questions = list[int](), list[int](), Ledger.questions

    def counted(self: Ledger, *arguments: object, **options: object) -> object:
        read.append(len(pauses))
        return questions(self, *arguments, **options)  # type: ignore[arg-type]

    def pause() -> None:
        pauses.append(1)
        if len(pauses) == 1:
            monkeypatch.setattr(Ledger, "questions", counted)
        if len(pauses) == 10:
            monkeypatch.setattr(Ledger, "questions", questions)
            os.kill(os.getpid(), signal.SIGTERM)

    sleep(pause)
    with pytest.raises(Stopped, match=r"stopped while round 1 of 2 waits; the same command goes on"):
        watch(config, run, print)
    assert read == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_waiting_and_leaves_the_run_as_it_was(
    data: Path, tmp_path: Path, sleep: Callable[[Callable[[], None]], None], number: signal.Signals
) -> None:
    config, run = settings(data, domains=["a"], labelled=0, **ROUNDS), tmp_path / "run"
    waiting = campaign(config, run)
    before = campaigns.files_of(run)
    sleep(lambda: os.kill(os.getpid(), number))
    with pytest.raises(Stopped, match="stopped while round 1 of 2 waits"):
        watch(config, run, print)
    assert campaigns.files_of(run) == before
    assert not is_held(RunFolder(run).watch_lock)
    assert campaign(config, run) == waiting


def test_a_second_watcher_and_a_ledger_that_is_gone_are_refused(
    data: Path, tmp_path: Path, sleep: Callable[[Callable[[], None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = settings(data, domains=["a"], labelled=0, **ROUNDS), tmp_path / "run"
    campaign(config, run)
    monkeypatch.setattr(watching, "INTERVAL", 0.01)
    with hold(RunFolder(run).watch_lock, "", ""), pytest.raises(ValueError, match="is being watched by process"):
        watch(config, run, print)
    sleep(RunFolder(run).ledger.unlink)
    with pytest.raises(ValueError, match="missing, and the run has asked"):
        watch(config, run, print)
    assert not RunFolder(run).ledger.exists()


def test_a_campaign_that_waits_for_nobody_is_not_watched(data: Path, tmp_path: Path) -> None:
    config = settings(data, domains=["a"], first=BY_CHANCE, ask=SQUARES, rounds=1)
    assert watch(config, tmp_path / "run", pytest.fail)["state"] == "done"
    assert not RunFolder(tmp_path / "run").watch_lock.exists()


def test_several_processes_do_not_wait(
    data: Path, tmp_path: Path, fewmask: Fewmask, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(tmp_path / "config.yaml", settings_of(data, domains=["a"], labelled=0, **ROUNDS))
    monkeypatch.setenv("WORLD_SIZE", "2")
    is_refused(fewmask("campaign", config, "--watch", "--out", tmp_path / "run"), "--watch: waits in one process")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_watcher_that_was_killed_goes_on_with_what_was_answered_meanwhile(data: Path, tmp_path: Path) -> None:
    plain, run = settings_of(data, domains=["a"], labelled=0, **ROUNDS), tmp_path / "run"
    file, config = write_config(tmp_path / "config.yaml", plain), settings(data, domains=["a"], labelled=0, **ROUNDS)
    command = [sys.executable, "-m", "fewmask.cli", "campaign", str(file), "--out", str(run), "--watch"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment())

    def hear(watcher: subprocess.Popen[str], words: str) -> None:
        assert watcher.stderr is not None
        assert any(words in line for line in watcher.stderr)

    def answer(name: str) -> None:
        skip_what_nobody_knows(config, run)
        campaigns.paint(config, run, tmp_path / name)

    watcher = start()
    hear(watcher, "Round 1 of 2 waits for answers")
    watcher.kill()
    watcher.communicate()
    answer("q1")
    watcher = start()
    hear(watcher, "Round 2 of 2 waits for answers")  # the first one had nothing to wait for
    watcher.send_signal(signal.SIGINT)
    assert "stopped while round 2 of 2 waits" in watcher.communicate()[1]
    assert watcher.returncode == 1
    watcher = start()
    hear(watcher, "Round 2 of 2 waits for answers")
    answer("q2")
    hear(watcher, "Round 2 of 2 goes on: enough is answered.")
    watcher.communicate()
    assert watcher.returncode == 0
    assert RunFolder(run).read_campaign().state == "done"
