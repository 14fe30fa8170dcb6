"""One pass over a split of one domain, one image at a time, so that memory stays bounded.

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
from fewmask.formats.bands import as_rgb
from fewmask.labels import NOT_LABELLED, Mask
from fewmask.models.universal import UniversalSegmenter


@dataclass(frozen=True, eq=False)
class SplitEvaluation:
    """The evaluation of one domain's split, on some or all of its images."""

    domain: Domain
    split: str
    stems: tuple[str, ...]
    """The evaluated images, evenly spread over the images of the split with a mask."""
    images_in_split: int
    """The number of images in the split."""
    matrix: Tensor
    """(C,C) pixels by class and predicted class."""
    reliability: Tensor
    """(bins,3), see `engine.metrics.reliability`."""
    ranked: tuple[tuple[str, float], ...]
    """Images with a labelled pixel, and their mIoU over the classes that they show, best first."""

    @property
    def whole(self) -> bool:
        """Whether every image of the split was evaluated. The figures then equal those of `fewmask evaluate`."""
        return len(self.stems) == self.images_in_split

    @property
    def scores(self) -> dict[str, Any]:
        return scores(self.matrix, self.domain.space.names)


def choose_images(domain: Domain, split: str, limit: int) -> tuple[str, ...]:
    """At most `limit` images of a split with a mask, evenly spread."""
    stems = [stem for stem in domain.splits.get(split, ()) if domain.source.has_mask(stem)]
    return tuple(spread(stems, limit))


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """`count` of the items, or all if there are fewer, evenly spread and in order."""
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
    """Evaluate these images of a split. Raises ValueError that names an unreadable image or mask."""
    classes = domain.space.num_classes
    matrix = torch.zeros(classes, classes, dtype=torch.long)
    table = reliability(torch.ones(0), torch.ones(0))  # zeros
    image_scores = []
    batches = LabelledBatches(domain, stems, batch_size=1)
    for stem, ((image, label),) in zip(stems, read_batches(batches, range(len(stems)), workers), strict=True):
        confidence, prediction = probabilities(model, image, domain.name, precision).max(1)
        truth = label.to(prediction.device)
        image_matrix = confusion(prediction, truth, classes).cpu()
        labelled = truth < NOT_LABELLED
        table += reliability(confidence[labelled], (prediction == truth)[labelled])
        matrix += image_matrix
        miou = scores(image_matrix, domain.space.names)["miou"]
        if miou is not None:
            image_scores.append((stem, miou))
        progress(1)
    ranked = tuple(sorted(image_scores, key=lambda pair: -pair[1]))
    return SplitEvaluation(domain, split, stems, len(domain.splits.get(split, ())), matrix, table, ranked)


def probabilities(model: UniversalSegmenter, image: Tensor, domain: str, precision: Precision = "auto") -> Tensor:
    """image (B,H,W,3) uint8 → (B,C,H,W) fp32."""
    device = model.mean.device
    with autocast(device, precision):
        logits = model(image.to(device).permute(0, 3, 1, 2), domain)
    return logits.float().softmax(1)


@dataclass(frozen=True, eq=False)
class ImagePanel:
    """An image (H,W,3) with truth and prediction (H,W), and the entropy (H,W) of its probabilities as a fraction of the
    largest possible entropy. An image without a mask has neither truth nor mIoU."""

    stem: str
    miou: float | None
    image: np.ndarray
    truth: Mask | None
    prediction: Mask
    uncertainty: np.ndarray


@torch.inference_mode()
def image_panel(model: UniversalSegmenter, domain: Domain, stem: str, precision: Precision = "auto") -> ImagePanel:
    image = domain.image(stem)
    p = probabilities(model, torch.from_numpy(image)[None], domain.name, precision)[0]
    entropy = torch.special.entr(p).sum(0) / np.log(max(len(p), 2))
    truth = domain.mask(stem) if domain.source.has_mask(stem) else None
    prediction, miou = as_array(p.argmax(0)), None
    if truth is not None:
        matrix = confusion(torch.from_numpy(prediction), torch.from_numpy(truth), domain.space.num_classes)
        miou = scores(matrix, domain.space.names)["miou"]
    return ImagePanel(stem, miou, as_rgb(image), truth, prediction, entropy.cpu().numpy())
