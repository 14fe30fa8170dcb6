"""A split of a domain as an ordinary torch dataset, for a training loop of one's own.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fewmask.labels import Mask


@dataclass(frozen=True)
class ImageMaskDataset(Dataset[Any]):
    """Pairs of an image (3,H,W) and a mask (H,W), both uint8 tensors, or what `transform` makes of the two arrays."""

    stems: Sequence[str]
    read: Callable[[str], tuple[np.ndarray, Mask]]
    """The image (H,W,3) and the mask (H,W) of a stem."""
    transform: Callable[[np.ndarray, Mask], Any] | None = None

    def __len__(self) -> int:
        return len(self.stems)

    def __getitem__(self, index: int) -> Any:
        image, mask = self.read(self.stems[index])
        return as_tensors(image, mask) if self.transform is None else self.transform(image, mask)


def as_tensors(image: np.ndarray, mask: Mask) -> tuple[Tensor, Tensor]:
    """An image (H,W,3) and a mask (H,W) as tensors (3,H,W) and (H,W) with memory of their own."""
    return torch.from_numpy(image.copy()).permute(2, 0, 1), torch.from_numpy(mask.copy())
