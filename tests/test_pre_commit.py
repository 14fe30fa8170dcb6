"""The hooks before a commit run what `make lint` runs; completion answers without torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import yaml
from source import ROOT


def test_the_hooks_are_what_make_lint_runs() -> None:
    (recipe,) = re.findall(r"^lint:.*\n((?:\t.+\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    commands = [line.strip().replace("$(PYTHON)", ".venv/bin/python") for line in recipe.splitlines()]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == commands
    assert all(hook["language"] == "system" and hook["pass_filenames"] is False for hook in hooks)


def test_the_citation_names_this_version() -> None:
    import fewmask

    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == fewmask.__version__


def test_verbs_are_completed_without_torch() -> None:
    code = "import sys\nsys.argv[0] = 'fewmask'\nfrom fewmask.cli import app\ntry:\n    app()\n"
    code += "finally:\n    print('torch' in sys.modules)"
    variables = {"_FEWMASK_COMPLETE": "complete_bash", "COMP_WORDS": "fewmask re", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["report", "recipes", "False"], done.stderr
