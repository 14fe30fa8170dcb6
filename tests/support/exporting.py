"""Exports without PyTorch's exporter, for tests of what lies around it: it takes ten seconds."""

from __future__ import annotations

from importlib import import_module

import pytest


def without_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network becomes an empty graph, which is not compared with it. tests/test_export.py has the real graphs."""
    import onnx

    # The package offers the function `export` where a module of that name lies.
    exporter = import_module("fewmask.onnx_export")
    monkeypatch.setattr(exporter, "to_onnx", lambda *_: onnx.ModelProto())
    monkeypatch.setattr(exporter, "compare", lambda *_: 0.0)
