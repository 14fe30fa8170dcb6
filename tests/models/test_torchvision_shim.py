"""The fix for torchvision beside a CPU-only torch, each case in a process of its own: imports cannot be undone.

One process imports torch, and is forked for each case.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

DECLARED = "[n for n in ('nms', 'qnms') if hasattr(torch.ops.torchvision, n)]"


# Loads the file by its name, so that the package's own __init__ cannot import torchvision before the test does.
FORKS = """
import importlib.util, json, os, sys, traceback
import torch

spec = importlib.util.spec_from_file_location("shim", sys.argv[1])
shim = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shim)
for line in sys.stdin:
    code, out, paths = json.loads(line)
    child = os.fork()
    if child == 0:
        try:
            sys.stdout = open(out, "w")
            sys.path[:0] = paths
            exec(code)
            sys.stdout.close()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
SHIM = Path(__file__).parents[2] / "src" / "fewmask" / "models" / "torchvision_shim.py"
Run = Callable[..., str]


@pytest.fixture(scope="module")
def forks() -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", FORKS, str(SHIM)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def run(forks: subprocess.Popen[str], tmp_path: Path) -> Run:
    """The standard output of code that finds torch and the shim imported; the paths come first on sys.path."""
    assert forks.stdin is not None and forks.stdout is not None
    send, answer = forks.stdin, forks.stdout

    def run_(code: str, *path: Path) -> str:
        out = tmp_path / "out.txt"
        send.write(json.dumps([textwrap.dedent(code), str(out), [str(p) for p in path]]) + "\n")
        send.flush()
        assert answer.readline() == "0\n"
        return out.read_text().strip()

    return run_


@pytest.fixture
def fake(tmp_path: Path):
    """Write a package that takes torchvision's place, with a submodule that is imported before its own body runs."""

    def write(body: str) -> Path:
        package = tmp_path / "torchvision"
        package.mkdir()
        (package / "extension.py").write_text("loaded = True\n")
        (package / "__init__.py").write_text("import torchvision.extension\n" + textwrap.dedent(body))
        return tmp_path

    return write


def test_the_installed_torchvision_imports_and_so_do_its_users(run: Run):
    code = """
        shim.import_torchvision()
        import timm, torchvision, segmentation_models_pytorch
        from torchvision import extension
        print(torchvision.extension is extension, torchvision.transforms.Resize(4).size)
    """
    assert run(code) == "True 4"


def test_calling_it_twice_is_calling_it_once(run: Run):
    code = """
        shim.import_torchvision()
        first = sys.modules["torchvision"]
        shim.import_torchvision()
        print(sys.modules["torchvision"] is first)
    """
    assert run(code) == "True"


def test_it_does_nothing_where_torchvision_imports(run: Run, fake):
    root = fake("")
    assert run(f"shim.import_torchvision(); print({DECLARED})", root) == "[]"


def test_operators_that_torchvision_has_registered_are_left_alone(run: Run, fake):
    root = fake(
        """
        import torch
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.impl("nms", lambda dets, scores, iou_threshold: dets + 1, "CPU")
        """
    )
    code = "shim.import_torchvision(); print(torch.ops.torchvision.nms(torch.zeros(1), torch.zeros(1), 0.5).item())"
    assert run(code, root) == "1.0"
    assert run(f"shim.import_torchvision(); print({DECLARED})", root) == "['nms']"


@pytest.mark.parametrize("missing", ["nms", "qnms"])
def test_a_missing_operator_is_declared_and_the_import_is_whole(run: Run, fake, missing):
    root = fake(
        f"""
        import torch
        if not hasattr(torch.ops.torchvision, {missing!r}):
            raise RuntimeError("operator torchvision::{missing} does not exist")
        seen = torchvision.extension.loaded
        """
    )
    code = f"shim.import_torchvision(); import torchvision; print(torchvision.seen, {DECLARED})"
    assert run(code, root) == "True ['nms', 'qnms']"


def test_a_declared_operator_refuses_to_be_called_instead_of_answering(run: Run, fake):
    root = fake(
        """
        import torch
        if not hasattr(torch.ops.torchvision, "nms"):
            raise RuntimeError("operator torchvision::nms does not exist")
        """
    )
    code = """
        shim.import_torchvision()
        try:
            torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
        except NotImplementedError as error:
            print(type(error).__name__)
    """
    assert run(code, root) == "NotImplementedError"


@pytest.mark.parametrize(
    "raised",
    [
        "RuntimeError('operator torchvision::roi_align does not exist')",
        "RuntimeError('Detected that PyTorch and torchvision were compiled with different CUDA versions')",
        "ImportError('libcudart.so.12: cannot open shared object file')",
    ],
)
def test_any_other_error_passes_through_untouched(run: Run, fake, raised):
    root = fake(f"raise {raised}")
    code = f"""
        try:
            shim.import_torchvision()
        except Exception as error:
            print(repr(error) == repr({raised}), {DECLARED})
    """
    assert run(code, root) == "True []"


def test_an_error_that_the_mend_does_not_help_is_raised_after_one_attempt(run: Run, fake):
    root = fake("raise RuntimeError('operator torchvision::nms does not exist')")
    code = """
        try:
            shim.import_torchvision()
        except RuntimeError as error:
            print(error)
    """
    assert run(code, root) == "operator torchvision::nms does not exist"
