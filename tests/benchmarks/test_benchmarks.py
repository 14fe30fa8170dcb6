"""The benchmarks run and say what they promise. What they measure says nothing at these sizes, and no test asserts a
time."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "benchmarks" / "run.py"
TARGETED = (
    "step_over_model",
    "entropy_stride_over_full",
    "contrast_over_step",
    "evaluate_over_inference",
    "step_memory_over_model",
    "select_seconds",
    "score_over_inference",
    "loader_over_decoding",
)
KEYS = (*TARGETED, "s4al_step_over_s4al_plus", "loader_reduced_over_decoding", "loader_cached_over_decoding")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "last.json"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, RUN, "--tiny", "--out", out], capture_output=True, text=True, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.parametrize("key", KEYS)
def test_every_measurement_is_there(finished, key):
    printed, result = finished
    assert math.isfinite(result[key]) and result[key] > 0
    assert result[key] == result["measured"][key]["median"]
    assert key in printed


def test_what_misses_its_target_is_said_with_the_amount(finished):
    printed, result = finished
    targets = result["targets"]
    assert {*targets["at_most"], *targets["at_least"]} == set(TARGETED)
    missed = {k: result[k] - most for k, most in targets["at_most"].items() if result[k] > most}
    missed |= {k: least - result[k] for k, least in targets["at_least"].items() if result[k] < least}
    assert targets["missed_by"] == missed
    assert printed.count("MISSED by") == len(missed)
    assert printed.count(", met") == len(TARGETED) - len(missed)


def test_a_result_says_where_it_came_from(finished):
    _, result = finished
    assert result["versions"]["torch"] and result["machine"]["cores"] >= 1 and result["settings"]["classes"]
    assert str(RUN.parents[1]) not in json.dumps(result)
