"""`scores.npz`: the pixels that the final scoring of a run counted in each image.

Any score over any subset of the images can be computed from these counts. A comparison of two runs that were scored on
the same images uses them image by image.

Shapes: N images · C classes · 3 counts for each image and class: pixels right, labelled, predicted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fewmask.runs.arrays import read_arrays, write_arrays

PARTS = ("stems", "counts", "confusion")
FIX = "remove it, and `fewmask evaluate` counts again"


@dataclass(frozen=True)
class ImageCounts:
    """The counts of one domain: the images' stems (N,), their counts (N,C,3) and the confusion matrix (C,C), int64.

    Pixels labelled 254 or 255 are excluded from all counts, also from the predicted ones.
    """

    stems: np.ndarray
    counts: np.ndarray
    confusion: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        """IoU (C,) over all images; NaN for classes that no label shows."""
        return iou(self.counts.sum(0))


def iou(counts: np.ndarray) -> np.ndarray:
    """IoU (…,C) of counts (…,C,3) of pixels right, labelled and predicted; NaN where no pixel is labelled."""
    right, labelled, predicted = np.moveaxis(counts.astype(np.float64), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(labelled > 0, right / (labelled + predicted - right), np.nan)


def write_counts(path: Path, domains: Mapping[str, ImageCounts]) -> None:
    """Write one compressed file with the arrays `<domain>/stems`, `<domain>/counts` and `<domain>/confusion`."""
    arrays = {f"{name}/{part}": getattr(counts, part) for name, counts in domains.items() for part in PARTS}
    write_arrays(path, arrays, compressed=True)


def read_counts(path: Path) -> dict[str, ImageCounts]:
    """The counts by domain, as `write_counts` writes them. Raises ValueError for a damaged file."""
    domains: dict[str, dict[str, np.ndarray]] = {}
    for key, array in read_arrays(path, FIX).items():
        name, _, part = key.rpartition("/")
        domains.setdefault(name, {})[part] = array
    for name, parts in domains.items():
        stems, counts, confusion = (parts.get(part, np.zeros(())) for part in PARTS)
        classes = counts.shape[1] if counts.ndim == 3 else 0
        if (
            parts.keys() != set(PARTS)
            or (counts.shape, confusion.shape) != ((*stems.shape, classes, 3), (classes, classes))
            or counts.dtype.kind + confusion.dtype.kind != "ii"
        ):
            raise ValueError(f"{path}: damaged (the counts of {name} are incomplete); {FIX}")
    return {name: ImageCounts(**parts) for name, parts in domains.items()}
