"""The fix for torchvision beside a CPU-only torch, each case in a process of its own: imports cannot be undone."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

DECLARED = "[n for n in ('nms', 'qnms') if hasattr(torch.ops.torchvision, n)]"


def run(code: str, *path: Path) -> str:
    """The standard output of `code`, which `import_torchvision` and torch precede; `path` comes first on sys.path."""
    # Loaded by file name, so that the package's own __init__ cannot import torchvision before the test does.
    prelude = f"""
        import importlib.util, sys, torch
        spec = importlib.util.spec_from_file_location("shim", {str(SHIM)!r})
        shim = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(shim)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SHIM = Path(__file__).parents[2] / "src" / "fewmask" / "models" / "torchvision_shim.py"


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


def test_the_installed_torchvision_imports_and_so_do_its_users():
    code = """
        shim.import_torchvision()
        import timm, torchvision, segmentation_models_pytorch
        from torchvision import extension
        print(torchvision.extension is extension, torchvision.transforms.Resize(4).size)
    """
    assert run(code) == "True 4"


def test_calling_it_twice_is_calling_it_once():
    code = """
        shim.import_torchvision()
        first = sys.modules["torchvision"]
        shim.import_torchvision()
        print(sys.modules["torchvision"] is first)
    """
    assert run(code) == "True"


def test_it_does_nothing_where_torchvision_imports(fake):
    root = fake("")
    assert run(f"shim.import_torchvision(); print({DECLARED})", root) == "[]"


def test_operators_that_torchvision_has_registered_are_left_alone(fake):
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
def test_a_missing_operator_is_declared_and_the_import_is_whole(fake, missing):
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


def test_a_declared_operator_refuses_to_be_called_instead_of_answering(fake):
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
def test_any_other_error_passes_through_untouched(fake, raised):
    root = fake(f"raise {raised}")
    code = f"""
        try:
            shim.import_torchvision()
        except Exception as error:
            print(repr(error) == repr({raised}), {DECLARED})
    """
    assert run(code, root) == "True []"


def test_an_error_that_the_mend_does_not_help_is_raised_after_one_attempt(fake):
    root = fake("raise RuntimeError('operator torchvision::nms does not exist')")
    code = """
        try:
            shim.import_torchvision()
        except RuntimeError as error:
            print(error)
    """
    assert run(code, root) == "operator torchvision::nms does not exist"
