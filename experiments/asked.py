"""Count the regions that campaigns asked for, by image and by class.

    python experiments/asked.py RUN … [--out results/asked.json]
    python experiments/asked.py --table results/asked.json

images      number of images with a question
most        largest number of regions in one image
half        number of images that hold half of the regions, those with most first
classes     the three largest shares of a class in the answered pixels that have one

Shapes: C classes.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.annotation.ledger import Ledger
from fewmask.files import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results/asked.json"))
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads(arguments.table.read_text(encoding="utf-8"))["runs"]))
        return
    found = {f"{run.parent.name}/{run.name}": asked(run / "ledger.sqlite") for run in arguments.runs}
    write_json(arguments.out, {"runs": found})
    print(table(found))


def asked(path: Path) -> dict[str, Any]:
    """The counts from one campaign's ledger, over all of its domains."""
    images, pixels = Counter[tuple[str, str]](), Counter[str]()
    with Ledger(path) as ledger:
        for domain, names in ledger.classes().items():
            count = np.zeros(256, dtype=np.int64)  # uint8 labels: C classes, 254, 255
            for question, values in ledger.decisions(domain):
                images[domain, question.stem] += 1
                count += np.bincount(values.ravel(), minlength=256)
            # The values without a class come after the classes.
            pixels.update(dict(zip(names, count.tolist(), strict=False)))
    if not images:
        raise ValueError(f"{path}: no question was answered; name runs of campaigns with answers")
    regions, shares = sorted(images.values(), reverse=True), {n: p / pixels.total() for n, p in pixels.items()}
    half = sum(2 * so_far < sum(regions) for so_far in accumulate(regions)) + 1
    return {"regions": sum(regions), "images": len(regions), "most": regions[0], "half": half, "classes": shares}


def table(found: dict[str, Any]) -> str:
    """Markdown, a row for each run."""
    lines = ["| run | regions | images | most | half | classes |", "|---|---|---|---|---|---|"]
    for run, of in found.items():
        largest = sorted(of["classes"].items(), key=lambda pair: -pair[1])[:3]
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in largest)
        lines.append(f"| {run} | {of['regions']:,} | {of['images']} | {of['most']} | {of['half']} | {shares} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
