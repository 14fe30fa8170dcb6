"""Compare a small student with its large teachers: mIoU on test and milliseconds an image.

    python experiments/distill.py CONFIG --student key.sub=value … [--teacher key.sub=value …]… --seeds 0 1 2

Each seed determines the labelled images of all its runs: CONFIG's own training with the settings of each `--teacher`
(without changes if there is none), the student from the labels alone (`joint`), the student taught by the first teacher
and, if there are several, by all. Runs are resumable, and the result file is written after each. An image's time is the
least of several forward passes of one image of the test split in eval mode, without reading it. On a CPU it is
processor time, on which other work has little effect. Use one thread.
"""

from __future__ import annotations

import argparse
import os
import shlex
import time
from pathlib import Path
from typing import Any

import torch
from compare import cpu_name, report, spread

from fewmask.data.domain import Domain
from fewmask.engine.device import autocast, choose_device
from fewmask.engine.fit import train
from fewmask.engine.run import load_config, load_domains, load_model
from fewmask.files import write_json
from fewmask.methods import read_config

REPEATS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--student", nargs="+", required=True, metavar="key.sub=value")
    parser.add_argument("--teacher", nargs="+", action="append", metavar="key.sub=value", dest="teachers")
    parser.add_argument("--seeds", nargs="+", type=int, required=True)
    parser.add_argument("--set", nargs="*", default=[], metavar="key.sub=value", dest="overrides")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="The folder of the runs, which are resumed.")
    parser.add_argument("--out", type=Path, required=True, help="The result file.")
    arguments = parser.parse_args()
    runs: dict[str, dict[str, Any]] = {}
    for seed in arguments.seeds:
        for row, settings in rows(arguments, seed).items():
            runs[f"{row}/{seed}"] = measured(arguments, arguments.runs / f"{row}-{seed}", [*settings, f"seed={seed}"])
            write_json(arguments.out, result(arguments, runs))


def rows(arguments: argparse.Namespace, seed: int) -> dict[str, list[str]]:
    """The overrides of each run by its name, with teachers before their students."""
    teachers = arguments.teachers or [[]]
    found = {f"teacher-{n}": settings for n, settings in enumerate(teachers, 1)}
    folders = [f"'{(arguments.runs / f'{name}-{seed}').absolute()}'" for name in found]
    found["alone"] = ["method=joint", *arguments.student]
    for count in sorted({1, len(teachers)}):
        method = f"method={{name: distill, teachers: [{', '.join(folders[:count])}]}}"
        found[f"taught-by-{count}"] = [method, *arguments.student]
    return found


def measured(arguments: argparse.Namespace, folder: Path, settings: list[str]) -> dict[str, Any]:
    summary = train(read_config(arguments.config, [*arguments.overrides, *settings]), folder, report)
    config, model = load_config(folder), load_model(folder)
    speed = {name: milliseconds(folder, domain) for name, domain in load_domains(config).items()}
    print(folder.name, round(100 * summary["avg_miou"], 1), speed, flush=True)
    return summary | {
        "encoder": config.model.encoder,
        "parameters": sum(p.numel() for p in model.parameters()),
        "milliseconds": speed,
    }


@torch.inference_mode()
def milliseconds(folder: Path, domain: Domain) -> float:
    """The least time of several forward passes of one test image, with torch's current number of threads."""
    precision = load_config(folder).train.precision
    model = load_model(folder, choose_device("auto")).to(memory_format=torch.channels_last)
    image = torch.from_numpy(domain.image(domain.splits["test"][0])).permute(2, 0, 1)[None].to(model.mean.device)
    clock, best = (time.process_time if image.device.type == "cpu" else time.perf_counter), float("inf")
    for _ in range(REPEATS):
        began = clock()
        with autocast(image.device, precision):
            model(image, domain.name).argmax(1).cpu()
        best = min(best, clock() - began)
    return round(1000 * best, 2)


def result(arguments: argparse.Namespace, runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    some = next(iter(runs.values()))
    kept = ("encoder", "parameters", "milliseconds", "avg_miou", "selected_step", "seconds")
    names = dict.fromkeys(key.partition("/")[0] for key in runs)
    return {
        "command": command(arguments),
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), **some["hardware"]},
        **{key: some[key] for key in ("versions", "steps", "labelled", "unlabelled")},
        "methods": {n: spread([r for key, r in runs.items() if key.partition("/")[0] == n]) for n in names},
        "runs": {
            key: {k: run[k] for k in kept}
            | {"domains": {n: {k: d[k] for k in ("miou", "iou")} for n, d in run["domains"].items()}}
            for key, run in runs.items()
        },
    }


def command(arguments: argparse.Namespace) -> str:
    """The command that makes these results, without the folders of runs and results."""
    words = [str(arguments.config), "--student", *arguments.student]
    for teacher in arguments.teachers or []:
        words += ["--teacher", *teacher]
    words += ["--seeds", *map(str, arguments.seeds), *(["--set", *arguments.overrides] if arguments.overrides else [])]
    return "python experiments/distill.py " + shlex.join(words)


if __name__ == "__main__":
    main()
