"""Evaluation of a domain that was not trained on: with every head, with all heads fused, and with the head that fits
each image best.

Shapes: B images · H×W pixels · h×w feature cells · K heads · C classes of the domain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from fewmask.config import Precision
from fewmask.data.batches import read_batches
from fewmask.data.domain import Domain
from fewmask.engine.device import autocast
from fewmask.engine.evaluation import LabelledBatches, Progress
from fewmask.engine.metrics import confusion, mean
from fewmask.engine.transfer import as_trained, mapped_scores
from fewmask.labels import ClassMapping
from fewmask.models.fusion import AUTO, FUSED, Fused

AMBIGUOUS = 1.0
"""The choice of a domain is ambiguous if the next one is less than this number of standard deviations farther away."""


@dataclass(frozen=True)
class Choice:
    """The domain that fits an image best. `excess` is, for each domain, how much the image's distance exceeds that of
    the domain's labelled images, in standard deviations (`Fused.excess`). `margin` is the difference to the next
    domain."""

    domain: str
    excess: Mapping[str, float]
    margin: float

    @property
    def ambiguous(self) -> bool:
        return self.margin < AMBIGUOUS


def choices(model: Fused, excess: Tensor) -> list[Choice]:
    """The domain that fits each image best: `Fused.excess` (B,K) → B choices."""
    return [clearest(dict(zip(model.fused, row, strict=True))) for row in excess.tolist()]


def clearest(excess: Mapping[str, float]) -> Choice:
    best, *others = sorted(excess, key=excess.__getitem__)
    return Choice(best, excess, excess[others[0]] - excess[best] if others else float("inf"))


def every_head(
    model: Fused,
    target: Domain,
    names: Mapping[str, str | None] | None = None,
    split: str = "val",
    *,
    batch_size: int = 4,
    workers: int = 2,
    precision: Precision = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score on another domain, in one pass: each head, all heads fused, and for each image the head that fits it best.

    `names` maps classes of any head to the target's classes, or to None where the target lacks them. Classes of equal
    name or meaning need no entry. Heads have different classes. The scores of `through_mapping` count those that a head
    has. `miou_union` is the mean over all classes that occur and that some head has, with 0 where this head lacks one.

    Returns `{"domains": {target: the fused scores}, "avg_miou": …, "heads": {head, "fused" and "auto": scores},
    "chosen": {head: images}, "ambiguous": images, "excess": {head: mean}}`. Raises ValueError as `LabelUnion.onto`, for
    a target to which no class is mapped, and for a split that is absent or empty.
    """
    target = as_trained(model, target, model.fused)
    stems = target.stems(split)
    mappings = _mappings(model, target, names)
    device, columns = model.mean.device, target.space.num_classes + 1
    tables = {
        name: torch.tensor([columns - 1 if t < 0 else t for t in m.table], device=device)
        for name, m in mappings.items()
    }
    matrices = {name: torch.zeros(columns - 1, columns, dtype=torch.long, device=device) for name in mappings}
    chosen: list[Choice] = []
    batches = LabelledBatches(target, stems, batch_size)
    was_training = model.training
    model.eval()
    for image, label in chain.from_iterable(read_batches(batches, range(len(batches)), workers)):
        labels = label.to(device)
        with torch.inference_mode(), autocast(device, precision):
            features = model.encode(image.to(device).permute(0, 3, 1, 2), model.fused[0])
            chosen += choices(model, model.excess(model.similarity(features)))
            for name, table in tables.items():
                logits = model.logits(features, name, (label.shape[1], label.shape[2]))
                matrices[name] += confusion(table[logits.argmax(1)], labels, columns - 1, columns)
        if progress:
            progress(len(chosen), len(stems))
    model.train(was_training)
    nameable = [target.space.names[i] for i in sorted(mappings[FUSED].reachable)]
    heads = {}
    for name, mapping in mappings.items():
        head_scores = mapped_scores(matrices[name].cpu(), mapping)
        present = [c for c in nameable if matrices[name][target.space.index(c)].any()]
        union = mean([head_scores["iou"][c] or 0.0 for c in present])
        heads[name] = head_scores | {"miou_union": union, "head": name, "split": split, "images": len(chosen)}
    return {
        "way": "every head",
        "domains": {target.name: heads[FUSED]},
        "avg_miou": heads[FUSED]["miou"],
        "size": target.size,
        "heads": heads,
        "chosen": {n: sum(c.domain == n for c in chosen) for n in model.fused},
        "ambiguous": sum(c.ambiguous for c in chosen),
        "excess": {n: mean([c.excess[n] for c in chosen]) for n in model.fused},
    }


def _mappings(model: Fused, target: Domain, names: Mapping[str, str | None] | None) -> dict[str, ClassMapping]:
    """The mappings of every head, of "fused" and of "auto" to the target. A head's class is mapped by its class in the
    union."""
    union = model.union.onto(target.space, names)
    if not union.reachable:
        raise ValueError(f"class mapping: no class of any head is mapped to {target.name}; map at least one")
    heads = {
        name: ClassMapping(model.spaces[name], target.space, tuple(union.table[u] for u in model.union.tables[name]))
        for name in model.fused
    }
    return {**heads, FUSED: union, AUTO: union}
