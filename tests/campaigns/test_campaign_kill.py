"""Campaigns that are killed, and campaigns of two processes: the same networks, questions and answers as without.

All of it is slow: every kill starts a process anew.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import campaigns
import numpy as np
import pytest
import torch
from campaigns import BY_CHANCE, SQUARES, assert_same_campaign, settings_of
from ondisk import environment, run_python, two_domains, weights_of, write_config

from fewmask.annotation.ledger import Ledger
from fewmask.campaigns import campaign
from fewmask.methods import parse_config
from fewmask.runs import RunFolder

pytestmark = pytest.mark.slow
SUPPORT = Path(__file__).parents[1] / "support"
KILLS = 20

# Forks a process for each moment, so that the imports are paid once. The first one runs a campaign through and counts
# the files that it puts in their places; the others go on with another campaign and are killed some time after one of
# theirs, so that the moments lie all over it and not where most of the time goes. What was saved of questions and
# answers must be there ever after.
KILLED = """
import os, random, signal, sys, threading, time
from pathlib import Path
from fewmask.annotation.ledger import Ledger
from fewmask.campaigns import campaign
from fewmask.methods import read_config
from fewmask.runs import RunFolder

settings, reference, folder = read_config(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3])
kills = int(sys.argv[4])

def saved():
    if not RunFolder(folder).ledger.exists():
        return [], []
    with Ledger(RunFolder(folder).ledger) as ledger:
        return ([(q.id, q.round, q.domain, q.stem, q.kind, q.region) for q in ledger.questions()],
                [(a.id, a.question, a.token) for a in ledger.answers()])

def run(where, heard):
    child = os.fork()
    if child == 0:
        sys.addaudithook(lambda event, arguments: event == "os.rename" and heard())
        campaign(settings, where)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

reader, writer = os.pipe()
began = time.monotonic()
assert run(reference, lambda: os.write(writer, b".")) == 0
os.close(writer)
files, seconds = len(os.read(reader, 2**16)), time.monotonic() - began
print(files, "files in their places")

random.seed(int(sys.argv[5]))
questions, answers = [], []
for kill in range(3 * kills):
    after, delay = random.uniform(1, files / kills), random.uniform(0, 2 * seconds / files)
    def heard():
        global after
        after -= 1
        if 0 >= after > -1:
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
    if run(folder, heard) == 0:
        break
    now = saved()
    assert now[0][:len(questions)] == questions and now[1][:len(answers)] == answers, "something was lost"
    questions, answers = now
    begun, looks = len(list(folder.glob("rounds/*.json"))), len(list(folder.glob("pool/*")))
    print("killed with", len(questions), "questions,", len(answers), "answers,", begun, "rounds,", looks, "looks")
campaign(settings, folder)
now = saved()
assert now[0][:len(questions)] == questions and now[1][:len(answers)] == answers, "something was lost"
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_domains(tmp_path_factory.mktemp("data"), train=6, pool=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_campaign_killed_at_random_moments_is_the_one_that_was_not(workers: int, data: Path, tmp_path: Path) -> None:
    """Twenty kills at least, ten of them with loader processes, wherever they fall."""
    method = {"name": "s4al-plus", "confidence": 0.0}
    ask = {**SQUARES, "balance": "diverse"}
    train = {"steps": 6, "checkpoint_every": 2, "workers": workers}
    first = {**BY_CHANCE, "budget": {"amount": 2000, "unit": "pixels"}}  # for a square in either domain
    plain = settings_of(data, method, labelled=0, train=train, first=first, ask=ask)
    path = write_config(tmp_path / "config.yaml", plain)
    done = run_python(KILLED, path, tmp_path / "reference", tmp_path / "run", KILLS, workers)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    moments = [line for line in done.stdout.splitlines() if line.startswith("killed")]
    assert len(moments) >= KILLS // 2, f"the campaign ended before it was killed so often\n{done.stdout}"
    assert len(set(moments)) >= 3, f"all kills fell in one stage\n{done.stdout}"
    assert_same_campaign(tmp_path / "reference", tmp_path / "run")
    assert not list((tmp_path / "run").rglob(".*.tmp"))
    with Ledger(RunFolder(tmp_path / "run").ledger) as ledger:
        regions = [(q.domain, q.stem, q.kind, q.region) for q in ledger.questions()]
        answered = [a.question for a in ledger.answers()]
    assert len(regions) == len(set(regions)) == len(answered) == len(set(answered)) > 0


@pytest.mark.parametrize("method", ["joint", "s4al-plus"])
def test_two_processes_ask_the_same_questions_as_one(method: str, data: Path, tmp_path: Path) -> None:
    """And are at the end the same network, but for rounding: see tests/test_distributed.py for what that grows to."""
    optimiser = {"name": "sgd", "lr": 1e-4, "head_lr": 5e-4}
    train = {"steps": 2, "batch_size": 4, "unlabelled_batch_size": 4, "crop": [64, 64], "optimiser": optimiser}
    plain = settings_of(data, {"name": method}, labelled=2, train=train, first=BY_CHANCE, ask=SQUARES)
    plain["model"]["decoder_options"]["decoder_aspp_dropout"] = 0
    path = write_config(tmp_path / "config.yaml", plain)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(SUPPORT / "two_campaigners.py"), str(path), str(tmp_path / "two")],
        capture_output=True, text=True, timeout=240, env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    alone = campaign(parse_config(plain), tmp_path / "one")
    one, two = (campaigns.questions_of(tmp_path / name) for name in ("one", "two"))
    assert len(one) > 4
    assert [(q.round, q.domain, q.stem, q.region, q.guess) for q in one] == [
        (q.round, q.domain, q.stem, q.region, q.guess) for q in two
    ]
    np.testing.assert_allclose([q.score for q in two], [q.score for q in one], rtol=1e-2)
    assert campaigns.files_of(tmp_path / "one" / "labels") == campaigns.files_of(tmp_path / "two" / "labels")
    together = campaigns.read(tmp_path / "two" / "campaign.json")
    for key in ("state", "asked", "answered", "spent"):
        assert together[key] == alone[key]
    for expected, got in zip(alone["history"], together["history"], strict=True):
        assert expected["pixels"] == got["pixels"]
    pieces = [sorted(p.name for p in (tmp_path / name / "pool").rglob("*.npz")) for name in ("one", "two")]
    assert pieces[0] == pieces[1]
    expected, got = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    for name, values in expected.items():
        torch.testing.assert_close(got[name], values, rtol=5e-2, atol=5e-3)
