"""Measure how much faster a training step is on cached features of a frozen encoder than on the images, and than with
the whole encoder trained. See benchmarks/README.md.

    python benchmarks/features.py [--tiny] [--out FILE]

The sides alternate in one process (A B C A B C …), and each round gives one ratio. A step draws its batch in this
process, from decoded images in memory or from features on the disk, and runs forward, backward and optimiser. Times
are processor times, so the device is a CPU.

Shapes: B images · H×W pixels of a crop.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measure import TINY, Sizes, summary, write_dataset

from fewmask.config import Config
from fewmask.data.batches import Steps
from fewmask.data.domain import Domain
from fewmask.data.domains import load_domains
from fewmask.engine.device import autocast
from fewmask.engine.features import cache_features
from fewmask.engine.optimiser import Optimisers
from fewmask.engine.preflight import check_training
from fewmask.engine.run import build_network, hardware, versions
from fewmask.methods import build, parse_config

HERE = Path(__file__).parent
MODELS: dict[str, dict[str, Any]] = {
    "MobileNetV2, DeepLabV3+": {"encoder": "tu-mobilenetv2_100"},
    "ResNet-50, DeepLabV3+": {"encoder": "resnet50"},
    "ViT-S/16, linear": {"encoder": "tu-vit_small_patch16_224", "decoder": "linear"},
    "ViT-S/16, DPT": {"encoder": "tu-vit_small_patch16_224", "decoder": "dpt"},
    "ViT-B/16, linear": {"encoder": "tu-vit_base_patch16_224", "decoder": "linear"},
}
STEPS = 100_000
SIDES = ("cached", "frozen", "full")


def configuration(root: Path, model: dict[str, Any], side: str, sizes: Sizes) -> Config:
    tuning = {"name": "full"} if side == "full" else {"name": "frozen", "cached": side == "cached"}
    train = {
        "steps": STEPS, "batch_size": sizes.batch, "crop": sizes.crop, "augment": {"scale": [1, 1]}, "workers": 0,
        "cache": "memory", "device": "cpu",
    }  # fmt: skip
    domains = {"bench": {"layout": "folder", "root": str(root)}}
    return parse_config(
        {"name": "bench", "domains": domains, "model": {**model, "tuning": tuning}, "method": "joint", "train": train}
    )


def stepper(config: Config, domains: dict[str, Domain], folder: Path) -> tuple[Callable[[], None], float]:
    """A training step on its next batch, and the processor seconds in which the features were computed."""
    device = torch.device("cpu")
    model = build_network(config.model, domains, config.seed).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    method = build(config.method, domains, config.train.steps).to(device)
    phases = method.phases(config.train.steps)
    check_training(config.train, phases, model, method)
    steps = Steps(domains, config.train, phases, sorted({1, model.stride, model.embedding_stride}), model.multiple, 0)
    began = time.process_time()
    if model.packing is not None:
        steps.features = cache_features(model, domains, phases, config.train, folder)
    seconds = time.process_time() - began
    optimisers, rng = Optimisers(config.train.optimiser, model, method), torch.Generator(device)
    numbers = iter(range(STEPS))
    model.train()

    def step() -> None:
        (batch,) = steps[next(numbers)]
        optimisers.zero_grad()
        with autocast(device, config.train.precision):
            terms = method.step(model, batch.to(device), rng)
        torch.stack(list(terms.values())).sum().backward()
        optimisers.step()

    return step, seconds


def processor_seconds(step: Callable[[], None], times: int) -> float:
    """Of one step, as the mean of `times` steps after one that is not measured."""
    step()
    began = time.process_time()
    for _ in range(times):
        step()
    return (time.process_time() - began) / times


def measure(root: Path, model: dict[str, Any], sizes: Sizes) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        configs = {side: configuration(root, model, side, sizes) for side in SIDES}
        domains = load_domains(configs["full"])
        made = {side: stepper(config, domains, Path(folder)) for side, config in configs.items()}
        files = list(Path(folder).iterdir())
        size = sum(path.stat().st_size for path in files) / len(files)
        seconds: dict[str, list[float]] = {side: [] for side in SIDES}
        for _ in range(sizes.step_rounds):
            for side, (step, _) in made.items():
                seconds[side].append(processor_seconds(step, sizes.steps))
    ratios = {side: [a / b for a, b in zip(seconds[side], seconds["cached"], strict=True)] for side in SIDES[1:]}
    return {
        **{f"{side}_over_cached": summary(values) for side, values in ratios.items()},
        "steps_a_second": {side: 1 / median(values) for side, values in seconds.items()},
        "bytes_an_image": round(size),
        "seconds_an_image": made["cached"][1] / len(files),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure steps on cached features of a frozen encoder.")
    parser.add_argument("--tiny", action="store_true", help="Small sizes that check only that the benchmark runs.")
    parser.add_argument("--out", type=Path, default=HERE / "last-features.json")
    args = parser.parse_args()
    sizes = TINY if args.tiny else Sizes(image=(180, 240), images=12, crop=(96, 128), step_rounds=3, steps=3)
    began, load, measured = time.monotonic(), os.getloadavg(), {}
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(root := Path(folder) / "data", sizes)
        for name, model in list(MODELS.items())[: 1 if args.tiny else None]:
            measured[name] = values = measure(root, model, sizes)
            frozen, full = values["frozen_over_cached"], values["full_over_cached"]
            print(
                f"{name:26} frozen / cached {frozen['median']:6.2f}   full / cached {full['median']:6.2f}   "
                f"{values['bytes_an_image'] / 1e6:.2f} MB an image",
                flush=True,
            )
    result = {
        "measured": measured,
        "settings": asdict(sizes),
        "machine": {
            **hardware(torch.device("cpu")),
            "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
            "load_before_and_after": [round(load[0], 2), round(os.getloadavg()[0], 2)],
        },
        "versions": versions(),
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": round(time.monotonic() - began),
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
