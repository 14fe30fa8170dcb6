"""Measure fewmask's cost over the bare network, as ratios in one run on this machine. See benchmarks/README.md.

    python benchmarks/run.py [--tiny] [--out FILE]

This process does not import torch and starts a new process for each part, because a process's peak memory may begin at
the size of its parent.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PARTS = ("speed", "step_memory", "model_memory")
AT_MOST = {
    "step_over_model": 1.15,
    "entropy_stride_over_full": 0.12,
    "contrast_over_step": 0.35,
    "step_memory_over_model": 1.3,
    "select_seconds": 1.0,
    "score_over_inference": 1.15,
}
AT_LEAST = {"evaluate_over_inference": 0.85, "loader_over_decoding": 0.6}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure ratios of fewmask over the bare network on this machine.")
    parser.add_argument("--tiny", action="store_true", help="Small sizes that check only that the benchmark runs.")
    parser.add_argument("--out", type=Path, default=HERE / "last.json")
    args = parser.parse_args()
    began, load = time.monotonic(), os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        speed, step, model = (_in_fresh_process(part, folder, args.tiny) for part in PARTS)
    measured = speed["measured"]
    measured["step_memory_over_model"] = {
        "median": step["mib"] / model["mib"],
        "step_mib": step["mib"],
        "model_mib": model["mib"],
    }
    ratios = {key: values["median"] for key, values in measured.items()}
    missed = {key: ratios[key] - most for key, most in AT_MOST.items() if ratios[key] > most}
    missed |= {key: least - ratios[key] for key, least in AT_LEAST.items() if ratios[key] < least}
    result = {
        **ratios,
        "targets": {"at_most": AT_MOST, "at_least": AT_LEAST, "missed_by": missed},
        "measured": measured,
        "settings": speed["settings"],
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            **speed["machine"],
            "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
            "load_before_and_after": [round(load[0], 2), round(os.getloadavg()[0], 2)],
        },
        "versions": speed["versions"],
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": round(time.monotonic() - began),
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    _print(result)


def _in_fresh_process(part: str, folder: str, tiny: bool) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "measure.py"), part, folder, *(["--tiny"] if tiny else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)  # the process has printed the error
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _print(result: dict[str, Any]) -> None:
    missed = result["targets"]["missed_by"]
    for key, values in result["measured"].items():
        sign, limit = ("at most", AT_MOST[key]) if key in AT_MOST else ("at least", AT_LEAST.get(key))
        quartiles = "quartiles {:.3g} – {:.3g}".format(*values["quartiles"]) if "quartiles" in values else ""
        verdict = f"MISSED by {missed[key]:.3g}" if key in missed else "met"
        target = f"target: {sign} {limit}, {verdict}" if limit else ""
        print(f"{key:36} {values['median']:8.3g}   {quartiles:26} {target}")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
