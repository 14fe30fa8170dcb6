"""A result file of `compare.py` as a Markdown table: mean ± sample standard deviation over seeds in points of mIoU, and
each method's difference from the first one, paired by seed.

    python experiments/table.py results/scenes.json
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(path: Path) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    methods = list(data["methods"])
    domains = list(data["methods"][methods[0]]["domains"])
    # With one domain there is nothing private.
    alone = [d for d in domains if data["methods"][methods[0]]["domains"][d]["miou_private"]]
    columns = [(d, "miou") for d in domains] + [(None, "avg_miou")] + [(d, "miou_private") for d in alone]
    names = ["method", "seeds", *domains, "mean", *(f"private {d}" for d in alone), "minutes a run"]
    print("| " + " | ".join(names) + " |")
    print("|---" * len(names) + "|")
    for method in methods:
        cells = [pm(values(data, method, *column)) for column in columns]
        minutes = f"{data['methods'][method]['seconds']['mean'] / 60:.1f}"
        print("| " + " | ".join([f"`{method}`", str(data["methods"][method]["seeds"]), *cells, minutes]) + " |")
    for method in methods[1:]:
        cells = []
        for column in columns:
            first, other = values(data, methods[0], *column), values(data, method, *column)
            cells.append(pm([b - a for a, b in zip(first, other, strict=False)], sign="+"))
        print("| " + " | ".join([f"`{method}` − `{methods[0]}`", "", *cells, ""]) + " |")


def values(data: Any, method: str, domain: str | None, key: str) -> list[float]:
    """The figure of every seed, in the order of seeds."""
    runs = [run for name, run in data["runs"].items() if name.rpartition("/")[0] == method]
    return [run[key] if domain is None else run["domains"][domain][key] for run in runs]


def pm(numbers: Sequence[float], sign: str = "") -> str:
    spread = f" ± {100 * statistics.stdev(numbers):.1f}" if len(numbers) > 1 else ""
    return f"{100 * statistics.mean(numbers):{sign}.1f}{spread}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
