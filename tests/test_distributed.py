"""Two processes do what one would on the same global batch.

One start of torchrun serves all tests here; what the two processes do is in two_processes.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import two_processes
from ondisk import environment, metrics_of, plain, summary_of, two_domains, weights_of, write_config

from fewmask import distributed
from fewmask.engine.run import load_domains
from fewmask.models.batch_norm import synchronise
from fewmask.runs import RunFolder

SUPPORT = Path(two_processes.__file__).parent


def torchrun(*arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = {**environment(), "PYTHONPATH": str(SUPPORT)}
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, env=env)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = two_domains(tmp_path_factory.mktemp("data"), val=3)
    two_domains(root / "without val", val=0)
    return root


@pytest.fixture(scope="module")
def out(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    done = torchrun(SUPPORT / "two_processes.py", data, folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def outcomes(out: Path) -> list[dict[str, Any]]:
    """What each process returned."""
    return [torch.load(out / f"{r}.pt", weights_only=True) for r in (0, 1)]


@pytest.mark.parametrize("far", [False, True])
def test_batch_normalisation_is_that_of_one_process(far: bool, outcomes: list[dict[str, Any]]) -> None:
    expected = two_processes.normalised(two_processes.images(far))
    # Where the values lie at 3000, their own rounding is 2e-4 of their spread.
    tolerance = {"rtol": 1e-2, "atol": 1e-3} if far else {"rtol": 1e-4, "atol": 2e-5}
    for own in outcomes:
        got = own[f"norm, far {far}"]
        assert got.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(got[name], expected[name], **tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("name", ["joint", *two_processes.METHODS])
def test_two_processes_have_the_loss_of_one(
    name: str, data: Path, out: Path, outcomes: list[dict[str, Any]], tmp_path: Path
) -> None:
    start = two_processes.trained(two_processes.settings(data, name, steps=1), tmp_path / "start")
    alone = two_processes.trained(two_processes.settings(data, name), tmp_path / "run")
    expected = [line for line in metrics_of(tmp_path / "run") if "loss" in line]
    got = [line for line in metrics_of(out / name) if "loss" in line]
    assert len(got) == two_processes.STEPS
    for one, two in zip(expected, got, strict=True):
        assert one.keys() == two.keys()
        # What is watched is no term, and that of the first process's cells.
        watched = ("marginal_entropy", "sure", "agreement", "diversity", "domain_accuracy")
        numbers = [k for k in one if isinstance(one[k], float) and k not in watched]
        assert {k: two[k] for k in numbers} == pytest.approx({k: one[k] for k in numbers}, rel=2e-3)
        if one["step"] == 1:  # no step that could enlarge the rounding lies before it
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert all(torch.equal(outcomes[0][name][n], outcomes[1][name][n]) for n in alone)
    for networks in ("model.", "method."):
        weights = [n for n in alone if n.startswith(networks) and alone[n].is_floating_point()]
        if weights:
            apart = torch.cat([(outcomes[0][name][n] - alone[n]).flatten() for n in weights]).norm()
            moved = torch.cat([(alone[n] - start[n]).flatten() for n in weights]).norm()
            assert apart < 0.02 * moved


def test_a_stopped_run_of_two_processes_goes_on_bit_for_bit(out: Path, outcomes: list[dict[str, Any]]) -> None:
    for own in outcomes:
        assert all(torch.equal(own["resumed"][n], own["univ-full"][n]) for n in own["univ-full"])
    assert metrics_of(out / "resumed") == metrics_of(out / "univ-full")
    assert summary_of(out / "resumed") == summary_of(out / "univ-full")
    one, other = weights_of(out / "resumed"), weights_of(out / "univ-full")
    assert all(torch.equal(one[n], other[n]) for n in other)


def test_accumulation_over_two_processes_keeps_them_equal(out: Path, outcomes: list[dict[str, Any]]) -> None:
    one, other = (own["accumulated"] for own in outcomes)
    assert all(torch.equal(one[n], other[n]) for n in one)
    assert all(v.isfinite().all() for v in one.values())
    assert any(not torch.equal(one[n], outcomes[0]["univ-full"][n]) for n in one)


def test_mixing_over_two_processes_keeps_both_networks_equal(outcomes: list[dict[str, Any]]) -> None:
    one, other = (own["mixed"] for own in outcomes)
    assert all(torch.equal(one[n], other[n]) for n in one)
    assert all(v.isfinite().all() for v in one.values())
    assert any(not torch.equal(one[n], outcomes[0]["co-training"][n]) for n in one if n.startswith("method.second"))


def test_each_process_evaluates_its_share_and_the_sum_is_that_of_one(
    data: Path, outcomes: list[dict[str, Any]]
) -> None:
    matrices, scores, read = two_processes.confusions(load_domains(two_processes.settings(data, "joint")))
    assert sorted(read) == sorted(2 * [f"{n}/val{i}" for n in "ab" for i in range(3)])  # count, and evaluate
    shares = [own["confusions"][2] for own in outcomes]
    assert sorted(shares[0] + shares[1]) == sorted(read)
    assert not set(shares[0]) & set(shares[1])
    for own in outcomes:
        assert all(torch.equal(own["confusions"][0][n], matrices[n]) for n in matrices)
        assert own["confusions"][1] == scores


def test_only_the_first_process_writes(out: Path) -> None:
    assert (out / "only0" / "model.safetensors").exists()
    assert not (out / "only1").exists()


def test_every_process_tells_what_the_first_wrote(out: Path, outcomes: list[dict[str, Any]]) -> None:
    """Also where it cannot see it, and of a run that is done already."""
    first = RunFolder(out / "only0").read_summary().to_dict()
    for own in outcomes:
        assert own["summary"] == own["summary again"] == first


def test_what_the_first_process_refuses_all_refuse(outcomes: list[dict[str, Any]]) -> None:
    assert [own["refused"] for own in outcomes] == ["process 0", "process 0"]


def test_wrong_input_is_refused_by_all_processes_and_none_waits(out: Path, outcomes: list[dict[str, Any]]) -> None:
    for own in outcomes:
        batch, folder, other, nowhere = own["errors"]
        assert "train.batch_size 3 does not divide over 2 processes" in batch
        assert "not empty and not a run" in folder
        assert "train.batch_size: 8 there, 16 here" in other
        assert "nowhere" in nowhere
    assert not (out / "wrong batch").exists()
    assert not (out / "no data").exists()


@pytest.mark.slow
def test_the_command_under_torchrun(data: Path, tmp_path: Path) -> None:
    settings = plain(data, "univ-full", steps=2)
    path = write_config(tmp_path / "config.yaml", settings)
    done = torchrun("-m", "fewmask.cli", "train", path, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert len([line for line in metrics_of(tmp_path / "run") if "loss" in line]) == 2
    assert done.stderr.count("univ-full pretrain 1/2") + done.stderr.count("univ-full align 1/2") == 1  # not one each
    wrong = torchrun("-m", "fewmask.cli", "train", path, "train.batch_size=3", "--out", tmp_path / "other")
    assert wrong.returncode != 0
    assert "does not divide over 2 processes" in wrong.stderr


def test_alone_everything_is_the_identity() -> None:
    values = torch.arange(3.0)
    assert distributed.rank() == 0
    assert distributed.world() == 1
    assert distributed.all_reduce_sum(values) is values
    assert distributed.all_gather(values) is values
    distributed.barrier()
    with distributed.processes():
        assert distributed.world() == 1
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(2))
    assert type(synchronise(network)[0]) is torch.nn.BatchNorm2d
