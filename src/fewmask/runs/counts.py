"""What the final scoring of a run counted in each image: `scores.npz`, from which any score can be computed again, over
any choice of the images. Two runs that were scored on the same images are compared image by image with it.

Shapes: N images · C classes · of each image and class three numbers: pixels right, labelled, predicted.
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
    """Of one domain: the images' stems (N,), their counts (N,C,3) and the confusion matrix (C,C) of all, int64.

    Pixels of 254 and 255 are in none of them, not among those predicted either.
    """

    stems: np.ndarray
    counts: np.ndarray
    confusion: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        """IoU (C,) over all images; NaN for classes that no label shows."""
        return iou(self.counts.sum(0))


def iou(counts: np.ndarray) -> np.ndarray:
    """IoU (…,C) of counts (…,C,3), which are pixels right, labelled and predicted; NaN where no pixel is labelled."""
    right, labelled, predicted = np.moveaxis(counts.astype(np.float64), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(labelled > 0, right / (labelled + predicted - right), np.nan)


def write_counts(path: Path, domains: Mapping[str, ImageCounts]) -> None:
    """One compressed file of arrays `<domain>/stems`, `<domain>/counts` and `<domain>/confusion`."""
    arrays = {f"{name}/{what}": getattr(found, what) for name, found in domains.items() for what in PARTS}
    write_arrays(path, arrays, compressed=True)


def read_counts(path: Path) -> dict[str, ImageCounts]:
    """What `write_counts` wrote, by domain. Raises ValueError for a damaged file."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for key, array in read_arrays(path, FIX).items():
        name, _, what = key.rpartition("/")
        found.setdefault(name, {})[what] = array
    for name, parts in found.items():
        stems, counts, confusion = (parts.get(what, np.zeros(())) for what in PARTS)
        classes = counts.shape[1] if counts.ndim == 3 else 0
        if (
            parts.keys() != set(PARTS)
            or (counts.shape, confusion.shape) != ((*stems.shape, classes, 3), (classes, classes))
            or counts.dtype.kind + confusion.dtype.kind != "ii"
        ):
            raise ValueError(f"{path}: damaged (its counts of {name} are not whole); {FIX}")
    return {name: ImageCounts(**parts) for name, parts in found.items()}
