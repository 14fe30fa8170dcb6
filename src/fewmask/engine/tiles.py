"""Prediction of large images by overlapping tiles: it takes the memory of a tile, whatever the size of the image is.

    for each tile:  p = softmax of the head's logits, times a weight that falls to the tile's edges
    the class of a pixel is the one with the largest sum over the tiles that show it; their weights sum to 1

Sums are kept for the rows and columns that later tiles show again, and for no others.

Shapes: H×W pixels of an image · h×w pixels of a tile · C channels of an image · K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fewmask.config import Precision
from fewmask.engine.device import autocast
from fewmask.models.fusion import Fused, shares

LARGE = 2**23
"""Pixels: an image with more of them is predicted by tiles."""
SIDE, OVERLAP = 1024, 256
"""In pixels, the side of a tile and about what neighbours share. The sums of the shared rows are the memory that grows
with the image: 4·K·OVERLAP bytes for each of its columns."""


class Network(Protocol):
    """What is asked of a network."""

    mean: Tensor
    multiple: int

    def __call__(self, image: Tensor, domain: str) -> Tensor: ...


def is_large(size: Sequence[int]) -> bool:
    """Whether an image of H, W is predicted by tiles."""
    return size[0] * size[1] > LARGE


def tile_starts(length: int, side: int, overlap: int, multiple: int) -> list[int]:
    """Where tiles begin along a side of an image: evenly, and at multiples of the network's stride."""
    if length <= side:
        return [0]
    step = side - overlap - 2 * multiple  # a multiple of the stride is up to so much away
    assert step > 0, "tiles are larger than what they share"
    count = 1 + -(-(length - side) // step)
    last = -(-(length - side) // multiple) * multiple
    between = {(length - side) * i // (count - 1) // multiple * multiple for i in range(count - 1)}
    return sorted({0, *between, last})


def tile_weights(starts: Sequence[int], length: int, side: int, overlap: int) -> list[np.ndarray]:
    """The weight of each pixel of each tile along a side of the image, float32. It falls to the edges that lie inside
    the image. The weights of all tiles that show a pixel sum to 1."""
    weights, total = [], np.zeros(length)
    for start in starts:
        end = min(start + side, length)
        inner = np.arange(1, end - start + 1) / (overlap + 1)
        ones = np.ones(end - start)
        weight = np.minimum(inner if start else ones, inner[::-1] if end < length else ones)
        weights.append(np.minimum(weight, 1))
        total[start:end] += weights[-1]
    return [(w / total[s : s + len(w)]).astype(np.float32) for s, w in zip(starts, weights, strict=True)]


@torch.inference_mode()
def classes_by_tiles(
    network: Network,
    image: Tensor,
    domain: str,
    precision: Precision = "auto",
    *,
    side: int = SIDE,
    overlap: int = OVERLAP,
) -> Tensor:
    """The most likely class of each pixel: image (H,W,C) uint8 on the CPU → (H,W) uint8 on the CPU."""
    height, width = image.shape[:2]
    tops, lefts = (tile_starts(length, side, overlap, network.multiple) for length in (height, width))
    down, across = (tile_weights(s, n, side, overlap) for s, n in ((tops, height), (lefts, width)))
    prediction = torch.empty(height, width, dtype=torch.uint8)
    above: Tensor | None = None  # sums (K,h,W) of the rows that the next tiles show again
    for top, next_top, weight in zip(tops, [*tops[1:], height], down, strict=True):
        rows, below = len(weight), None
        for left, sums in _columns(network, image[top : top + rows], domain, precision, lefts, across, side):
            sums *= torch.from_numpy(weight)[:, None].to(sums.device)
            columns = slice(left, left + sums.shape[2])
            if above is not None:
                sums[:, : above.shape[1]] += above[..., columns].to(sums.device)
            done = next_top - top
            prediction[top:next_top, columns] = sums[:, :done].argmax(0).to(torch.uint8).cpu()
            if done < rows:
                below = torch.empty(len(sums), rows - done, width) if below is None else below
                below[..., columns] = sums[:, done:].cpu()
        above = below
    return prediction


@torch.inference_mode()
def excess_by_tiles(model: Fused, image: Tensor, precision: Precision = "auto") -> Tensor:
    """`Fused.excess` (1,K) of an image (H,W,C): of the mean of its tiles' shares, by the pixels that count in each."""
    height, width = image.shape[:2]
    tops, lefts = (tile_starts(length, SIDE, OVERLAP, model.multiple) for length in (height, width))
    down, across = (tile_weights(s, n, SIDE, OVERLAP) for s, n in ((tops, height), (lefts, width)))
    total = torch.zeros(1, device=model.mean.device)
    for top, rows in zip(tops, down, strict=True):
        for left, columns in zip(lefts, across, strict=True):
            tile = image[top : top + len(rows), left : left + len(columns)].to(model.mean.device)
            with autocast(model.mean.device, precision):
                features = model.encode(tile.permute(2, 0, 1)[None], model.fused[0])
            total = total + shares(model.similarity(features)) * float(rows.sum() * columns.sum() / (height * width))
    return model.excess_of(total)


def _columns(
    network: Network,
    band: Tensor,
    domain: str,
    precision: Precision,
    lefts: Sequence[int],
    across: Sequence[np.ndarray],
    side: int,
) -> Iterator[tuple[int, Tensor]]:
    """From left to right the sums (K,h,·) of columns that no later tile of the band (h,W,C) shows, and where they
    begin."""
    width, device = band.shape[1], network.mean.device
    kept: Tensor | None = None
    for left, next_left, weight in zip(lefts, [*lefts[1:], width], across, strict=True):
        tile = band[:, left : left + side].to(device).permute(2, 0, 1)[None]
        with autocast(device, precision):
            logits = network(tile, domain)
        sums = logits[0].float().softmax(0)
        sums *= torch.from_numpy(weight).to(device)
        if kept is not None:
            sums[..., : kept.shape[2]] += kept
        yield left, sums[..., : next_left - left].clone()
        kept = sums[..., next_left - left :].clone()
