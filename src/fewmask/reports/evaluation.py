"""One pass over a split of one domain, an image at a time: what the page shows of it, in bounded memory.

Shapes: H×W pixels of an image · C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewmask.config import Precision
from fewmask.data.batches import read_batches
from fewmask.data.domain import Domain
from fewmask.engine.device import autocast
from fewmask.engine.evaluation import LabelledBatches, as_array
from fewmask.engine.metrics import confusion, reliability, scores
from fewmask.labels import NOT_LABELLED, Mask
from fewmask.models.universal import UniversalSegmenter


@dataclass(frozen=True, eq=False)
class SplitEvaluation:
    """The evaluation of one domain's split, on some or all of its images."""

    domain: Domain
    split: str
    stems: tuple[str, ...]
    """The evaluated images, evenly spread over those of the split that have a mask."""
    images_in_split: int
    """Images of the split."""
    matrix: Tensor
    """(C,C) pixels by class and predicted class."""
    reliability: Tensor
    """(bins,3), see `engine.metrics.reliability`."""
    ranked: tuple[tuple[str, float], ...]
    """Images with a labelled pixel and their mIoU over the classes they show, best first."""

    @property
    def whole(self) -> bool:
        """Whether every image of the split was evaluated, so that the figures are those of `fewmask evaluate`."""
        return len(self.stems) == self.images_in_split

    @property
    def scores(self) -> dict[str, Any]:
        return scores(self.matrix, self.domain.space.names)


def chosen(domain: Domain, split: str, limit: int) -> tuple[str, ...]:
    """At most `limit` images of a split that have a mask, evenly spread."""
    known = [stem for stem in domain.splits.get(split, ()) if domain.source.has_mask(stem)]
    return tuple(spread(known, limit))


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """`count` of the items, or all where there are fewer, evenly spread and in their order."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


@torch.inference_mode()
def evaluate_split(
    model: UniversalSegmenter,
    domain: Domain,
    split: str,
    stems: tuple[str, ...],
    precision: Precision = "auto",
    workers: int = 0,
    progress: Callable[[int], object] = lambda done: None,
) -> SplitEvaluation:
    """Evaluate these images of a split. Raises ValueError that names an image or mask that cannot be read."""
    classes = domain.space.num_classes
    matrix = torch.zeros(classes, classes, dtype=torch.long)
    table = reliability(torch.ones(0), torch.ones(0))  # of no pixel: zeros
    found = []
    batches = LabelledBatches(domain, stems, batch_size=1)
    for stem, ((image, label),) in zip(stems, read_batches(batches, range(len(stems)), workers), strict=True):
        sure, prediction = probabilities(model, image, domain.name, precision).max(1)
        truth = label.to(prediction.device)
        own = confusion(prediction, truth, classes).cpu()
        known = truth < NOT_LABELLED
        table += reliability(sure[known], (prediction == truth)[known])
        matrix += own
        miou = scores(own, domain.space.names)["miou"]
        if miou is not None:
            found.append((stem, miou))
        progress(1)
    ranked = tuple(sorted(found, key=lambda pair: -pair[1]))
    return SplitEvaluation(domain, split, stems, len(domain.splits.get(split, ())), matrix, table, ranked)


def probabilities(model: UniversalSegmenter, image: Tensor, domain: str, precision: Precision = "auto") -> Tensor:
    """image (B,H,W,3) uint8 → (B,C,H,W) fp32."""
    device = model.mean.device
    with autocast(device, precision):
        logits = model(image.to(device).permute(0, 3, 1, 2), domain)
    return logits.float().softmax(1)


@dataclass(frozen=True, eq=False)
class Shown:
    """An image with what the network says of it: image (H,W,3), truth and prediction (H,W), and the entropy (H,W) of
    its probabilities as a fraction of the largest possible. An image without a mask has neither truth nor mIoU."""

    stem: str
    miou: float | None
    image: np.ndarray
    truth: Mask | None
    prediction: Mask
    uncertainty: np.ndarray


@torch.inference_mode()
def show(model: UniversalSegmenter, domain: Domain, stem: str, precision: Precision = "auto") -> Shown:
    image = domain.image(stem)
    p = probabilities(model, torch.from_numpy(image)[None], domain.name, precision)[0]
    entropy = torch.special.entr(p).sum(0) / np.log(max(len(p), 2))
    truth = domain.mask(stem) if domain.source.has_mask(stem) else None
    prediction, miou = as_array(p.argmax(0)), None
    if truth is not None:
        own = confusion(torch.from_numpy(prediction), torch.from_numpy(truth), domain.space.num_classes)
        miou = scores(own, domain.space.names)["miou"]
    return Shown(stem, miou, image, truth, prediction, entropy.cpu().numpy())
