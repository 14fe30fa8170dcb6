"""Measure annotation tools: a brush code of a large mask, and the import of many answered regions.

    python benchmarks/annotation.py [--tiny] [--out FILE]

The results are seconds of one process with one thread, as medians, each with its CPU time, because other programs on
the same cores increase the wall time. Targets: a mask of 2 megapixels in less than 0.05 s in either direction, and
1,000 answered regions in at most 5 s. The regions are four in each of 250 images, of CamVid's size and of Cityscapes'.
All formats but Label Studio's, CVAT's XML and COCO's instances hold whole images, which the import has to read.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fewmask.annotation import coco, cvat, label_studio
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Question
from fewmask.annotation.tasks import labels
from fewmask.annotation.tools import TOOLS
from fewmask.data.domain import Domain
from fewmask.data.pictures import write_mask
from fewmask.formats.rle import decode_brush, encode_brush
from fewmask.labels import NOT_LABELLED, LabelSpace, Mask, distinct_colour

CLASSES, SIDE = 11, 60
FORMATS = (
    ("folder", "painted"),
    ("label-studio", "tasks.json"),
    ("cvat", "annotations.xml"),
    ("cvat", "masks.zip"),
    ("coco", "instances.json"),
    ("coco", "panoptic.json"),
)


@dataclass(frozen=True)
class Smooth:
    """Images with equal content."""

    size: tuple[int, int]

    def image(self, stem: str) -> np.ndarray:
        return np.full((*self.size, 3), 128, dtype=np.uint8)

    def mask(self, stem: str) -> Mask:
        raise ValueError(f"{stem}: it has no mask")

    def has_mask(self, stem: str) -> bool:
        return False

    def where(self, stem: str) -> str:
        return stem


def scene(size: tuple[int, int]) -> Mask:
    """Smooth shapes of all classes: (H,W) uint8."""
    rng = np.random.default_rng(0)
    field = cv2.resize(rng.normal(size=(24, 32, CLASSES)), size[::-1], interpolation=cv2.INTER_CUBIC)
    return field.argmax(-1).astype(np.uint8)


def measured(run: Callable[[], object], rounds: int) -> dict[str, float]:
    wall, cpu = [], []
    for _ in range(rounds + 1):  # the first is not measured
        began, busy = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - busy)
    return {"seconds": statistics.median(wall[1:]), "cpu_seconds": statistics.median(cpu[1:])}


def brush(size: tuple[int, int], rounds: int) -> dict[str, Any]:
    mask = (scene(size) < CLASSES // 2).ravel()
    code = encode_brush(mask).tobytes()
    return {
        "brush_encode": measured(lambda: encode_brush(mask), rounds) | {"pixels": mask.size, "bytes": len(code)},
        "brush_decode": measured(lambda: decode_brush(code, mask.size), rounds),
    }


def imports(folder: Path, size: tuple[int, int], images: int, regions: int, rounds: int) -> dict[str, Any]:
    """Measure each tool's import of images with answered squares of all classes into an empty ledger."""
    stems = tuple(f"{i:04}" for i in range(images))
    names = tuple(f"c{c}" for c in range(CLASSES))
    space = LabelSpace(names, tuple(distinct_colour(c) for c in range(CLASSES)), {c: c for c in range(CLASSES)})
    domain = Domain("bench", space, Smooth(size), {"train": stems}, ())
    across, mask, painted = size[1] // SIDE, scene(size), np.full(size, NOT_LABELLED, dtype=np.uint8)
    corners = [(r // across * SIDE, r % across * SIDE) for r in range(regions)]
    questions = [
        Question("bench", stem, f"squares:{SIDE}", r, (y, x, y + SIDE, x + SIDE))
        for stem in stems
        for r, (y, x) in enumerate(corners)
    ]
    for question in questions[:regions]:
        question.window(painted)[:] = question.window(mask)

    folder.mkdir()

    def all_of_them() -> Iterator[tuple[str, Mask]]:
        yield from ((stem, painted) for stem in stems)

    def tasks() -> Iterator[dict[str, Any]]:
        strokes = label_studio.brush_results(
            (name, name, painted == value) for name, value in labels(space).items() if (painted == value).any()
        )
        for i, stem in enumerate(stems):
            ids = list(range(i * regions + 1, (i + 1) * regions + 1))
            annotation = {"id": i, "completed_by": 1, "lead_time": 60.0, "result": strokes}
            data = {"domain": domain.name, "stem": stem, "questions": ids}
            yield {"id": i, "data": data, "annotations": [annotation]}

    label_studio.write_list(folder / "tasks.json", tasks())
    cvat.write_xml(folder / "annotations.xml", space, all_of_them())
    cvat.write_masks(folder / "masks.zip", space, all_of_them())
    coco.write_instances(folder / "instances.json", space, all_of_them())
    coco.write_panoptic(folder / "panoptic.json", space, all_of_them())
    for stem, values in all_of_them():
        write_mask(folder / "painted" / domain.name / "labels" / f"{stem}.png", values, space)
    found = {}
    for tool, file in FORMATS:
        times = []
        for number in range(rounds):
            with Ledger(folder / f"{tool}-{file}-{number}.sqlite") as ledger:
                ledger.add_images(domain, stems)
                ledger.ask(1, questions)
                began, busy = time.perf_counter(), time.process_time()
                taken = TOOLS[tool].read_answers(ledger, {domain.name: domain}, folder / file, "bench")
                times.append((time.perf_counter() - began, time.process_time() - busy))
                assert taken.answered == len(questions)
        wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
        name = f"import {tool} {file} {size[1]}x{size[0]}"
        found[name] = {"seconds": wall, "cpu_seconds": cpu, "regions": len(questions)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure annotation tools on this machine.")
    parser.add_argument("--tiny", action="store_true", help="Small sizes that check only that the benchmark runs.")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    large, small = ((64, 128), (120, 180)) if args.tiny else ((1024, 2048), (360, 480))
    images, regions, rounds = (2, 2, 1) if args.tiny else (250, 4, 3)
    cv2.setNumThreads(1)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        result = brush(large, rounds * 5)
        for size in (small, large):
            result |= imports(Path(folder) / f"{size[0]}", size, images, regions, rounds)
    result["load"] = {"before": load, "after": os.getloadavg()[0]}
    for name, figures in result.items():
        print(f"{name:44}" + "   ".join(f"{key} {value:.4g}" for key, value in figures.items()))
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
