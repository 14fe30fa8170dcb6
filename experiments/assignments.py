"""Measure how often the entropies of univ-full and univ-cross favour the right class of a cell.

    python experiments/assignments.py RUN … [--split val] [--out results/assignments-half.json]
    python experiments/assignments.py --table results/assignments-half.json

RUN is a finished run of univ-full or univ-cross, mode: anchored. Network and prototypes are those of its last step. An
entropy falls when a cell moves to the class of its nearest prototype. The results are fractions of the labelled cells:

head, prototype    the head's class is right; the class of the nearest prototype of the cell's own domain is right
corrected, broken  the prototype is right and the head is wrong; the head is right and the prototype is wrong
entropy            mean of H(σ(v_ii)) / log C_i, of cells whose nearest prototype is right, and of the others
shared             cells whose class another domain has too: nearest to it there, to another class, or to none
private            cells whose class another domain lacks: nearest to none of its classes, or to one of them

Shapes: B images · C_k classes of domain k, G = Σ_k C_k · h×w cells of the embedding · N labelled cells.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from budget import pm
from compare import cpu_name
from torch import Tensor

from fewmask.data.domain import Domain
from fewmask.engine.checkpoint import load_state
from fewmask.engine.device import autocast, choose_device
from fewmask.engine.evaluation import LabelledBatches
from fewmask.engine.run import load_config, load_domains, versions
from fewmask.files import write_json
from fewmask.labels import NOT_LABELLED, LabelUnion
from fewmask.losses.alignment import cosine_similarity
from fewmask.losses.entropy import entropy
from fewmask.methods import build
from fewmask.methods.common.prototypes import LivePrototypes
from fewmask.methods.univ import Univ
from fewmask.models.saved import load_model
from fewmask.models.universal import UniversalSegmenter, at_stride
from fewmask.runs import RunFolder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--out", type=Path, default=Path("results/assignments-half.json"))
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads(arguments.table.read_text(encoding="utf-8"))))
        return
    found = {f"{run.parent.name}/{run.name}": measure_run(run, arguments.split) for run in arguments.runs}
    command = shlex.join([*(run.name for run in arguments.runs), "--split", arguments.split])
    head = {
        "command": f"python experiments/assignments.py {command}",
        "hardware": {"cpu": cpu_name()},
        "versions": versions(),
    }
    write_json(arguments.out, {**head, "runs": found})
    print(table({"runs": found}))


@torch.inference_mode()
def measure_run(folder: Path, split: str) -> dict[str, Any]:
    """The fractions of each domain."""
    config, device = load_config(folder), choose_device()
    domains = load_domains(config)
    model = load_model(folder, device)
    method = build(config.method, domains, config.train.steps)
    if not isinstance(method, Univ) or not isinstance(method.prototypes, LivePrototypes):
        raise ValueError(
            f"{folder}: a run of {config.method.name}; give one of univ-full or univ-cross, mode: anchored"
        )
    state = load_state(RunFolder(folder).state)
    method.prepare(model, torch.Generator())
    model.load_state_dict(state["model"])
    method.load_state_dict(state["method"])
    method.to(device)
    union = LabelUnion.build(model.spaces, config.synonyms).tables
    return {
        name: shares(k, list(each_image(model, domain, split)), method.prototypes, [union[n] for n in domains])
        for k, (name, domain) in enumerate(domains.items())
    }


def each_image(model: UniversalSegmenter, domain: Domain, split: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The embedding (1,D,h,w) of an image, the head's class (1,h,w) of each cell, and the label (1,h,w)."""
    batches = LabelledBatches(domain, domain.splits[split], batch_size=1)
    for index in range(len(batches)):
        ((image, label),) = batches[index]
        with autocast(model.mean.device, "auto"):
            features = model.encode(image.to(model.mean.device).permute(0, 3, 1, 2))
            logits = model.logits(features, domain.name, (label.shape[-2], label.shape[-1]))
            embedding = model.embed(features)
        cells = (at_stride(m, model.embedding_stride, model.multiple) for m in (logits.argmax(1).byte(), label))
        head, truth = (c.to(embedding.device) for c in cells)
        yield embedding, head, truth


def shares(
    k: int, images: list[tuple[Tensor, Tensor, Tensor]], prototypes: LivePrototypes, union: list[tuple[int, ...]]
) -> dict[str, float]:
    """The fractions of domain k's labelled cells. `union` holds the union class of each domain's classes."""
    similarity = torch.cat(
        [
            prototypes.without_absent(cosine_similarity(embedding, prototypes.vectors)).permute(0, 2, 3, 1)[
                label < NOT_LABELLED
            ]
            for embedding, _, label in images
        ]
    )  # (N,G)
    head, label = (torch.cat([image[part][image[2] < NOT_LABELLED] for image in images]).long() for part in (1, 2))
    columns = similarity.split(prototypes.classes, dim=1)
    by_head, by_prototype = head == label, columns[k].argmax(1) == label
    unsure = entropy(columns[k] / prototypes.temperature) / math.log(prototypes.classes[k])
    found = {
        "cells": len(label),
        "head": share(by_head),
        "prototype": share(by_prototype),
        "corrected": share(by_prototype & ~by_head),
        "broken": share(by_head & ~by_prototype),
        "entropy_right": float(unsure[by_prototype].mean()),
        "entropy_wrong": float(unsure[~by_prototype].mean()),
    }
    same, other, none, refused, taken = (torch.zeros(0, dtype=torch.bool) for _ in range(5))
    meaning = torch.tensor(union[k])[label.cpu()]
    for j, there in enumerate(union):
        if j == k:
            continue
        best, nearest = columns[j].max(1)
        nothing = (best < prototypes.boundary[j]).cpu()
        means = torch.tensor(there)[nearest.cpu()]
        has = torch.isin(meaning, torch.tensor(there))
        same = torch.cat([same, (~nothing & (means == meaning))[has]])
        other = torch.cat([other, (~nothing & (means != meaning))[has]])
        none = torch.cat([none, nothing[has]])
        refused, taken = torch.cat([refused, nothing[~has]]), torch.cat([taken, ~nothing[~has]])
    named = {"shared_same": same, "shared_other": other, "shared_none": none}
    return {**found, **{n: share(v) for n, v in {**named, "private_none": refused, "private_some": taken}.items()}}


def share(which: Tensor) -> float:
    return float(which.float().mean())


COLUMNS = ("head", "prototype", "corrected", "broken", "shared_same", "shared_other", "shared_none", "private_none")


def table(data: dict[str, Any]) -> str:
    """Markdown: percent, mean ± sample standard deviation over runs."""
    runs = list(data["runs"].values())
    lines = [f"| | {' | '.join(c.replace('_', ', ') for c in COLUMNS)} | entropy, right | entropy, wrong |"]
    lines.append("|---|" + "---|" * (len(COLUMNS) + 2))
    for name in runs[0]:
        cells = [pm([100 * run[name][c] for run in runs]) for c in COLUMNS]
        cells += [f"{statistics.mean(run[name][f'entropy_{w}'] for run in runs):.2f}" for w in ("right", "wrong")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
