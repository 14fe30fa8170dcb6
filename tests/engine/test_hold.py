"""One process at a time writes a run: whoever comes second is told who does, and no kill leaves a folder locked."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import campaigns
import pytest
from ondisk import config, environment, metrics_of, plain, run_python, two_domains

from fewmask.annotation.ledger import Ledger
from fewmask.annotation.page.listener import bind_listener
from fewmask.campaigns import campaign
from fewmask.config import Config
from fewmask.engine.fit import ProgressEvent, train
from fewmask.engine.run import begin_run, load_config, open_run
from fewmask.files import hold
from fewmask.methods import parse_config
from fewmask.recipes import Rate, Recipe
from fewmask.recipes.running import run_recipe
from fewmask.runs import RunFolder

ME = rf"is being written by process {os.getpid()} on .+; wait for its end, or give another --out"

# Holds the lock, has a child as a training has loader processes, and tells when both are there. The child itself tells
# it: a forked process lets go of the lock when it first runs, and not before.
HOLDER = """
import os, sys, time
from pathlib import Path
from fewmask.files import hold
with hold(Path(sys.argv[1]), "is being written", "wait"):
    if not os.fork():
        print(os.getpid(), flush=True)
    time.sleep(600)
"""

# Two processes of which the first enters a context, as under torchrun; what each of them has come to, as its code.
TWO = """
import os, sys
from pathlib import Path
import torch.distributed as dist
from fewmask import distributed
from fewmask.files import hold

folder, rank = Path(sys.argv[1]), 1 if os.fork() == 0 else 0
dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)

def attempt(lock):
    with distributed.enter_in_first(hold(lock, "is being written", "wait")):
        (folder / f"inside {lock.parent.name} {rank}").touch()
        distributed.barrier()

message = ""
attempt(folder / "free" / "lock")
try:
    attempt(folder / "held" / "lock")
except ValueError as error:
    message = str(error)
(folder / f"message {rank}").write_text(message)
assert distributed.broadcast_int(7 + rank) == 7
distributed.barrier()
dist.destroy_process_group()
if rank:
    os._exit(0)
os.wait()
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_domains(tmp_path_factory.mktemp("data"), pool=0)


def small(data: Path) -> Config:
    """Two steps of the smallest network."""
    settings = plain(data, steps=2)
    return parse_config(settings)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that holds `tmp_path/run/lock`, and its child's id."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run" / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        yield process, child
        process.kill()
        os.kill(child, 9)


def test_a_kill_ends_it_even_where_a_child_lives_on(holder: tuple[subprocess.Popen[str], int], tmp_path: Path) -> None:
    process, child = holder
    lock = tmp_path / "run" / "lock"
    message = rf"^{tmp_path}/run: is being written by process {process.pid} on .+; go away$"
    with pytest.raises(ValueError, match=message), hold(lock, "is being written", "go away"):
        pass
    process.kill()
    process.wait()
    os.kill(child, 0)  # it is there
    with hold(lock, "is being written", "go away"):
        assert f"process {os.getpid()} on " in lock.read_text()


def test_a_lock_file_means_nothing_by_itself(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("\nprocess 1 on another machine, of long ago and with more to say than is said now" * 9)
    message = rf"busy by process {os.getpid()} on \S+; wait$"
    for _ in range(2):
        with hold(lock, "busy", "wait"), pytest.raises(ValueError, match=message), hold(lock, "busy", "wait"):
            pass
        assert lock.exists()


def test_who_holds_it_may_be_unknown(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with hold(lock, "busy", "wait"):
        lock.write_text("")
        with pytest.raises(ValueError, match="busy by another process; wait"), hold(lock, "busy", "wait"):
            pass


def test_it_is_waited_for_where_that_is_asked(tmp_path: Path) -> None:
    lock, inside = tmp_path / "lock", threading.Event()
    order = []

    def first() -> None:
        with hold(lock, "busy", "wait"):
            inside.set()
            time.sleep(0.2)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    with hold(lock, "busy", "wait", wait=30):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_told_of(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: int, how: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    done = []
    message = f"^{tmp_path}: its file system has no locks"
    with pytest.warns(UserWarning, match=message), hold(tmp_path / "lock", "busy", "wait"):
        done.append(True)
    assert done


def test_another_failure_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: int, how: int) -> None:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="broken disk"), hold(tmp_path / "lock", "busy", "wait"):
        pytest.fail("nothing was held")


def test_under_torchrun_the_first_holds_it_and_all_are_refused_alike(tmp_path: Path) -> None:
    with hold(tmp_path / "held" / "lock", "busy", "wait"):
        done = run_python(TWO, tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.glob("inside *")) == ["inside free 0", "inside free 1"]
    messages = [(tmp_path / f"message {rank}").read_text() for rank in (0, 1)]
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"{tmp_path}/held: is being written by process {os.getpid()} on ")


# ── Runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_second_training_is_refused_while_the_first_goes_on(data: Path, tmp_path: Path) -> None:
    settings, folder = small(data), tmp_path / "run"
    refused = []

    def meanwhile(event: ProgressEvent) -> None:
        if event.step == 1 and event.stage != "evaluate":
            with pytest.raises(ValueError, match=rf"^{folder}: {ME}") as error:
                train(settings, folder)
            refused.append(str(error.value))
            assert load_config(folder) == settings  # readers never ask

    train(settings, folder, meanwhile)
    assert len(refused) == 1
    assert [line["step"] for line in metrics_of(folder) if "loss" in line] == [1, 2]
    with RunFolder(folder).held():
        assert train(settings, folder)["steps"] == 2  # a finished run is only read


def test_a_training_that_fails_lets_go(data: Path, tmp_path: Path) -> None:
    def stop(event: ProgressEvent) -> None:
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        train(small(data), tmp_path / "run", stop)
    assert train(small(data), tmp_path / "run")["steps"] == 2


def test_a_folder_that_became_another_run_meanwhile_is_refused(data: Path, tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", config(data))
    with begin_run(RunFolder(run.folder), config(data, batch_size=2)):
        pass
    with pytest.raises(ValueError, match=r"train\.batch_size: 2 there, 4 here"), begin_run(run, config(data)):
        pytest.fail("it is another's")


def test_what_a_kill_before_the_beginning_leaves_is_no_obstacle(data: Path, tmp_path: Path) -> None:
    for name in (".run.lock", ".fewmask-0123456789abcdef.tmp"):
        (tmp_path / name).touch()
    with begin_run(open_run(tmp_path, config(data)), config(data)):
        assert {p.name for p in tmp_path.iterdir()} == {".run.lock", "config.yaml"}
    (tmp_path / "config.yaml").rename(tmp_path / ".mine")
    with pytest.raises(ValueError, match="not empty and not a run"):
        open_run(tmp_path, config(data))


def test_a_campaign_holds_its_folder_until_it_waits_and_people_answer_meanwhile(data: Path, tmp_path: Path) -> None:
    settings = campaigns.settings(data, annotator="people", rounds=2, ask=campaigns.SQUARES)
    folder, stages = tmp_path / "run", []

    def meanwhile(event: ProgressEvent) -> None:
        if stages or "score pool" not in event.stage:
            return
        stages.append(event.stage)
        with pytest.raises(ValueError, match=rf"^{folder}: {ME}"):
            campaign(settings, folder)
        with Ledger(RunFolder(folder).ledger) as ledger, bind_listener(folder / "page.json"):
            assert ledger.questions() == []

    assert campaign(settings, folder, meanwhile)["state"] == "waiting"
    assert stages
    with RunFolder(folder).held(), Ledger(RunFolder(folder).ledger) as ledger:
        assert ledger.questions(open_only=True)
        with pytest.raises(ValueError, match=ME):
            campaign(settings, folder, enough=True)
    assert campaign(settings, folder, enough=True)["state"] == "done"


def test_recipes_share_a_folder_and_leave_the_row_that_another_runs(data: Path, tmp_path: Path) -> None:
    recipe = Recipe(
        title="t", paper="p", config={"domains": {}}, rows={"one": {}, "two": {}}, expected="nothing",
        rate=Rate(megapixels=1, machine="m", why="w"),
    )  # fmt: skip

    def go_on() -> dict[str, dict[str, object]]:
        rows = run_recipe(recipe, lambda row, seed: small(data), tmp_path, ["one", "two"], [0], "command")
        return {row: summary for row, _, summary in rows}

    with RunFolder(tmp_path / "one-0").held():
        first = go_on()
    assert first["one"]["state"] == "failed"
    assert "one-0: is being written by process" in str(first["one"]["error"])
    assert first["two"]["steps"] == 2
    assert go_on()["one"]["steps"] == 2
