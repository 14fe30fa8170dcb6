"""Files of runs that were never trained, as plain data that the records of `fewmask.runs` accept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewmask.runs import FORMAT

DIGEST = "0" * 64


def scores(iou: Mapping[str, float | None], **changes: Any) -> dict[str, Any]:
    """Scores of a domain with these classes."""
    values = [value for value in iou.values() if value is not None]
    miou = sum(values) / len(values) if values else None
    plain = {"miou": miou, "miou_legacy": sum(values) / len(iou), "pixel_accuracy": miou, "iou": dict(iou)}
    return {**plain, "pixels": 100, "split": "test", "images": 4, **changes}


def summary(domains: Mapping[str, Mapping[str, Any]], **changes: Any) -> dict[str, Any]:
    """What a training came to that scored these domains."""
    mious = [one["miou"] for one in domains.values() if one["miou"] is not None]
    return {
        "format": FORMAT,
        "name": "made",
        "method": "joint",
        "seed": 0,
        "steps": 10,
        "selected_step": 10,
        "avg_miou": sum(mious) / len(mious) if mious else None,
        "domains": {name: dict(one) for name, one in domains.items()},
        "validation": [],
        "trained": list(domains),
        "labelled": dict.fromkeys(domains, 3),
        "unlabelled": dict.fromkeys(domains, 5),
        "seconds": 60.0,
        "memory_mib": None,
        "hardware": {"device": "cpu", "name": "made", "threads": 1},
        "versions": {"fewmask": "0"},
        "weights": {"model.safetensors": DIGEST},
        **changes,
    }


def entry(number: int, pixels: Mapping[str, int], score_pool_seconds: float = 0.0) -> dict[str, Any]:
    """A round of a campaign that counts labels in pixels."""
    miou = dict.fromkeys(pixels)
    cost = {name: float(count) for name, count in pixels.items()}
    record = {"round": number, "cost": cost, "pixels": dict(pixels), "miou": miou, "seconds": 60.0}
    return {**record, "score_pool_seconds": score_pool_seconds, "total_cost": sum(cost.values()), "avg_miou": None}


def campaign(history: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """How far a campaign of these rounds is."""
    return {
        "format": FORMAT,
        "state": "done",
        "round": len(history) - 1,
        "rounds": max(len(history), 1),
        "open": 0,
        "unit": "pixels",
        "asked": 4,
        "answered": 4,
        "spent": 100.0,
        "budget": 100.0,
        "seconds": 0.0,
        "clicks": 4.0,
        "history": history,
        "forecast": None,
        "result": None,
        **changes,
    }


def description(spaces: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The network of these label spaces."""
    return {
        "format": FORMAT,
        "domains": {name: dict(space) for name, space in spaces.items()},
        "model": {"encoder": "resnet18", "weights": None},
        "normalisation": {"mean": [0.0] * 3, "std": [1.0] * 3, "range": [0, 255]},
        "versions": {"fewmask": "0"},
        "weights": DIGEST,
    }


def write(path: Path, data: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")
