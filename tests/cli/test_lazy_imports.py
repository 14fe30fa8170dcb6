"""Verbs that do not compute answer without the packages that take seconds to import."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import runfolders
import yaml

HEAVY = ("torch", "torchvision", "timm", "segmentation_models_pytorch", "sklearn", "onnx")
# One process for all commands of a test: what one of them imports is there after it as well.
COMPUTING = """
import contextlib, io, json, sys
from fewmask.cli import main

commands, heavy = json.loads(sys.argv[1])
for arguments in commands:
    sys.argv = ["fewmask", *arguments]
    output, code = io.StringIO(), 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            main()
        except SystemExit as end:
            code = end.code
    print(json.dumps([code or 0, output.getvalue(), [name for name in heavy if name in sys.modules]]))
"""


def answers_without(*commands: Sequence[object], folder: Path | None = None, code: int) -> list[str]:
    """What each command prints; fails unless each ends with the code, and nothing heavy was imported."""
    given = json.dumps([[[str(a) for a in arguments] for arguments in commands], HEAVY])
    call = [sys.executable, "-c", COMPUTING, given]
    done = subprocess.run(call, capture_output=True, text=True, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(commands)
    for arguments, (ended, output, imported) in zip(commands, results, strict=True):
        assert (ended, imported) == (code, []), (arguments, output)
        assert "Traceback" not in output
    return [output for _, output, _ in results]


def test_what_is_only_printed() -> None:
    words = answers_without(
        ("recipes",), ("recipes", "list", "--json"), ("recipes", "show", "compare"), ("--version",), code=0
    )
    assert all(words)


def test_runs_are_compared(tmp_path: Path) -> None:
    for method, share in (("joint", 0.5), ("supervised", 0.6)):
        for seed in (0, 1):
            run = tmp_path / f"{method}-{seed}"
            scores = {"a": runfolders.scores({"road": share, "sky": share + 0.1 * seed})}
            runfolders.write(run / "summary.json", runfolders.summary(scores, method=method, seed=seed))
            settings = {"name": "x", "seed": seed, "domains": {"a": {}}, "method": {"name": method}}
            (run / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    (output,) = answers_without(("compare", tmp_path / "joint-*", tmp_path / "supervised-*"), code=0)
    assert "supervised" in output


def test_a_wrong_path_or_key_of_a_configuration(tmp_path: Path) -> None:
    verbs = ("train", "campaign", "check")
    (tmp_path / "c.yaml").write_text("name: x\nmethod: jiont\ntrain: {stesp: 1}\n", encoding="utf-8")
    for output in answers_without(*((verb, "missing.yaml") for verb in verbs), folder=tmp_path, code=2):
        assert "not found" in output
    for output in answers_without(*((verb, "c.yaml", "seed=many") for verb in verbs), folder=tmp_path, code=2):
        assert "stesp" in output and "did you mean joint" in output


def test_a_wrong_path_or_name(tmp_path: Path) -> None:
    answers_without(
        *(("evaluate", "gone"), ("predict", "gone", "images"), ("export", "gone"), ("report", "gone")),
        *(("answer", "gone"), ("query", "gone"), ("agreement", "gone"), ("compare", "gone", "too")),
        *(("recipes", "run", "gone"), ("recipes", "check", "scenes", "x=1"), ("recipes", "run", "scenes", "tow")),
        folder=tmp_path,
        code=2,
    )


def test_a_run_of_another_kind(tmp_path: Path) -> None:
    """A folder with a damaged configuration is no reason to wait either."""
    (tmp_path / "config.yaml").write_text("name: [", encoding="utf-8")
    for output in answers_without(*((verb, tmp_path) for verb in ("evaluate", "report", "answer", "query")), code=2):
        assert "config.yaml" in output


def test_a_wrong_argument_about_a_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (output,) = answers_without(("report", run), code=2)
    assert "not a run" in output
    train = {"steps": 1, "crop": [32, 32]}
    domain = {"layout": "scenes", "kind": "rooms"}
    settings = {"name": "x", "seed": 0, "domains": {"a": domain}, "method": "joint", "train": train}
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    for output in answers_without(*((verb, run, "--split", "dev") for verb in ("report", "evaluate")), code=2):
        assert "--split dev: no such split; choose train, val or test" in output
    for output in answers_without(("evaluate", run), ("predict", run, tmp_path), ("export", run), code=2):
        assert "no trained model" in output


def test_a_training_imports_what_it_computes_with() -> None:
    """What the page, the report, the questions and the export need would make a training begin later."""
    program = (
        "import json, sys; import fewmask.models; import timm, segmentation_models_pytorch; before = set(sys.modules); "
        "import fewmask.engine.fit; print(json.dumps(sorted({m.split('.')[0] for m in set(sys.modules) - before})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    beyond = set(json.loads(done.stdout))
    assert {"fewmask", "cv2"} <= beyond
    assert not beyond & {"scipy", "skimage", "sklearn", "onnx", "onnxruntime", "tensorboard", "starlette", "uvicorn"}
