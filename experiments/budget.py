"""Compare ways to spend 12.1 % of the training pixels as labels, on one dataset, at equal steps.

    python experiments/budget.py DATA DATASET --seeds 0 1 2 [--rows full images …] [--scale 0.5] [--set key.sub=value …]
    python experiments/budget.py --table results/budget-camvid.json

DATA is the folder that holds the datasets and `weights/`. Each row is a campaign (resumable, saved as it ends):

    full              every mask
    images            random whole images
    images-semi       the same images, then a generation of S4AL+ on all of the others
    regions           a tenth of the images, then random squares
    s4al              a tenth of the images, then the squares with the highest entropy of the student
    s4al-plus         a tenth of the images, then the squares with the highest entropy of the teacher, and self-training
    s4al-plus-each    the same, but as many squares in every image
    points            100 pixels an image: half of them random, half of them by margin (PixelPick)
    points-even       as many pixels an image as the clicks of `images` would pay for

All scored networks have the same number of steps and of labelled images a step. Those of self-training have as many
images of the pool too. The minutes include everything before (a teacher, a first half of the points, pool scoring). The
last network is scored on test, once.

A click is a point, a corner of an outline, or a segment's name. Whole images are outlined at a tolerance of 2 pixels,
with an edge between two segments once. Squares take as many clicks a pixel as their dataset's whole images, and one
more.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from compare import cpu_name, report

from fewmask.campaigns import campaign
from fewmask.data.domain import Domain
from fewmask.data.layouts import load_domain
from fewmask.files import write_json
from fewmask.methods import parse_config

SHARE = 0.121
SIDES = {"camvid": 30, "labelmefacade": 20, "msrc_v2": 20}
CROPS = {"camvid": [240, 320], "labelmefacade": [160, 224], "msrc_v2": [160, 224]}
STEPS = {"camvid": 800, "labelmefacade": 800, "msrc_v2": 400}
ROWS = ("full", "images", "images-semi", "regions", "s4al-plus", "s4al-plus-each", "points", "points-even", "s4al")
TOLERANCE = 2.0  # pixels between a segment's edge and its outline


@dataclass(frozen=True)
class Train:
    """The training images: their number, their pixels at the network's size, and the clicks that outline them all."""

    images: int
    pixels: int
    clicks: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("dataset", choices=[*SIDES], nargs="?")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--scale", type=float, default=1.0, help="The scale of images, crops and squares.")
    parser.add_argument("--set", nargs="*", default=[], metavar="key.sub=value", dest="overrides")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="The folder of the runs, which are resumed.")
    parser.add_argument("--out", type=Path, help="The folder of the results, one file a run.")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads(arguments.table.read_text(encoding="utf-8"))))
        return
    out = arguments.out or Path("results") / f"budget-{arguments.dataset}.json"
    train = measure_train(arguments.data, arguments.dataset, arguments.scale)
    for seed in arguments.seeds:
        for row in arguments.rows:
            config = settings(arguments, train, row, seed)
            summary = campaign(config, arguments.runs / f"budget-{arguments.dataset}" / f"{row}-{seed}", report)
            record(out, arguments, train, row, seed, summary)
            print(row, seed, {n: round(d["miou"], 4) for n, d in summary["result"]["domains"].items()}, flush=True)


def settings(arguments: argparse.Namespace, train: Train, row: str, seed: int) -> Any:
    """The configuration of one row."""
    dataset, scale = arguments.dataset, arguments.scale
    tenth = round(0.1 * train.images)
    asked = round(SHARE * train.pixels - tenth * train.pixels / train.images)
    side = round(scale * SIDES[dataset])
    squares = {"regions": f"squares:{side}", "budget": {"amount": asked, "unit": "pixels"}}
    spread = {"amount": asked // side**2 // (train.images - tenth), "unit": "regions", "per": "image"}
    each = 100 if row == "points" else max(round(SHARE * train.clicks / train.images), 2)
    random, margin = (
        {"regions": "points", "budget": {"amount": n, "unit": "regions", "per": "image"}, "candidates": n}
        for n in (each // 2, each - each // 2)
    )
    one_look = {"scales": [1.0]}
    generations = {"rounds": 2, "pool": {"scales": [0.5, 1.0, 2.0]}}
    rows: dict[str, tuple[str, int | None, dict[str, Any]]] = {
        "full": ("supervised", None, {"rounds": 1}),
        "images": ("supervised", round(SHARE * train.images), {"rounds": 1}),
        "images-semi": ("s4al-plus", round(SHARE * train.images), generations),
        "regions": ("supervised", tenth, {"rounds": 1, "first": {**squares, "score": "random"}}),
        "s4al": ("s4al", tenth, {"rounds": 2, "ask": squares, "pool": {**one_look, "network": "student"}}),
        "s4al-plus": ("s4al-plus", tenth, {**generations, "ask": {**squares, "border": False}}),
        "s4al-plus-each": ("s4al-plus", tenth, {**generations, "ask": {**squares, "budget": spread, "border": False}}),
        "points": (
            "supervised",
            0,
            {
                "rounds": 2,
                "first": {**random, "score": "random", "top": 1.0},
                "ask": {**margin, "score": "margin"},
                "pool": one_look,
            },
        ),
    }
    method, labelled, rounds = rows[row.removesuffix("-even")]
    plain: dict[str, Any] = {
        "name": f"budget-{dataset}-{row}",
        "seed": seed,
        "domains": {dataset: {"layout": "folder", "root": dataset, **shrunk(scale)}},
        "labelled": {"images": labelled},
        "model": {
            "encoder": "tu-mobilenetv2_100",
            "encoder_options": {"pad_type": "same"},
            "weights": "weights/mobilenetv2_100.imagenet.safetensors",
        },
        "method": {"name": method},
        "train": {
            "steps": STEPS[dataset],
            "batch_size": 8,
            "crop": [round(scale * n) for n in CROPS[dataset]],
            "evaluate_every": 0,
        },
        "campaign": {"annotator": "oracle", **rounds},
    }
    if method == "s4al-plus":  # the cheaper representation head
        plain["method"] |= {"contrast": {"kernel": 1, "stride": 8}}
    for override in arguments.overrides:
        key, _, value = override.partition("=")
        *path, last = key.split(".")
        place = plain
        for part in path:
            place = place.setdefault(part, {})
        place[last] = yaml.safe_load(value)
    return parse_config(plain, arguments.data.absolute())


def shrunk(scale: float) -> dict[str, float]:
    return {} if scale == 1 else {"size": scale}


def measure_train(data: Path, dataset: str, scale: float) -> Train:
    """Train at the network's size. Outlines are drawn on the images at their own size."""
    whole, seen = domain(data, dataset, 1.0), domain(data, dataset, scale)
    stems = whole.splits["train"]
    return Train(
        len(stems), sum(seen.image(s)[..., 0].size for s in stems), sum(outlining(whole.mask(s)) for s in stems)
    )


def domain(data: Path, dataset: str, scale: float) -> Domain:
    plain = {"layout": "folder", "root": dataset, **shrunk(scale)}
    config = parse_config({"name": "x", "domains": {dataset: plain}, "method": "joint"}, data.absolute())
    return load_domain(dataset, config.domains[dataset])


def outlining(mask: np.ndarray) -> int:
    """Clicks that outline and name every segment of a mask (H,W). Pixels without a class (254, 255) cost none."""
    corners = segments = 0
    for value in range(254):
        inside = (mask == value).astype(np.uint8)
        if inside.any():
            edges, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            corners += sum(len(cv2.approxPolyDP(edge, TOLERANCE, True)) for edge in edges)
            segments += cv2.connectedComponents(inside, connectivity=8)[0] - 1
    return corners // 2 + segments


def record(
    out: Path, arguments: argparse.Namespace, train: Train, row: str, seed: int, summary: dict[str, Any]
) -> None:
    """Add a run to the result file."""
    there = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"runs": {}}
    result, last = summary["result"], summary["history"][-1]
    (name,) = result["domains"]
    words = [arguments.dataset, "--rows", row, "--seeds", str(seed)]
    words += ["--scale", str(arguments.scale)] if arguments.scale != 1 else []
    words += ["--set", *arguments.overrides] if arguments.overrides else []
    there["runs"][f"{row}/{seed}"] = {
        "command": "python experiments/budget.py DATA " + shlex.join(words),
        "commit": subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
        ).stdout.strip(),
        "miou": result["domains"][name]["miou"],
        "iou": result["domains"][name]["iou"],
        "validation": last["miou"][name],
        "validation_by_round": [entry["miou"][name] for entry in summary["history"]],
        "labelled_pixels": last["pixels"][name],
        "asked": summary["asked"],
        "clicks": clicks(row, last["pixels"][name], summary["asked"], train.clicks / train.pixels),
        "steps": result["steps"],
        "seconds": sum(entry["seconds"] + (entry["score_pool_seconds"] or 0) for entry in summary["history"]),
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), **result["hardware"]},
        "versions": result["versions"],
    }
    write_json(out, there)


def clicks(row: str, pixels: int, asked: int, per_pixel: float) -> int:
    """The clicks of a row, from its number of labelled pixels and its number of questions."""
    return asked if row.startswith("points") else round(per_pixel * pixels) + asked


def table(data: dict[str, Any]) -> str:
    """Markdown: mean ± sample standard deviation over seeds, in points of mIoU and in % of the same seed's `full`."""
    runs = data["runs"]
    lines = [
        "| row | seeds | test mIoU | % of full | validation | labelled pixels | questions | clicks | minutes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        of_row = {key.rpartition("/")[2]: run for key, run in runs.items() if key.rpartition("/")[0] == row}
        if not of_row:
            continue
        share = [100 * r["miou"] / runs[f"full/{s}"]["miou"] for s, r in of_row.items() if f"full/{s}" in runs]
        mean = {
            k: statistics.mean(r[k] for r in of_row.values()) for k in ("labelled_pixels", "asked", "clicks", "seconds")
        }
        lines.append(
            f"| {row} | {len(of_row)} | {pm([100 * r['miou'] for r in of_row.values()])} | {pm(share)} | "
            f"{pm([100 * r['validation'] for r in of_row.values()])} | {mean['labelled_pixels']:,.0f} | "
            f"{mean['asked']:,.0f} | {mean['clicks']:,.0f} | {mean['seconds'] / 60:.0f} |"
        )
    return "\n".join(lines)


def pm(numbers: list[float]) -> str:
    if not numbers:
        return "–"
    spread = f" ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.1f}{spread}"


if __name__ == "__main__":
    main()
