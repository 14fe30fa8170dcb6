"""Compare methods over seeds on one configuration, at equal steps.

Runs follow one another, are resumable, and are saved when they end.

    python experiments/compare.py CONFIG --methods joint univ-full --seeds 0 1 2 [--set key.sub=value …]

A method may have settings: `univ-full:private=gate,alpha=0.2`. The result file holds, for every run, the scores of
each domain, and for every method their mean and sample standard deviation over seeds, with command, hardware, wall time
and versions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from fewmask.engine.fit import ProgressEvent, train
from fewmask.files import write_json
from fewmask.methods import read_config

KEPT = ("miou", "miou_legacy", "pixel_accuracy", "miou_shared", "miou_private", "iou", "split", "images")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--methods", nargs="+", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, required=True)
    parser.add_argument("--set", nargs="*", default=[], metavar="key.sub=value", dest="overrides")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="The folder of the runs, which are resumed.")
    parser.add_argument("--out", type=Path, help="The result file; by default results/<configuration's name>.json.")
    arguments = parser.parse_args()
    runs: dict[str, dict[str, Any]] = {}
    for seed in arguments.seeds:
        for method in arguments.methods:
            config = read_config(arguments.config, [*arguments.overrides, *method_overrides(method), f"seed={seed}"])
            folder = arguments.runs / config.name / f"{method.replace(':', '-').replace(',', '-')}-{seed}"
            summary = train(config, folder, report)
            runs[f"{method}/{seed}"] = summary
            print(method, seed, {n: round(d["miou"], 4) for n, d in summary["domains"].items()}, flush=True)
            out = arguments.out or Path("results") / f"{config.name}.json"
            write_json(out, result(arguments, runs))


def command(arguments: argparse.Namespace) -> str:
    """The command that makes these results, without the folders of runs and results."""
    seeds = [str(seed) for seed in arguments.seeds]
    words = [str(arguments.config), "--methods", *arguments.methods, "--seeds", *seeds]
    overrides = ["--set", *arguments.overrides] if arguments.overrides else []
    return "python experiments/compare.py " + shlex.join([*words, *overrides])


def method_overrides(method: str) -> list[str]:
    """`name:key=value,key=value` as overrides of a configuration."""
    name, _, settings = method.partition(":")
    return [f"method={{name: {name}}}", *(f"method.{s}" for s in settings.split(",") if s)]


def result(arguments: argparse.Namespace, runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    some = next(iter(runs.values()))
    return {
        "command": command(arguments),
        "commit": subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
        ).stdout.strip(),
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), **some["hardware"]},
        "versions": some["versions"],
        "steps": some["steps"],
        "labelled": some["labelled"],
        "unlabelled": some["unlabelled"],
        "methods": {method: spread([r for key, r in runs.items() if key.rpartition("/")[0] == method])
                    for method in arguments.methods if any(key.rpartition("/")[0] == method for key in runs)},
        "runs": {
            key: {
                "avg_miou": run["avg_miou"],
                "selected_step": run["selected_step"],
                "seconds": run["seconds"],
                "domains": {n: {k: d[k] for k in KEPT if k in d} for n, d in run["domains"].items()},
            }
            for key, run in runs.items()
        },
    }  # fmt: skip


def spread(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and sample standard deviation over seeds, of each domain's figures."""

    def over_seeds(values: list[float | None]) -> dict[str, float] | None:
        known = [v for v in values if v is not None]
        if not known:
            return None
        return {"mean": statistics.mean(known), "sd": statistics.stdev(known) if len(known) > 1 else 0.0}

    domains = list(runs[0]["domains"])
    return {
        "seeds": len(runs),
        "avg_miou": over_seeds([r["avg_miou"] for r in runs]),
        "seconds": over_seeds([r["seconds"] for r in runs]),
        "domains": {
            n: {k: over_seeds([r["domains"][n].get(k) for r in runs]) for k in ("miou", "miou_shared", "miou_private")}
            for n in domains
        },
    }


def report(event: ProgressEvent) -> None:
    if event.step % 20 == 0 and event.stage != "evaluate":
        terms = json.dumps({k: round(v, 3) for k, v in event.terms.items()})
        print(
            event.run,
            event.stage,
            event.step,
            terms,
            f"{event.steps_per_second:.2f}/s",
            file=sys.stderr,
            flush=True,
        )


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
