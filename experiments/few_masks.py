"""Tabulate the runs of a recipe's folder on validation, and score chosen rows on test.

    python experiments/few_masks.py RUNS [--out results/base-recipe.json]
    python experiments/few_masks.py RUNS --test ROW … [--chosen ROW …] [--few results/few-masks.json]

The first command reads finished runs alone. It prints the mean validation mIoU of every row and, paired by seed, its
difference from `--control`. The second also scores the rows of `--test` on test, each run once: a score in its
summary or its `evaluations.jsonl` is reused. The test scores of the rows of `--chosen`, one for each role, method,
domain and number of masks, are written to `--few` too. Both files keep their entries of other runs, and a new entry
replaces an older one of the same name.

role        labels: one domain, its labels alone · joint: several domains, their labels alone · pool: one domain with
            its unlabelled images · universal: several domains with theirs
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fewmask.config import Config
from fewmask.engine.evaluation import evaluate
from fewmask.engine.run import load_config, load_domains, load_model
from fewmask.files import write_json
from fewmask.runs import RunFolder

LABELS_ALONE = ("supervised", "joint", "fine-tune")
MADE = ("hardware", "versions")
KEY = ("role", "method", "domain", "masks", "seed")
# Two-sided 95 % quantiles of Student's t by degrees of freedom.
QUANTILES = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--control", default="control", help="The row with which others are compared.")
    parser.add_argument("--out", type=Path, default=Path("results/base-recipe.json"))
    parser.add_argument("--test", nargs="*", default=[], metavar="ROW")
    parser.add_argument("--chosen", nargs="*", default=[], metavar="ROW")
    parser.add_argument("--few", type=Path, default=Path("results/few-masks.json"))
    arguments = parser.parse_args()
    runs = finished(arguments.runs)
    if missing := {*arguments.test, *arguments.chosen} - {row_of(name) for name in runs}:
        raise SystemExit(f"no finished run of {', '.join(sorted(missing))} in {arguments.runs}")
    for name, run in runs.items():
        if row_of(name) in (*arguments.test, *arguments.chosen):
            score_test(run)
    found = with_older(arguments.out, "runs", {name: outcome(run) for name, run in runs.items()}, common(runs))
    write_json(arguments.out, found)
    print(table(found["runs"], arguments.control))
    if chosen := {name: run for name, run in runs.items() if row_of(name) in arguments.chosen}:
        rows = {"/".join(str(row[k]) for k in KEY): row for run in chosen.values() for row in rows_of(run)}
        settings = {row_of(name): settings_of(load_config(run)) for name, run in chosen.items()}
        few = with_older(arguments.few, "rows", rows, {"settings": settings, **common(chosen)})
        write_json(arguments.few, few | {"rows": list(few["rows"].values())})


def row_of(name: str) -> str:
    return name.rpartition("/")[0]


def with_older(file: Path, part: str, new: Mapping[str, Any], made_with: Mapping[str, Any]) -> dict[str, Any]:
    """The file's content with new entries in place of older ones of the same name, and the hardware and versions of
    all. `command` is the last one that wrote the file."""
    older = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    entries = older.get(part, {})
    if isinstance(entries, list):
        entries = {"/".join(str(entry[k]) for k in KEY): entry for entry in entries}
    both = {key: older.get(key, []) + [one for one in made_with[key] if one not in older.get(key, [])] for key in MADE}
    settings = older.get("settings", {}) | made_with.get("settings", {})
    return {part: dict(sorted((entries | dict(new)).items())), "command": command(), "settings": settings, **both}


def finished(folder: Path) -> dict[str, Path]:
    """The finished runs `<row>-<seed>` of a recipe's folder, as row/seed."""
    found = sorted(path.parent for path in folder.glob("*/summary.json"))
    if not found:
        raise SystemExit(f"{folder}: no finished run; give the folder of `fewmask recipes run … --out`")
    return {"/".join(path.name.rsplit("-", 1)): path for path in found}


def summary(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return found


def common(runs: Mapping[str, Path]) -> dict[str, Any]:
    """All values of hardware and versions in the runs."""
    summaries = [summary(run) for run in runs.values()]
    return {key: [dict(one) for one in {tuple(s[key].items()) for s in summaries}] for key in MADE}


def outcome(run: Path) -> dict[str, Any]:
    """The validation scores of a run by step, of both networks if it has an average; and its test score, if known."""
    found, config, test = summary(run), load_config(run), tested(run)
    best = max(found["validation"], key=lambda one: one["avg_miou"])
    return {
        "domains": list(config.domains),
        "masks": config.labelled.images,
        "seed": config.seed,
        "seconds": found["seconds"],
        "miou": best["avg_miou"],
        "step": best["step"],
        "history": found["validation"],
        "iou": {name: scores["iou"] for name, scores in found["domains"].items()},
        **({} if test is None else {"test": {name: scores["miou"] for name, scores in test.items()}}),
    }


def tested(run: Path) -> dict[str, Any] | None:
    """The scores on test by domain, if the run or a later evaluation has them."""
    if load_config(run).train.score == "test":
        return dict(summary(run)["domains"])
    file = run / "evaluations.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    return next((dict(line["domains"]) for line in lines if line["split"] == "test"), None)


def score_test(run: Path) -> None:
    if tested(run) is None:
        config = load_config(run)
        domains, network, train = load_domains(config), load_model(run), config.train
        result = evaluate(
            network, domains, "test", synonyms=config.synonyms, workers=train.workers, precision=train.precision
        )
        RunFolder(run).record_evaluation("test", result)


def rows_of(run: Path) -> list[dict[str, Any]]:
    config, test = load_config(run), tested(run)
    assert test is not None
    return [
        {
            "role": role(config),
            "method": config.method.name,
            "domain": name,
            "masks": config.labelled.images,
            "seed": config.seed,
            "miou": scores["miou"],
            "seconds": summary(run)["seconds"],
        }
        for name, scores in test.items()
    ]


def role(config: Config) -> str:
    alone, one = config.method.name in LABELS_ALONE, len(config.domains) == 1
    return ("labels" if one else "joint") if alone else ("pool" if one else "universal")


def settings_of(config: Config) -> dict[str, Any]:
    """A row's settings of network, method and training, without paths."""
    found = config.model_dump(mode="json", serialize_as_any=True, include={"model", "method", "train"})
    found["model"]["weights"] = config.model.weights and Path(str(config.model.weights)).name
    return found


def table(runs: Mapping[str, Mapping[str, Any]], control: str) -> str:
    """Markdown: rows, their validation and test, and the differences from the control over the seeds that both have."""
    lines = ["| row | seeds | validation | − control | test | − control |", "|---|---|---|---|---|---|"]
    rows = dict.fromkeys(row_of(name) for name in runs)
    for row in rows:
        cells = [f"| `{row}` | {sum(row_of(name) == row for name in runs)}"]
        for split in ("validation", "test"):
            own, beside = by_seed(runs, row, split), by_seed(runs, control_of(row, rows, control), split)
            paired = [own[seed] - beside[seed] for seed in own if seed in beside]
            cells += [spread(list(own.values())), "" if row.startswith(f"{control}-") else interval(paired)]
        lines.append(" | ".join(cells) + " |")
    averaged = {n: r["history"][-1]["weights"] for n, r in runs.items() if "weights" in r["history"][-1]}
    if averaged:
        lines += ["", "| row | average − last weights, last step |", "|---|---|"]
        for row in dict.fromkeys(map(row_of, averaged)):
            pairs = [weights for name, weights in averaged.items() if row_of(name) == row]
            lines.append(f"| `{row}` | {interval([100 * (p['average'] - p['last']) for p in pairs])} |")
    return "\n".join(lines)


def control_of(row: str, rows: Iterable[str], control: str) -> str:
    """The control row with the longest ending in common: `control-msrc` of `weights-50-msrc`; empty without one."""
    endings = [other.removeprefix(control) for other in rows if other.startswith(f"{control}-")]
    return max((control + ending for ending in endings if row.endswith(ending)), key=len, default="")


def by_seed(runs: Mapping[str, Mapping[str, Any]], row: str, split: str) -> dict[int, float]:
    """A row's mean mIoU over its domains in points, where it is known."""
    own = [run for name, run in runs.items() if row_of(name) == row]
    if split == "test":
        return {run["seed"]: 100 * fmean(run["test"].values()) for run in own if "test" in run}
    return {run["seed"]: 100 * run["miou"] for run in own}


def spread(values: Sequence[float]) -> str:
    return "–" if not values else f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def interval(differences: Sequence[float]) -> str:
    """Mean ± sample standard deviation and the 95 % interval of the mean by Student's t."""
    n = len(differences)
    if n < 2:
        return f"{differences[0]:+.1f}" if differences else "–"
    middle, deviation = fmean(differences), stdev(differences)
    half = QUANTILES[n - 2] * deviation / n**0.5
    return f"{middle:+.1f} ± {deviation:.1f} ({middle - half:.1f} to {middle + half:.1f})"


def command() -> str:
    return "python experiments/few_masks.py " + shlex.join(["RUNS", *sys.argv[2:]])


if __name__ == "__main__":
    main()
