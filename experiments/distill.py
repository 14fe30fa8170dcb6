"""What a small student learns from a large teacher, and what either costs: mIoU on test and milliseconds an image.

    python experiments/distill.py CONFIG --student key.sub=value … --seeds 0 1 2 [--teachers N] [--set key.sub=value …]

For each seed: CONFIG's own training N times (its ensemble is the teacher), the student from its labels alone (`joint`)
and the student of `distill`. Runs are resumable; the result file is written as each seed ends. An image's time is the
best of several forwards of one image of the test split in eval mode, without reading it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch

from fewmask.data.domain import Domain
from fewmask.engine.device import autocast, choose_device
from fewmask.engine.fit import train
from fewmask.engine.run import load_config, load_domains, load_model
from fewmask.files import write_json
from fewmask.methods import read_config

REPEATS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--student", nargs="+", required=True, metavar="model.key=value")
    parser.add_argument("--seeds", nargs="+", type=int, required=True)
    parser.add_argument("--teachers", type=int, default=1, help="networks in the ensemble")
    parser.add_argument("--set", nargs="*", default=[], metavar="key.sub=value", dest="overrides")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows: dict[str, Any] = {}
    for seed in arguments.seeds:
        # Each teacher begins elsewhere; only the first one has the student's labelled images.
        folders = [arguments.runs / f"teacher-{seed}-{n}" for n in range(arguments.teachers)]
        for n, folder in enumerate(folders):
            rows[folder.name] = measured(arguments, folder, [f"seed={seed + 1000 * n}"])
        taught = ", ".join(f"'{folder.absolute()}'" for folder in folders)
        for name, method in (("alone", "joint"), ("taught", f"{{name: distill, teachers: [{taught}]}}")):
            folder = arguments.runs / f"{name}-{seed}"
            rows[folder.name] = measured(arguments, folder, [f"seed={seed}", f"method={method}", *arguments.student])
        command = f"python experiments/distill.py {shlex.join(sys.argv[1:])}"
        write_json(arguments.out, {"command": command, "cores": os.cpu_count(), "runs": rows})


def measured(arguments: argparse.Namespace, folder: Path, settings: list[str]) -> dict[str, Any]:
    summary = train(read_config(arguments.config, [*arguments.overrides, *settings]), folder)
    config = load_config(folder)
    speed = {name: milliseconds(folder, domain) for name, domain in load_domains(config).items()}
    found = {
        "miou": {name: scores["miou"] for name, scores in summary["domains"].items()},
        "avg_miou": summary["avg_miou"],
        "milliseconds": speed,
        "parameters": sum(p.numel() for p in load_model(folder).parameters()),
        **{key: summary[key] for key in ("seconds", "hardware", "versions")},
    }
    print(folder.name, round(100 * summary["avg_miou"], 1), speed, flush=True)
    return found


@torch.inference_mode()
def milliseconds(folder: Path, domain: Domain) -> float:
    """The best of several forwards of one test image."""
    precision = load_config(folder).train.precision
    model = load_model(folder, choose_device("auto")).to(memory_format=torch.channels_last)
    image = torch.from_numpy(domain.image(domain.splits["test"][0])).permute(2, 0, 1)[None].to(model.mean.device)
    best = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        with autocast(model.mean.device, precision):
            model(image, domain.name).argmax(1).cpu()
        best = min(best, time.perf_counter() - began)
    return round(1000 * best, 2)


if __name__ == "__main__":
    main()
