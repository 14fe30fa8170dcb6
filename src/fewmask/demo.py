"""The demo: training and comparison of two methods on built-in scenes, small enough for two CPU cores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewmask.data.pictures import Row, overlay, sheet, write_image
from fewmask.engine.evaluation import as_array, predict_batch
from fewmask.engine.fit import ProgressCallback, train
from fewmask.engine.run import load_domains, load_model
from fewmask.files import write_json
from fewmask.labels import Mask
from fewmask.methods import parse_config
from fewmask.models.universal import UniversalSegmenter
from fewmask.paths import below
from fewmask.reports import report
from fewmask.runs import SUMMARY

METHODS = ("joint", "univ-full")
KINDS = ("streets", "rooms", "countryside")
SETTINGS: dict[str, Any] = {
    "domains": {kind: {"layout": "scenes", "kind": kind, "train": 150, "val": 12, "test": 40} for kind in KINDS},
    "labelled": {"images": 16},
    "model": {"encoder": "tu-mobilenetv2_050", "output_stride": 16},
    "train": {
        "steps": 150,
        "batch_size": 12,
        "unlabelled_batch_size": 6,
        "crop": [96, 128],
        "augment": {"scale": [0.75, 1.5]},
        "optimiser": {"lr": 2.0e-3, "head_lr": 4.0e-3},
        "checkpoint_every": 60,
        "evaluate_every": 0,
    },
}
# Random weights, so that nothing is downloaded.
SHOWN = 2  # test images of each domain in the picture


def compare(folder: Path, observe: ProgressCallback = lambda event: None) -> dict[str, Any]:
    """Train each method into `folder/<method>`, and write overlays of test images, a picture that compares them, and a
    report page.

    An interrupted demo is resumed. Returns `{"runs": {method: summary}, "picture": path, "report": path}`.
    """
    runs, rows = {}, []
    for method in METHODS:
        config = parse_config(SETTINGS | {"name": f"demo-{method}", "method": method})
        runs[method] = train(config, below(folder, method), observe)
    models = {method: load_model(below(folder, method)) for method in METHODS}
    for name, domain in load_domains(config).items():
        for stem in domain.splits["test"][:SHOWN]:
            image, truth = domain.image(stem), domain.mask(stem)
            masks = [truth, *(_prediction(model, image, name) for model in models.values())]
            overlays = [overlay(image, mask, domain.space, zoom=2) for mask in masks]
            rows.append(Row([image, *overlays], domain.space, caption=name))
            for method, drawn in zip(METHODS, overlays[1:], strict=True):
                write_image(below(_made(below(folder, method) / "overlays"), f"{name}-{stem}", ending=".png"), drawn)
    picture = folder / "comparison.png"
    write_image(picture, sheet(rows, ["input", "ground truth", *METHODS], cell=192))
    page = report([below(folder, method) for method in METHODS], folder / "report.html")
    result = {"runs": runs, "picture": str(picture), "report": page["report"]}
    write_json(folder / SUMMARY, result)
    return result


def _prediction(model: UniversalSegmenter, image: np.ndarray, domain: str) -> Mask:
    return as_array(predict_batch(model, torch.from_numpy(image)[None], domain))[0]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
