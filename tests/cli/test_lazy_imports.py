"""Verbs that do not compute answer without the packages that take seconds to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import runfolders
import yaml

HEAVY = ("torch", "torchvision", "timm", "segmentation_models_pytorch", "sklearn", "onnx")
COMPUTING = """
import sys
from fewmask.cli import main
sys.argv = ["fewmask", *{arguments!r}]
code = 0
try:
    main()
except SystemExit as end:
    code = end.code
print("exit", code or 0, "heavy:", *(name for name in {heavy!r} if name in sys.modules))
"""


def answers_without(*arguments: object, folder: Path | None = None, code: int) -> str:
    """What a command prints; fails unless it ends with the code, and nothing heavy was imported."""
    text = COMPUTING.format(arguments=[str(a) for a in arguments], heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"exit {code} heavy:", done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments", [("recipes",), ("recipes", "list", "--json"), ("recipes", "show", "compare"), ("--version",)], ids=str
)
def test_what_is_only_printed(arguments: tuple[str, ...]) -> None:
    answers_without(*arguments, code=0)


def test_runs_are_compared(tmp_path: Path) -> None:
    for method, share in (("joint", 0.5), ("supervised", 0.6)):
        for seed in (0, 1):
            run = tmp_path / f"{method}-{seed}"
            scores = {"a": runfolders.scores({"road": share, "sky": share + 0.1 * seed})}
            runfolders.write(run / "summary.json", runfolders.summary(scores, method=method, seed=seed))
            settings = {"name": "x", "seed": seed, "domains": {"a": {}}, "method": {"name": method}}
            (run / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert "supervised" in answers_without("compare", tmp_path / "joint-*", tmp_path / "supervised-*", code=0)


@pytest.mark.parametrize("verb", ["train", "campaign", "check"])
def test_a_wrong_path_or_key_of_a_configuration(verb: str, tmp_path: Path) -> None:
    assert "not found" in answers_without(verb, "missing.yaml", folder=tmp_path, code=2)
    (tmp_path / "c.yaml").write_text("name: x\nmethod: jiont\ntrain: {stesp: 1}\n", encoding="utf-8")
    told = answers_without(verb, "c.yaml", "seed=many", folder=tmp_path, code=2)
    assert "stesp" in told and "did you mean joint" in told


@pytest.mark.parametrize(
    "arguments",
    [
        *(("evaluate", "gone"), ("predict", "gone", "images"), ("export", "gone"), ("report", "gone")),
        *(("answer", "gone"), ("query", "gone"), ("agreement", "gone"), ("compare", "gone", "too")),
        *(("recipes", "run", "gone"), ("recipes", "check", "scenes", "x=1"), ("recipes", "run", "scenes", "tow")),
    ],
    ids=" ".join,
)
def test_a_wrong_path_or_name(arguments: tuple[str, ...], tmp_path: Path) -> None:
    answers_without(*arguments, folder=tmp_path, code=2)


def test_a_run_of_another_kind(tmp_path: Path) -> None:
    """A folder with a damaged configuration is no reason to wait either."""
    (tmp_path / "config.yaml").write_text("name: [", encoding="utf-8")
    for verb in ("evaluate", "report", "answer", "query"):
        assert "config.yaml" in answers_without(verb, tmp_path, code=2)


def test_a_wrong_argument_about_a_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert "not a run" in answers_without("report", run, code=2)
    train = {"steps": 1, "crop": [32, 32]}
    domain = {"layout": "scenes", "kind": "rooms"}
    settings = {"name": "x", "seed": 0, "domains": {"a": domain}, "method": "joint", "train": train}
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    for verb in ("report", "evaluate"):
        assert "--split dev: no such split; choose train, val or test" in answers_without(
            verb, run, "--split", "dev", code=2
        )
    for arguments in (("evaluate", run), ("predict", run, tmp_path), ("export", run)):
        assert "no trained model" in answers_without(*arguments, code=2)
