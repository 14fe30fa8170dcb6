"""Evaluation at the size of the images.

Shapes: B images of one size · N images of a split · H×W pixels · C_k classes of domain k · P classes of predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fewmask import distributed
from fewmask.config import Precision
from fewmask.data.batches import read_batches
from fewmask.data.domain import Domain
from fewmask.engine.device import autocast
from fewmask.engine.metrics import confusion, mean, scores
from fewmask.engine.tiles import classes_by_tiles, is_large
from fewmask.labels import ClassMapping, shared_classes
from fewmask.models.universal import UniversalSegmenter
from fewmask.runs import ImageCounts

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Counts:
    """The counts of a split, int64 on the CPU: the confusion matrix (C,P) of all images, and for each image in the
    split's order (N,C,3) the correct, labelled and predicted pixels of every class."""

    confusion: Tensor
    images: Tensor


class LabelledBatches(Dataset[list[tuple[Tensor, Tensor]]]):
    """Whole images (B,H,W,3) uint8 and masks (B,H,W) uint8. Item i holds the i-th `batch_size` stems, stacked where
    neighbours have one size. Transferring one large tensor from a worker is much faster than many small ones."""

    def __init__(self, domain: Domain, stems: Sequence[str], batch_size: int) -> None:
        self.domain, self.stems, self.batch_size = domain, tuple(stems), batch_size

    def __len__(self) -> int:
        return -(-len(self.stems) // self.batch_size)

    def __getitem__(self, index: int) -> list[tuple[Tensor, Tensor]]:
        cv2.setNumThreads(0)
        first = index * self.batch_size
        pairs = (self._read(stem) for stem in self.stems[first : first + self.batch_size])
        batches = same_size_batches(pairs, self.batch_size, size=lambda pair: pair[1].shape)
        return [(_stack([i for i, _ in batch]), _stack([m for _, m in batch])) for batch in batches]

    def _read(self, stem: str) -> tuple[np.ndarray, np.ndarray]:
        image, mask = self.domain.image(stem), self.domain.mask(stem)
        if image.shape[:2] != mask.shape:
            raise ValueError(
                f"{self.domain.source.where(stem)}: image {image.shape[:2]} and mask {mask.shape} differ in size"
            )
        return image, mask


def _stack(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))


def same_size_batches(images: Iterator[Any], batch_size: int, size: Callable[[Any], Any]) -> Iterator[list[Any]]:
    """Runs of consecutive items of equal `size`, cut into lists of at most `batch_size`."""
    for _, run in groupby(images, key=size):
        items: list[Any] = []
        for item in run:
            items.append(item)
            if len(items) == batch_size:
                yield items
                items = []
        if items:
            yield items


@torch.inference_mode()
def predict_batch(model: UniversalSegmenter, image: Tensor, domain: str, precision: Precision = "auto") -> Tensor:
    """The class of every pixel: image (B,H,W,3) uint8 → (B,H,W) int64 in 0 … C_k−1."""
    device = model.mean.device
    if is_large(image.shape[1:3]):
        return torch.stack([classes_by_tiles(model, one, domain, precision) for one in image]).to(device).long()
    with autocast(device, precision):
        return model(image.to(device, non_blocking=True).permute(0, 3, 1, 2), domain).argmax(1)


def count_predictions(
    model: UniversalSegmenter,
    domain: Domain,
    split: str,
    *,
    head: str | None = None,
    mapping: ClassMapping | None = None,
    batch_size: int = 4,
    workers: int = 2,
    precision: Precision = "auto",
    progress: Progress | None = None,
) -> Counts:
    """The counts of a split's predictions, over all processes.

    `head` is the head that predicts, by default that of the domain. With `mapping` its classes are mapped first, and a
    class without a counterpart goes to an extra last column. Raises ValueError for a split that is absent or empty.
    """
    stems = domain.stems(split)
    own_stems = stems[distributed.rank() :: distributed.world()]
    batches = LabelledBatches(domain, own_stems, batch_size)
    classes = domain.space.num_classes
    columns = classes + (mapping is not None)
    device = model.mean.device
    table = torch.tensor([classes if t < 0 else t for t in mapping.table], device=device) if mapping else None
    matrix = torch.zeros(classes, columns, dtype=torch.long, device=device)
    images = [torch.zeros(0, classes, 3, dtype=torch.long, device=device)]
    was_training = model.training
    model.eval()
    done = 0
    for image, label in chain.from_iterable(read_batches(batches, range(len(batches)), workers)):
        prediction = predict_batch(model, image, head or domain.name, precision)
        if table is not None:
            prediction = table[prediction]
        pairs = zip(prediction, label.to(device, non_blocking=True), strict=True)
        each = torch.stack([confusion(p, t, classes, columns) for p, t in pairs])
        matrix += each.sum(0)
        images.append(torch.stack([each.diagonal(0, 1, 2), each.sum(2), each.sum(1)[:, :classes]], 2))
        done += len(image)
        if progress:
            progress(done, len(own_stems))
    model.train(was_training)
    by_rank = distributed.all_gather(torch.cat(images)).cpu()
    position = torch.cat([torch.arange(rank, len(stems), distributed.world()) for rank in range(distributed.world())])
    return Counts(distributed.all_reduce_sum(matrix).cpu(), torch.empty_like(by_rank).index_copy_(0, position, by_rank))


def evaluate(
    model: UniversalSegmenter,
    domains: Mapping[str, Domain],
    split: str,
    *,
    synonyms: Sequence[Sequence[str]] = (),
    workers: int = 2,
    precision: Precision = "auto",
    progress: Progress | None = None,
    keep: Callable[[str, ImageCounts], object] = lambda name, counts: None,
) -> dict[str, Any]:
    """Scores of every domain that has the split, and their mean: `{"domains": {name: scores}, "avg_miou": …}`.

    If the model has several domains, the scores include the mean IoU of the classes that other domains share, and of
    those that are private to the domain. `keep` is called with the counts of each domain.
    """
    results = {}
    shared = shared_classes(model.spaces, synonyms)
    for name, domain in domains.items():
        if not domain.splits.get(split):
            continue
        counts = count_predictions(model, domain, split, workers=workers, precision=precision, progress=progress)
        keep(name, ImageCounts(np.array(domain.splits[split]), counts.images.numpy(), counts.confusion.numpy()))
        results[name] = scores(counts.confusion, domain.space.names) | {
            "split": split,
            "images": len(domain.splits[split]),
        }
        if len(model.spaces) > 1:
            iou = results[name]["iou"]
            results[name]["miou_shared"] = mean([iou[c] for c in domain.space.names if c in shared[name]])
            results[name]["miou_private"] = mean([iou[c] for c in domain.space.names if c not in shared[name]])
    return {"domains": results, "avg_miou": mean([s["miou"] for s in results.values()])}


def as_array(prediction: Tensor) -> np.ndarray:
    """Predictions (…) as uint8 on the CPU."""
    return prediction.to(torch.uint8).cpu().numpy()
