"""Train methods with the pool's true labels, which must not be worse than training on labels alone.

    python experiments/oracle.py CONFIG --methods fixmatch s4al:answers=student --seeds 0 1 2 [--set key.sub=value …]

The method gets every image of the pool that has a mask as one that people answered wholly. Its labels are the mask's,
with a confidence of 1. If a method is then below `supervised` or `joint` on the same seed, the cause is its views, its
weights or its schedule, because its labels are right. The row `labels` has no pool, `<method>` is the unchanged method,
and `<method>-oracle` has the pool's true labels. The runs are resumable. Their weights are selected and scored on
validation.
"""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from compare import method_overrides

from fewmask.data.domain import Domain
from fewmask.engine.fit import train
from fewmask.engine.run import load_domains
from fewmask.files import write_json
from fewmask.methods import read_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--methods", nargs="+", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, required=True)
    parser.add_argument("--set", nargs="*", default=[], metavar="key.sub=value", dest="overrides")
    parser.add_argument("--runs", type=Path, default=Path("runs/oracle"))
    parser.add_argument("--out", type=Path, default=Path("results/oracle.json"))
    arguments = parser.parse_args()
    rows = ["labels", *(f"{m}{end}" for m in arguments.methods for end in ("", "-oracle"))]
    found: dict[str, dict[str, Any]] = {}
    for seed in arguments.seeds:
        for row in rows:
            method = method_overrides("joint" if row == "labels" else row.removesuffix("-oracle"))
            overrides = [*arguments.overrides, *method, f"seed={seed}", "train.score=val"]
            config = read_config(arguments.config, overrides)
            domains = load_domains(config)
            if row.endswith("-oracle"):
                domains = {name: with_true_pool(domain) for name, domain in domains.items()}
            folder = arguments.runs / f"{row.replace(':', '-').replace(',', '-')}-{seed}"
            summary = train(config, folder, domains=domains)
            kept = {key: summary[key] for key in ("avg_miou", "selected_step", "seconds", "validation")}
            found[f"{row}/{seed}"] = kept | {"domains": {n: s["miou"] for n, s in summary["domains"].items()}}
            print(row, seed, json.dumps(found[f"{row}/{seed}"]["domains"]), flush=True)
            made = {key: summary[key] for key in ("hardware", "versions", "steps")}
            write_json(arguments.out, {"command": command(arguments), **made, "runs": found})


def command(arguments: argparse.Namespace) -> str:
    """The command that makes these results, without the folders of runs and results."""
    words = [str(arguments.config), "--methods", *arguments.methods, "--seeds", *map(str, arguments.seeds)]
    overrides = ["--set", *arguments.overrides] if arguments.overrides else []
    return "python experiments/oracle.py " + shlex.join([*words, *overrides])


def with_true_pool(domain: Domain) -> Domain:
    """The domain with the masks of the pool as answers. Labelled rows are unchanged."""
    whole, there = frozenset(domain.whole), domain.splits["train"]
    answered = {s: 1.0 for s in there if s not in whole and domain.source.has_mask(s)}
    return replace(domain, labelled=tuple(s for s in there if s in whole or s in answered), partial=answered)


if __name__ == "__main__":
    main()
