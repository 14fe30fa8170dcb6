"""Batches of labels and pool for semi-supervised methods, and their terms as loops over pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from helpers import relabelled, steps, train_settings
from torch import Tensor

from fewmask.data.batch import Batch
from fewmask.data.domain import Domain
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.methods import METHODS
from fewmask.methods.common.base import Method
from fewmask.methods.common.teacher import MeanTeacherMethod
from fewmask.models.universal import UniversalSegmenter

# About half of the pixels of an `opinionated` network are as sure as this.
SURE = 0.5
PLAIN: dict[str, dict[str, Any]] = {
    "pseudo-label": {"begin": 0, "end": 0.5, "threshold": SURE},
    "fixmatch": {"threshold": SURE, "ema": None, "labels_in": "train"},
    "unimatch": {"threshold": SURE, "ema": None, "labels_in": "train"},
    "s4al": {"ema": 0.99, "cold": 0, "threshold": SURE, "adaptive": "always", "tail_share": 0.5},
}
NAMES = list(PLAIN)
STRONG = ["fixmatch", "unimatch", "s4al"]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def method(name: str, of: dict[str, Domain], **options: Any) -> Method:
    return METHODS[name](METHODS[name].Settings.model_validate({"name": name, **PLAIN[name], **options}), of)


def opinionated(network: UniversalSegmenter) -> UniversalSegmenter:
    """A random network says almost the same of every pixel; this one does not."""
    with torch.no_grad():
        for name, parameter in network.heads.named_parameters():
            parameter.mul_(300 if "weight" in name else 0)
    return network


def prepared(name: str, of: dict[str, Domain], network: UniversalSegmenter, **options: Any) -> Method:
    """In eval mode, where rows do not meet in batch normalisation; its teacher, if any, is as sure as the student, of
    another class."""
    made = method(name, of, **options)
    made.prepare(opinionated(network), rng())
    if isinstance(made, MeanTeacherMethod) and made.teacher is not None:
        for head in made.teacher.model.heads.parameters():
            head.copy_(head.roll(1, 0))
    network.eval()
    network.zero_grad()
    return made


def drawn(of: dict[str, Domain], network: UniversalSegmenter, made: Method, rows: int = 4, pool: int = 4) -> Batch:
    """A micro-batch with answers and void in its pool: a square of class 1 and one of void in every other row."""
    settings = train_settings(batch_size=rows, unlabelled_batch_size=pool)
    (part,) = steps(of, made.phases(4), settings, network)[3]
    label = part.label.clone()
    label[part.pool :: 2, 4:12, 4:12] = 1
    label[part.pool :: 2, 20:28, 6:20] = VOID
    return relabelled(part, label, network)


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def pixels(rows: Tensor, size: int = 32) -> Iterator[tuple[int, int, int]]:
    for row in rows.tolist():
        for y in range(size):
            for x in range(size):
                yield row, y, x


def log_probabilities(network: UniversalSegmenter, images: Tensor, owner: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [
            network(image[None], network.domains[int(k)])[0].log_softmax(0)
            for image, k in zip(images, owner, strict=True)
        ]


def looped(
    network: UniversalSegmenter, images: Tensor, part: Batch, label: Tensor, weight: Tensor, features: Any = None
) -> float:
    """Σ_k 1/N_k Σ w · CE over the pool's rows, N_k counted in the weak views."""
    owner = part.domain[part.pool :]
    log_p = log_probabilities(network, images, owner) if features is None else features
    sums = dict.fromkeys(owner.tolist(), 0.0)
    counts = dict.fromkeys(owner.tolist(), 0)
    for row, y, x in pixels(torch.arange(len(owner))):
        k, c = int(owner[row]), int(label[row, y, x])
        counts[k] += int(part.label[part.pool + row, y, x] != VOID)
        if c < NOT_LABELLED:
            sums[k] -= float(weight[row, y, x]) * float(log_p[row][c, y, x])
    return sum(sums[k] / counts[k] for k in sums if counts[k])


def supervised_loop(network: UniversalSegmenter, part: Batch, rows: int) -> float:
    log_p = log_probabilities(network, part.image[:rows], part.domain[:rows])
    values: dict[int, list[float]] = {}
    for row, y, x in pixels(torch.arange(rows)):
        c = int(part.label[row, y, x])
        if c < NOT_LABELLED:
            values.setdefault(int(part.domain[row]), []).append(-float(log_p[row][c, y, x]))
    return sum(float(np.mean(v)) for v in values.values())


def by_hand(network: UniversalSegmenter, part: Batch) -> tuple[Tensor, Tensor]:
    """Label and confidence (U,H,W) of the pool."""
    label, confidence = part.label[part.pool :].clone(), torch.ones(part.label[part.pool :].shape)
    rows = log_probabilities(network, part.image[part.pool :], part.domain[part.pool :])
    for row, log_p in enumerate(rows):
        free = label[row] == NOT_LABELLED
        label[row][free] = log_p.argmax(0).to(torch.uint8)[free]
        confidence[row][free] = log_p.amax(0).exp()[free]
    return label, confidence


def swap(mask: Tensor, source: Tensor, values: Tensor) -> Tensor:
    out = values.clone()
    for row in range(len(out)):
        out[row][..., mask[row]] = values[source[row]][..., mask[row]]
    return out
