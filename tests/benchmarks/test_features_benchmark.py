"""The benchmark of cached features runs and says what it promises; no test asserts a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

RUN = Path(__file__).parents[2] / "benchmarks" / "features.py"


def test_steps_on_features_are_compared_with_steps_on_images(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, str(RUN), "--tiny", "--out", str(tmp_path / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    (values,) = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["measured"].values()
    assert min(values["steps_a_second"].values()) > 0
    assert {"frozen_over_cached", "full_over_cached", "bytes_an_image"} <= values.keys()
