"""Measure the peak resident size of a campaign's pass over the pool as the number of images of 1024×2048 grows.

    python benchmarks/scoring_memory.py [--images 1000]

The pass has 19 classes, entropy of squares of 43 pixels, pseudo-labels written to the disk, a batch of 1 and no worker
processes. The network is timm's smallest one with a decoder of 16 channels, and images are generated when read.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fewmask.config import AskSettings, ModelSettings, PoolSettings
from fewmask.data.domain import Domain
from fewmask.data.pseudo import PseudoFolder
from fewmask.engine.committee import Committee, Member
from fewmask.engine.device import choose_device, memory_mib
from fewmask.engine.pool import ScoringRequest, score_pool
from fewmask.labels import LabelSpace, Mask, distinct_colour
from fewmask.models.universal import UniversalSegmenter

CLASSES, SIZE = 19, (1024, 2048)


@dataclass(frozen=True)
class Noise:
    """Images (H,W,3) of random blocks, equal at every read."""

    size: tuple[int, int]

    def image(self, stem: str) -> np.ndarray:
        blocks = np.random.default_rng(int(stem)).integers(0, 256, (self.size[0] // 8, self.size[1] // 8, 3), np.uint8)
        return blocks.repeat(8, 0).repeat(8, 1)

    def mask(self, stem: str) -> Mask:
        raise AssertionError("a pass over the pool must not read masks")

    def has_mask(self, stem: str) -> bool:
        return False

    def where(self, stem: str) -> str:
        return stem


def peaks(images: int, size: tuple[int, int]) -> dict[str, object]:
    """Peak MiB after the first image, a hundredth, a tenth, a half and all of the pool."""
    names = tuple(f"c{c}" for c in range(CLASSES))
    space = LabelSpace(names, tuple(distinct_colour(c) for c in range(CLASSES)), {c: c for c in range(CLASSES)})
    domain = Domain("noise", space, Noise(size), {"train": tuple(str(i) for i in range(images))}, ())
    device = choose_device()
    small = ModelSettings(encoder="tu-test_efficientnet", decoder_options={"decoder_channels": 16})
    model = UniversalSegmenter(small, {"noise": space}).to(device).eval()
    asked = ScoringRequest(AskSettings.model_validate({"budget": {"amount": 1}, "regions": "squares:43"}), 1)
    found: dict[str, float] = {"before": memory_mib(device)}
    at = {1, max(images // 100, 1), max(images // 10, 1), max(images // 2, 1), images}
    began = time.monotonic()

    def progress(done: int, total: int) -> None:
        if done in at:
            found[f"after {done}"] = round(memory_mib(device), 1)
            print(f"{done} of {total}: {found[f'after {done}']} MiB", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        seen = score_pool(
            Committee([Member(model)], PoolSettings(scales=(1.0,))), domain, Path(folder) / "scores",
            cache=Path(folder), request=asked, pseudo=PseudoFolder(Path(folder) / "pseudo"), batch_size=1, workers=0,
            progress=progress,
        )  # fmt: skip
        found["with all candidates"] = round(memory_mib(device), 1)
    seconds = round(time.monotonic() - began)
    assert seen is not None
    candidates = len(seen.candidates)
    return {"images": images, "size": size, "candidates": candidates, "peak_mib": found, "seconds": seconds}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Peak memory along a pass over a pool.")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", type=int, nargs=2, default=SIZE)
    args = parser.parse_args()
    print(json.dumps(peaks(args.images, tuple(args.size)), indent=2))
