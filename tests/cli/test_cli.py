"""The verbs: exit codes, JSON on stdout, and errors on stderr that say what is wrong and how to fix it."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from command import Fewmask, is_refused
from ondisk import environment, metrics_of, plain, two_domains, write_config
from PIL import Image

from fewmask import cli
from fewmask.acquisition.budget import buys_nothing
from fewmask.cli.terminal import _details
from fewmask.engine.checkpoint import load_state
from fewmask.engine.device import forget_peak, memory_mib
from fewmask.engine.fit import ProgressEvent
from fewmask.plurals import count
from fewmask.runs import read_counts

VERBS = ["demo", "init", "check", "train", "campaign", "query", "answer", "links", "agreement", "evaluate", "predict"]
VERBS += ["export", "report", "compare"]
GROUPS = {"recipes": ["list", "show", "check", "run"]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_domains(tmp_path_factory.mktemp("data"))


@pytest.fixture
def config(data: Path, tmp_path: Path) -> Path:
    return write_config(tmp_path / "config.yaml", plain(data, "joint", steps=2))


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from fewmask.engine.fit import train
    from fewmask.methods import parse_config

    folder = tmp_path_factory.mktemp("trained") / "run"
    train(parse_config(plain(data, "joint", steps=1)), folder)
    return folder


# ── Help ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_verbs_are_these(fewmask: Fewmask) -> None:
    done = fewmask("--help")
    assert done.code == 0
    assert [name for name in [*VERBS, *GROUPS] if name in done.out] == [*VERBS, *GROUPS]
    assert names_of(cli.app) == VERBS
    assert {group.name: names_of(group.typer_instance) for group in cli.app.registered_groups} == GROUPS


def names_of(app: Any) -> list[str]:
    return [command.name or command.callback.__name__ for command in app.registered_commands]


@pytest.mark.parametrize("verb", [*VERBS, *GROUPS, *(f"{group} {verb}" for group in GROUPS for verb in GROUPS[group])])
def test_every_verb_has_help_and_json(verb: str, fewmask: Fewmask) -> None:
    done = fewmask(*verb.split(), "--help")
    assert done.code == 0
    assert "--json" in done.out
    assert done.err == ""
    usage, example, *_ = re.split(r"\n\s*\n", done.out.strip())
    assert usage.startswith("Usage: ") and example.strip().startswith(f"fewmask {verb}")
    assert not re.search(r"<(str|bool|path|int|float|list)|list\[|tuple\[|constrained", done.out)


def test_options_that_belong_together_stand_together(fewmask: Fewmask) -> None:
    groups = [part.splitlines() for part in re.split(r"╭─ ", fewmask("answer", "--help").out)]
    options = {lines[0].split(" ─")[0]: re.findall(r"--[a-z][a-z-]+(?= )", "\n".join(lines[1:])) for lines in groups}
    assert {"--from", "--corrections", "--take-back"} <= {*options["Options of an import"]}
    assert {"--question", "--port", "--sam", "--guidelines"} <= {*options["Options of the labelling page"]}
    assert "--json" in options["Options"] and "--port" not in options["Options"]


def test_every_option_is_described() -> None:
    root = typer.main.get_command(cli.app)
    commands = [*root.commands.values(), *root.commands["recipes"].commands.values()]  # type: ignore[attr-defined]
    given = [(command.name, param) for command in commands for param in command.params]
    assert len(given) > 60
    assert not [(name, param.name) for name, param in given if len(param.help or "") < 8]


def test_numbers_agree_with_their_nouns() -> None:
    assert [count(n, "region") for n in (0, 1, 2, 1500, 0.5)] == [
        "0 regions", "1 region", "2 regions", "1,500 regions", "0.5 regions",
    ]  # fmt: skip
    assert count(1, "class", "classes") == "1 class" and count(3, "class", "classes") == "3 classes"
    assert buys_nothing(1, "regions") == "1 region buys no question"
    assert buys_nothing(0.5, "clicks", " an image") == "0.5 clicks an image buy no question"


@pytest.mark.parametrize("module", ["fewmask", "fewmask.cli"])
def test_no_verb_shows_the_help(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module], capture_output=True, text=True, env=environment())
    assert "Usage" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["tarin"], ["train"], ["train", "a", "--oot", "b"], ["predict", "run"]])
def test_a_wrong_command_line_has_code_2(arguments: list[str], fewmask: Fewmask) -> None:
    is_refused(fewmask(*arguments), "Usage")


@pytest.mark.parametrize(("memory", "details"), [(512.4, "512 MiB · 3 clicks"), (None, "3 clicks")])
def test_memory_is_told_where_it_is_known(memory: float | None, details: str) -> None:
    assert _details(ProgressEvent("joint", "score pool", 1, 2, {}, 0.0, memory), "3 clicks") == details


def test_windows_does_not_tell_the_peak_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    here = memory_mib(torch.device("cpu"))
    assert here is not None
    assert 10 < here < 2**20
    monkeypatch.setattr(sys, "platform", "win32")
    assert memory_mib(torch.device("cpu")) is None


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep the peak of the whole process")
def test_the_peak_of_one_training_is_not_that_of_the_one_before() -> None:
    here = torch.device("cpu")
    forget_peak(here)  # that of whatever ran in this process before
    before = memory_mib(here)
    much = torch.ones(64 * 2**20)  # 256 MiB
    peak = memory_mib(here)
    del much
    assert before is not None
    assert peak is not None
    assert peak > before + 200
    forget_peak(here)
    after = memory_mib(here)
    assert after is not None
    assert after < peak - 200


# ── train ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_train_writes_a_run_and_says_what_came_out(config: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    done = fewmask("train", config, "train.steps=1", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "mIoU" in done.out
    assert "c0" in done.out
    assert "joint train 1/1 loss" in done.err
    assert "nothing was trained" not in done.err
    again = fewmask("train", config, "train.steps=1", "--out", tmp_path / "run")
    assert again.code == 0
    assert again.out == done.out
    assert "was finished before: nothing was trained" in again.err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 1


def test_train_as_json_prints_the_summary_and_nothing_else(config: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    done = fewmask("train", config, "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out) == json.loads((tmp_path / "run" / "summary.json").read_text())


def test_a_run_goes_to_the_folder_of_its_name(
    config: Path, tmp_path: Path, fewmask: Fewmask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fewmask("train", config, "name=mine", "train.steps=1", "--json").code == 0
    assert (tmp_path / "runs" / "mine" / "summary.json").exists()


def test_wrong_settings_are_all_listed(config: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    done = fewmask("train", config, "train.stpes=3", "seed=-1", "method.alpha=1", "--out", tmp_path / "run")
    is_refused(done, f"error: {config}:", "train.stpes: unknown key", "seed: input should", "method.alpha: unknown key")
    assert not (tmp_path / "run").exists()


def test_check_says_how_much_cached_features_take(config: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    tuning = "model.tuning={name: frozen, cached: true}"
    done = fewmask("check", config, tuning, "train.augment.scale=[1, 1]")
    assert re.search(r"model.tuning.cached: the features of \d+ images take about \d+ MB on the disk", done.err)
    is_refused(fewmask("train", config, tuning, "--out", tmp_path / "run"), "train.augment.scale: [0.5, 2.0] changes")


def test_an_absent_configuration_is_named(tmp_path: Path, fewmask: Fewmask) -> None:
    is_refused(fewmask("train", tmp_path / "no.yaml"), f"{tmp_path / 'no.yaml'}: not found")


def test_the_version_is_printed(fewmask: Fewmask) -> None:
    assert fewmask("--version") == (0, f"fewmask {version('fewmask')}\n", "")


def test_a_folder_below_a_file_is_named(config: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    (tmp_path / "notes").write_text("hello")
    is_refused(
        fewmask("train", config, "--out", tmp_path / "notes" / "run"), f"{tmp_path / 'notes'}", "name another place"
    )


def test_a_folder_that_is_not_empty_is_refused(config: Path, data: Path, fewmask: Fewmask) -> None:
    is_refused(fewmask("train", config, "--out", data), f"{data}: not empty and not a run; give another --out")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_mask_is_named_without_a_traceback(workers: int, tmp_path: Path, fewmask: Fewmask) -> None:
    """Wherever it is read: in this process or in a loader's."""
    root = two_domains(tmp_path / "data", pool=0)
    mask = root / "a" / "labels" / "train1.png"
    mask.write_bytes(mask.read_bytes()[:60])
    config = write_config(tmp_path / "c.yaml", plain(root, steps=4, workers=workers))
    is_refused(fewmask("train", config, "--out", tmp_path / "run"), f"{mask}: truncated")


def test_what_fails_without_the_users_doing_has_code_1(
    config: Path, tmp_path: Path, fewmask: Fewmask, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fewmask.engine import fit

    def breaks(*arguments: Any) -> None:
        raise fit.NonFiniteError("step 3: the term 'cross' is nan")

    monkeypatch.setattr(fit, "train", breaks)
    done = fewmask("train", config, "--out", tmp_path / "run")
    assert (done.code, done.out) == (1, "")
    assert done.err == "error: NonFiniteError: step 3: the term 'cross' is nan\n"


# After its first save the command waits for the signal, so that it comes in the middle however slow the machine is.
WAITS = """
import sys, time
from fewmask import cli, stopping
from fewmask.engine import fit

save = fit.save_state
def saved_and_waited(*arguments):
    save(*arguments)
    while not stopping.stop_requested():
        time.sleep(0.01)
fit.save_state = saved_and_waited
sys.argv[0] = "fewmask"
cli.main()
"""


def test_a_stopped_run_says_how_to_go_on_and_does(data: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    """Ctrl-C in the middle; then the same command."""
    config = write_config(tmp_path / "c.yaml", plain(data, "joint", steps=4, checkpoint_every=1))
    command = ["train", str(config), "--out", str(tmp_path / "run"), "--json"]
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    state = tmp_path / "run" / "state" / "last.pt"
    while not state.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert out == ""
    match = re.fullmatch(r"error: .*: stopped after step (\d+) of 4, which is saved; .*", err.splitlines()[-1])
    assert match, err
    assert load_state(state)["step"] == int(match[1])
    assert "Traceback" not in err
    done = fewmask(*command)
    assert done.code == 0, done.err
    assert json.loads(done.out)["steps"] == 4
    assert [line["step"] for line in metrics_of(tmp_path / "run") if "loss" in line] == list(range(1, 5))


# ── check ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_check_of_good_data(config: Path, fewmask: Fewmask) -> None:
    done = fewmask("check", config)
    assert done.code == 0, done
    assert "0 errors" in done.out
    report = fewmask("check", config, "--json")
    assert report.code == 0
    assert json.loads(report.out)["errors"] == []


def test_check_tells_the_same_of_many_files_in_few_lines(tmp_path: Path, fewmask: Fewmask) -> None:
    root = two_domains(tmp_path / "data", pool=0)
    for number in range(25):
        (root / "a" / "images" / f"note{number}.txt").write_text("no image")
    config = write_config(tmp_path / "c.yaml", plain(root))
    done = fewmask("check", config)
    assert done.out.count("note") == 3
    assert "25 × not an image by its name: " in done.out
    assert "and 22 more (--json lists them)" in done.out
    assert "0 errors, 25 warnings" in done.out
    assert len(json.loads(fewmask("check", config, "--json").out)["warnings"]) == 25


def test_check_lists_every_error_and_ends_with_2(tmp_path: Path, fewmask: Fewmask) -> None:
    root = two_domains(tmp_path / "data")
    cut = root / "a" / "images" / "train0.png"
    cut.write_bytes(cut.read_bytes()[:100])
    Image.fromarray(np.full((40, 48), 77, np.uint8)).save(root / "b" / "labels" / "val1.png")
    config = write_config(tmp_path / "c.yaml", plain(root))
    done = fewmask("check", config)
    assert done.code == 2
    assert "train0.png" in done.out
    assert "77" in done.out
    assert "val1.png" in done.out
    report = fewmask("check", config, "--json")
    assert report.code == 2
    assert len(json.loads(report.out)["errors"]) >= 2


# ── evaluate, predict, export ────────────────────────────────────────────────────────────────────────────────────────


def test_evaluate_gives_what_the_run_said(trained: Path, fewmask: Fewmask) -> None:
    done = fewmask("evaluate", trained, "--split", "test", "--json")
    assert done.code == 0, done.err
    report, summary = json.loads(done.out), json.loads((trained / "summary.json").read_text())
    assert report["domains"] == summary["domains"]
    assert report["avg_miou"] == summary["avg_miou"]
    noted = [json.loads(line) for line in (trained / "evaluations.jsonl").read_text().splitlines()]
    assert noted[-1]["split"] == "test"  # how often test was looked at stays known
    shown = fewmask("evaluate", trained)
    assert shown.code == 0
    assert "pixel accuracy" in shown.out


def test_evaluate_gives_an_older_run_the_counts_of_its_images(trained: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    kept = read_counts(run / "scores.npz")
    (run / "scores.npz").unlink()
    assert fewmask("evaluate", run, "--split", "val").code == 0
    assert not (run / "scores.npz").exists()  # the summary's scores are of test
    assert fewmask("evaluate", run, "--split", "test").code == 0
    counts = read_counts(run / "scores.npz")
    assert list(counts) == list(kept) == ["a", "b"]
    for name, part in counts.items():
        assert part.stems.tolist() == kept[name].stems.tolist() == ["test0", "test1"]
        assert np.array_equal(part.counts, kept[name].counts)
        assert np.array_equal(part.confusion, kept[name].confusion)
        summary = json.loads((run / "summary.json").read_text())
        iou = [np.nan if v is None else v for v in summary["domains"][name]["iou"].values()]
        assert np.array_equal(part.iou, iou, equal_nan=True)


def test_evaluate_of_what_is_not_there(trained: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    is_refused(
        fewmask("evaluate", trained, "--split", "tset"), "--split tset: no such split; choose train, val or test"
    )
    is_refused(fewmask("evaluate", tmp_path), f"{tmp_path}: not a run (no config.yaml)")


def test_evaluate_on_another_domain_asks_for_what_is_missing(trained: Path, config: Path, fewmask: Fewmask) -> None:
    is_refused(fewmask("evaluate", trained, "--on", config), "--domain: give one of a, b")
    is_refused(fewmask("evaluate", trained, "--on", config, "--domain", "a", "--head", "z"), "--head: give one of a, b")


@pytest.mark.parametrize(
    ("text", "message"),
    [("c0: c0\nc0: c1\n", "c0 given twice"), ("- c0", "not a class mapping"), ("c0: 1", "write it in quotes: '1'")],
)
def test_a_wrong_class_mapping_is_named(
    text: str, message: str, trained: Path, config: Path, tmp_path: Path, fewmask: Fewmask
) -> None:
    classes = tmp_path / "classes.yaml"
    options = ["--on", config, "--domain", "a", "--head", "b", "--classes", classes]
    is_refused(fewmask("evaluate", trained, *options), str(classes), "not found; write a file")
    classes.write_text(text)
    is_refused(fewmask("evaluate", trained, *options), str(classes), message)


def test_predict_writes_a_mask_for_every_image(trained: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    (tmp_path / "images").mkdir()
    for name, size in (("one.png", (30, 50)), ("two.jpg", (64, 33))):
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / "images" / name)
    done = fewmask("predict", trained, tmp_path / "images", "--domain", "b", "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["images"] == 2
    for name, size in (("one", (50, 30)), ("two", (33, 64))):
        assert Image.open(tmp_path / "out" / "masks" / f"{name}.png").size == size
    is_refused(fewmask("predict", trained, tmp_path / "images", "--out", tmp_path / "other"), "a, b")
    is_refused(fewmask("predict", trained, tmp_path / "nothing", "--domain", "b"), "nothing")


def test_export_refuses_what_is_no_run(tmp_path: Path, fewmask: Fewmask) -> None:
    is_refused(fewmask("export", tmp_path), str(tmp_path))


@pytest.mark.parametrize("verb", ["evaluate", "predict", "export", "report"])
def test_weights_that_the_run_did_not_write_are_refused(
    verb: str, trained: Path, tmp_path: Path, fewmask: Fewmask
) -> None:
    """One bit of one weight is enough."""
    shutil.copytree(trained, tmp_path / "run")
    weights = tmp_path / "run" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    images = [trained] if verb == "predict" else []
    done = fewmask(verb, tmp_path / "run", *images)
    if verb == "export" and "needs the package" in done.err:
        pytest.skip("the extra fewmask[onnx] is not installed")
    is_refused(done, f"{weights}: differs from what the run wrote")
