"""Measure how fast one process reads images for training, over bare decoding of the same files by OpenCV.

Shapes: H×W pixels of an image · h×w pixels of a crop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fewmask.config import Config
from fewmask.data.batch import Phase
from fewmask.data.batches import Steps, loader
from fewmask.data.domains import load_domains

Pair = tuple[Path, Path]


def pairs_of(root: Path) -> list[Pair]:
    """The images of a dataset of the layout `folder` and their masks."""
    images = sorted((root / "images").iterdir())
    return [(image, root / "labels" / f"{image.stem}.png") for image in images]


def decoded(pairs: Sequence[Pair]) -> float:
    """Pairs a second that OpenCV decodes in this process, which has no other work."""
    cv2.setNumThreads(0)
    began = time.perf_counter()
    for image, mask in pairs:
        assert cv2.imread(str(image), cv2.IMREAD_COLOR) is not None
        assert cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE) is not None
    return len(pairs) / (time.perf_counter() - began)


def rate(batches: Iterable[object], size: int, skipped: int = 0) -> float:
    """Images a second after the first batch, which waits for the process to start, and after those `skipped`."""
    ends = [time.perf_counter() for _ in batches][skipped:]
    return (len(ends) - 1) * size / (ends[-1] - ends[0])


def fewmask_batches(config: Config, steps: int) -> Iterable[object]:
    phases = [Phase("train", 0, steps, tuple(config.domains))]
    return loader(Steps(load_domains(config), config.train, phases, (1, 4, 8), 16, seed=0), 0, workers=1)


# ── The peers: the same files, a crop of the same size at a random scale, a flip, and a batch ────────────────────────


class _Files(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, pairs: Sequence[Pair], count: int, load: Callable[[Pair], tuple[Tensor, Tensor]]) -> None:
        self.pairs, self.count, self.load = pairs, count, load

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        cv2.setNumThreads(0)
        torch.set_num_threads(1)
        return self.load(self.pairs[index % len(self.pairs)])


def with_torchvision(crop: tuple[int, int], scale: tuple[float, float]) -> Callable[[Pair], tuple[Tensor, Tensor]]:
    """The second version of torchvision's transforms, with OpenCV's decoders: a build of torchvision for another torch
    cannot load its own."""
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.ScaleJitter(crop, scale, antialias=False),
            v2.RandomCrop(crop, pad_if_needed=True, fill={tv_tensors.Image: 0, tv_tensors.Mask: 255}),
            v2.RandomHorizontalFlip(),
        ]
    )

    def load(pair: Pair) -> tuple[Tensor, Tensor]:
        pixels = cv2.cvtColor(cv2.imread(str(pair[0])), cv2.COLOR_BGR2RGB)
        image = tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))
        mask = tv_tensors.Mask(torch.from_numpy(cv2.imread(str(pair[1]), cv2.IMREAD_GRAYSCALE))[None])
        view, label = transform(image, mask)
        return view, label

    return load


def with_albumentations(crop: tuple[int, int], scale: tuple[float, float]) -> Callable[[Pair], tuple[Tensor, Tensor]]:
    """OpenCV's decoders and albumentations."""
    import albumentations

    transform = albumentations.Compose(
        [
            albumentations.RandomScale((scale[0] - 1, scale[1] - 1), p=1),
            albumentations.PadIfNeeded(*crop, fill_mask=255),
            albumentations.RandomCrop(*crop),
            albumentations.HorizontalFlip(),
        ]
    )

    def load(pair: Pair) -> tuple[Tensor, Tensor]:
        image = cv2.cvtColor(cv2.imread(str(pair[0])), cv2.COLOR_BGR2RGB)
        view = transform(image=image, mask=cv2.imread(str(pair[1]), cv2.IMREAD_GRAYSCALE))
        return torch.from_numpy(np.ascontiguousarray(view["image"])), torch.from_numpy(view["mask"])

    return load


PEERS: Mapping[str, Callable[..., Callable[[Pair], tuple[Tensor, Tensor]]]] = {
    "torchvision": with_torchvision,
    "albumentations": with_albumentations,
}


def peers(root: Path, config: Config, steps: int) -> dict[str, Any]:
    """Images a second of one worker process of torch's DataLoader by each peer; why there is none where it is not."""
    found: dict[str, Any] = {}
    for name, make in PEERS.items():
        try:
            load = make(config.train.crop, config.train.augment.scale)
            files = _Files(pairs_of(root), steps * config.train.batch_size, load)
            files[0]
        except (ImportError, RuntimeError) as error:
            found[name] = f"not measured: {str(error).splitlines()[0]}"
            continue
        found[name] = rate(DataLoader(files, config.train.batch_size, num_workers=1), config.train.batch_size)
    return found
