"""Scores of a confusion matrix, and the calibration of confidences.

Shapes: C classes of the labels · P classes of the predictions (C, or C + 1 with a last column for "none of them") ·
N pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from fewmask.runs.records import mean as mean


def confusion(prediction: Tensor, label: Tensor, classes: int, columns: int | None = None) -> Tensor:
    """Count (C,P) of labelled pixels: row = label, column = prediction. 254 and 255 in the label are left out.

    prediction and label have one shape, predictions are in 0 … P−1.
    """
    columns = columns or classes
    # 32 bits take half the time of 64. Rows of values that are no class, such as 254 and 255, come last and are cut
    # off.
    pairs = torch.add(prediction.int(), label, alpha=columns)
    return torch.bincount(pairs.flatten(), minlength=classes * columns)[: classes * columns].view(classes, columns)


def scores(matrix: Tensor, names: Sequence[str], reachable: Collection[int] | None = None) -> dict[str, Any]:
    """Fractions 0–1 of a confusion matrix (C,P).

    `miou` is the mean IoU over the classes that occur in the labels and, under a class mapping, to which a source class
    is mapped. `miou_legacy` is the mean over all classes, with 0 for absent ones, as in older codes. `iou` is None for
    absent classes.
    """
    matrix = matrix.double()
    hit, labelled = matrix.diagonal(), matrix.sum(1)
    predicted = matrix[:, : len(names)].sum(0)
    union = labelled + predicted - hit
    iou = (hit / union.clamp_min(1)).tolist()
    present = [i for i in range(len(names)) if labelled[i] > 0]
    counted = [i for i in present if reachable is None or i in reachable]
    return {
        "miou": sum(iou[i] for i in counted) / len(counted) if counted else None,
        "miou_legacy": sum(iou) / len(names),
        "pixel_accuracy": (hit.sum() / labelled.sum()).item() if present else None,
        "iou": {name: iou[i] if i in present else None for i, name in enumerate(names)},
        "pixels": int(labelled.sum()),
    }


def reliability(confidence: Tensor, right: Tensor, bins: int = 15) -> Tensor:
    """Pixels, correct pixels and summed confidence (bins,3) float64 for bins of equal width over (0, 1], on the CPU.

    confidence (N,) of the predicted class and right (N,) bool, of the pixels that count. Tables of several images can
    be added.
    """
    sure = confidence.double().cpu()
    place = (sure * bins).ceil().long().sub(1).clamp(0, bins - 1)
    values = torch.stack([torch.ones_like(sure), right.double().cpu(), sure], 1)
    return torch.zeros(bins, 3, dtype=torch.float64).index_add_(0, place, values)


def expected_calibration_error(table: Tensor) -> float | None:
    """The mean difference of confidence and accuracy over the bins (bins,3) of `reliability`, weighted by their pixels;
    None without a pixel.

    Guo et al., On calibration of modern neural networks, ICML 2017, eq. 3.
    """
    pixels, right, sure = table.unbind(1)
    return ((right - sure).abs().sum() / pixels.sum()).item() if pixels.sum() else None
