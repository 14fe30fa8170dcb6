"""The benchmark of annotation tools runs and says what it promises; no test asserts a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

RUN = Path(__file__).parents[2] / "benchmarks" / "annotation.py"


def test_every_tool_is_measured(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, str(RUN), "--tiny", "--out", str(tmp_path / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    tools = [name for name in result if name.startswith("import ")]
    assert len(tools) == 2 * 6 and {result[name]["regions"] for name in tools} == {4}
    timed = {"brush_encode", "brush_decode", *tools}
    assert set(result) - timed == {"load"}
    for name in timed:
        assert result[name]["seconds"] > 0 and name in done.stdout
