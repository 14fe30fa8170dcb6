"""Tiny datasets on disk in the `folder` layout, configurations for them, and what a run left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from fewmask.config import Config
from fewmask.engine.fit import ProgressEvent
from fewmask.engine.run import load_domains, save_model
from fewmask.labels import VOID, distinct_colour
from fewmask.methods import parse_config
from fewmask.models.universal import UniversalSegmenter
from fewmask.runs import RunFolder

ENCODER = "tu-test_efficientnet"  # timm's smallest network: 0.4 million parameters
NARROW = {"decoder_channels": 64}  # a quarter of the usual width: a step takes half the time


def write_domain(
    root: Path,
    classes: int = 3,
    train: int = 4,
    pool: int = 2,
    val: int = 2,
    test: int = 2,
    size: tuple[int, int] = (40, 48),
    seed: int = 0,
) -> Path:
    """Blocks of classes, each in its colour with noise; `pool` images of train have no mask. Void is the last rows."""
    rng = np.random.default_rng([seed, classes])
    colours = np.array([distinct_colour(i) for i in range(classes)])
    for folder in ("images", "labels", "splits"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train + pool), ("val", val), ("test", test)):
        stems = [f"{split}{i}" for i in range(count)]
        for number, stem in enumerate(stems):
            blocks = rng.integers(0, classes, (-(-size[0] // 8), -(-size[1] // 8)))
            blocks.flat[:classes] = np.arange(classes)
            mask = np.kron(blocks, np.ones((8, 8), int))[: size[0], : size[1]].astype(np.uint8)
            noise = rng.integers(-20, 20, (*size, 3))
            pixels = np.clip(colours[mask] + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "images" / f"{stem}.png")
            mask[-2:] = VOID
            if split != "train" or number < train:
                Image.fromarray(mask).save(root / "labels" / f"{stem}.png")
        if stems:
            (root / "splits" / f"{split}.txt").write_text("".join(f"{s}\n" for s in stems), encoding="utf-8")
    data = {"classes": {i: {"name": f"c{i}", "color": list(distinct_colour(i))} for i in range(classes)}}
    (root / "classes.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    return root


def write_bands(root: Path, channels: int = 4, dtype: str = "uint16", seed: int = 0) -> Path:
    """A folder domain whose images are TIFFs of so many bands, made of the coloured blocks of `write_domain`."""
    write_domain(root, 3, size=(40, 48), seed=seed)
    rng = np.random.default_rng(seed)
    for path in sorted((root / "images").glob("*.png")):
        colours = np.asarray(Image.open(path)).astype(np.float64)
        mixed = colours @ rng.uniform(0.2, 1, (3, channels)) * 10 + 500
        pixels = mixed if np.dtype(dtype).kind == "f" else np.rint(mixed)
        flat = pixels.astype(dtype)[..., 0] if channels == 1 else pixels.astype(dtype)
        path.unlink()
        tifffile.imwrite(path.with_suffix(".tif"), flat, photometric="minisblack", planarconfig="contig")
    return root


def two_domains(root: Path, **options: Any) -> Path:
    """Domains a (3 classes) and b (4), which share three classes."""
    write_domain(root / "a", 3, seed=1, **options)
    write_domain(root / "b", 4, seed=2, **options)
    return root


def plain(root: Path, method: str | Mapping[str, Any] = "joint", **train: Any) -> dict[str, Any]:
    """A configuration of the domains a and b as plain data: the smallest network, few steps, no workers."""
    method = {"name": method} if isinstance(method, str) else dict(method)
    settings = {
        "steps": 4,
        "batch_size": 4,
        "unlabelled_batch_size": 2,
        "crop": [32, 32],
        "precision": "fp32",
        "device": "cpu",
        "workers": 0,
        "log_every": 1,
        "evaluate_every": 0,
    }
    return {
        "name": "tiny",
        "domains": {n: {"layout": "folder", "root": str(root / n)} for n in ("a", "b")},
        "model": {"encoder": ENCODER, "decoder_options": {**NARROW}, "embedding": {"dim": 8}},
        "method": {**_needs(method["name"], root), **method},
        "train": {**settings, **train},
    }


def _needs(name: str, root: Path) -> dict[str, Any]:
    """What a method needs beside its name to train on the domains a and b."""
    if name == "distill":
        return {"teachers": [str(teacher(root))]}
    if name == "cycada":
        return {"target": "b"}
    return {"domain": "a"} if name == "supervised" else {}


def teacher(root: Path) -> Path:
    """The folder of a run with a random network of the domains a and b."""
    folder = root / "teacher"
    if not folder.exists():
        configuration = config(root)
        spaces = {name: d.space for name, d in load_domains(configuration).items()}
        save_model(RunFolder(folder), UniversalSegmenter(configuration.model, spaces, seed=7))
    return folder


def config(root: Path, method: str | Mapping[str, Any] = "joint", **train: Any) -> Config:
    return parse_config(plain(root, method, **train))


def write_config(path: Path, data: Mapping[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(dict(data)), encoding="utf-8")
    return path


def weights_of(run: Path) -> dict[str, Tensor]:
    return load_file(run / "model.safetensors")


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without the time that they took."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def summary_of(run: Path) -> dict[str, Any]:
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    del summary["seconds"], summary["memory_mib"]
    return summary


def assert_same_run(one: Path, other: Path) -> None:
    """Bit for bit the same weights, and the same lines and summary but for the time."""
    expected, got = weights_of(one), weights_of(other)
    assert expected.keys() == got.keys()
    assert not [name for name in expected if not torch.equal(expected[name], got[name])]
    assert metrics_of(one) == metrics_of(other)
    assert summary_of(one) == summary_of(other)


def environment(threads: int = 1) -> dict[str, str]:
    """Of a process that trains: few threads, and none that spin while others wait for the core."""
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}


def run_python(code: str, *arguments: object, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own; `sys.argv[1:]` are the arguments."""
    return _run([sys.executable, "-c", code, *map(str, arguments)], timeout)


def run_file(script: Path, *arguments: object, timeout: float = 1800) -> subprocess.CompletedProcess[str]:
    """Run a script, which processes that are spawned import again, as they cannot do with `-c`."""
    return _run([sys.executable, str(script), *map(str, arguments)], timeout)


def _run(command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Its words go to files: a pipe stays open for as long as the loader processes of a killed run take to notice."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        done = subprocess.run(command, stdout=out, stderr=err, timeout=timeout, env=environment(), check=False)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, done.returncode, out.read(), err.read())


class Stop(Exception):
    """What an interrupted run ends with."""


def stop_at(step: int, stage: str | None = None) -> Callable[[ProgressEvent], None]:
    """An observer that stops the run when it hears of a training step, or of an image of an evaluation."""

    def observe(event: ProgressEvent) -> None:
        if event.step == step and (event.stage == stage if stage else event.stage != "evaluate"):
            raise Stop

    return observe
