"""Mixes images: each pixel of a mixed row comes from the row itself or from its source row.

A mask says which pixels come from the source; image, label and confidence are mixed by the same mask. The mask holds a
box (CutMix), half of the source's classes (ClassMix), or some of its frequent and some of its rare classes (S4AL's
adaptive ClassMix). For the last of these a buffer remembers images of rare classes.

    mask = class_masks(label[source], rng)
    image, label = paste(mask, image, image[source]), paste(mask, label, label[source])

Shapes: B rows of a batch · h×w pixels · C classes · N places of a buffer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fewmask.class_list import MAX_CLASSES
from fewmask.labels import VOID


def paste(mask: Tensor, onto: Tensor, source: Tensor) -> Tensor:
    """`source` where the mask (B,h,w) bool is true, else `onto`, in the memory format of `onto`.

    Both are (B,h,w) or (B,channels,h,w), of one dtype.
    """
    assert onto.dtype == source.dtype, "where() would promote one dtype to the other"
    kept = ~mask
    return onto.where(kept if onto.ndim == 3 else kept[:, None], source)


def partners(domain: Tensor) -> Tensor:
    """The partner (B,) int64 of each row of `domain` (B,): the row before it of the same domain.

    The partner of a domain's first row is its last row. A row that is alone is its own partner. Rows of two domains are
    never mixed, because their classes differ.
    """
    order = domain.argsort(stable=True)
    sizes = torch.bincount(domain)
    last = (sizes.cumsum(0) - 1)[domain[order]]
    place = torch.arange(len(domain), device=domain.device)
    first = last - sizes[domain[order]] + 1
    previous = torch.where(place == first, last, place - 1)
    return torch.empty_like(order).index_copy_(0, order, order[previous])


def box_masks(
    rows: int,
    size: tuple[int, int],
    rng: torch.Generator,
    probability: float = 0.5,
    area: tuple[float, float] = (0.02, 0.4),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> Tensor:
    """CutMix: each row gets one box with the given probability, (B,h,w) bool on the generator's device.

    The box's share of the image is U(area). Its height over its width is U(aspect), or the nearest ratio that fits.
    Each position inside the image is equally likely. The defaults are UniMatch's (CVPR 2023). UniMatch's own code draws
    again until the box fits, which makes large boxes rarer.
    """
    h, w = size
    happens, part, ratio, along_y, along_x = torch.rand(5, rows, 1, 1, generator=rng, device=rng.device)
    pixels = (area[0] + (area[1] - area[0]) * part) * h * w
    ratio = (aspect[0] + (aspect[1] - aspect[0]) * ratio).clamp(pixels / w**2, h**2 / pixels)
    ys = _between(along_y, (pixels * ratio).sqrt(), h)
    xs = _between(along_x, (pixels / ratio).sqrt(), w)
    return ys[:, :, None] & xs[:, None, :] & (happens < probability)


def _between(along: Tensor, length: Tensor, whole: int) -> Tensor:
    """A run of round(length) places, (B,whole) bool. `along`, in 0 … 1, chooses its start; both are (B,1,1)."""
    length = length.round().clamp(1, whole)
    # (1 − ε) times the number of starts may round to that number.
    start = (along * (whole - length + 1)).floor().minimum(whole - length)
    place = torch.arange(whole, device=along.device)
    return ((place >= start) & (place < start + length)).flatten(1)


def present_classes(label: Tensor) -> Tensor:
    """Which classes each row of a label (B,h,w) uint8 has, (B,254) bool. The values 254 and 255 are no classes."""
    present = torch.zeros(len(label), 256, dtype=torch.bool, device=label.device)
    return present.scatter_(1, label.flatten(1).long(), True)[:, :MAX_CLASSES]


def class_masks(label: Tensor, rng: torch.Generator) -> Tensor:
    """ClassMix (Olsson et al., WACV 2021): all pixels of half of the classes of each source label, at random.

    label (B,h,w) uint8 → (B,h,w) bool. An odd number of classes gives the smaller half, so a single class is never
    pasted.
    """
    present = present_classes(label)
    return _pixels_of(_choose(present, present.sum(1, keepdim=True) // 2, rng), label)


def adaptive_class_masks(
    label: Tensor, head: Tensor, tail: Tensor, rng: torch.Generator, heads: int = 2, tails: int = 3
) -> Tensor:
    """Adaptive ClassMix (S4AL, WACV 2023): all pixels of `heads` head and `tails` tail classes of each source label.

    The classes are drawn at random; a label with fewer of them gives all. label (B,h,w) uint8; head, tail (C,) bool →
    (B,h,w) bool.
    """
    present = present_classes(label)[:, : len(head)]
    return _pixels_of(_choose(present & head, heads, rng) | _choose(present & tail, tails, rng), label)


def head_and_tail(counts: Tensor, tail_share: float = 0.1) -> tuple[Tensor, Tensor]:
    """The frequent (head) and the rare (tail) classes, (C,) bool each, by their labelled pixels, counts (C,).

    The tail holds the rarest classes that together have at most `tail_share` of all pixels. The head holds the other
    classes. Of two equally frequent classes the smaller index counts as rarer. A class without a pixel is in neither.
    """
    rarest = counts.argsort(stable=True)
    is_tail = counts[rarest].cumsum(0).double() <= tail_share * counts.sum().double()
    tail = torch.empty_like(is_tail).index_copy_(0, rarest, is_tail) & (counts > 0)
    return (counts > 0) & ~tail, tail


def _choose(eligible: Tensor, count: Tensor | int, rng: torch.Generator) -> Tensor:
    """`count` random classes of each row's eligible ones, (B,C) bool; all of them where there are fewer."""
    draws = torch.rand(eligible.shape, generator=rng, device=eligible.device).masked_fill(~eligible, 2)
    return (draws.argsort(1).argsort(1) < count) & eligible


def _pixels_of(chosen: Tensor, label: Tensor) -> Tensor:
    """The pixels (B,h,w) bool of each label whose class is among the row's chosen classes (B,C) bool."""
    by_value = F.pad(chosen, (0, 256 - chosen.shape[1]))
    return by_value.gather(1, label.flatten(1).long()).view(label.shape)


class ReplayBuffer(NamedTuple):
    """The last N images that were remembered for one domain: tensors of fixed shape, as a module's buffers must be."""

    image: Tensor
    """(N,3,h,w) uint8."""
    label: Tensor
    """(N,h,w) uint8. Empty places are void, so that nothing is pasted from them."""
    remembered: Tensor
    """() int64: how many images have ever been remembered."""

    @classmethod
    def empty(
        cls, places: int, size: tuple[int, int], device: torch.device | str = "cpu", planes: int = 3
    ) -> ReplayBuffer:
        return cls(
            torch.zeros(places, planes, *size, dtype=torch.uint8, device=device),
            torch.full((places, *size), VOID, dtype=torch.uint8, device=device),
            torch.zeros((), dtype=torch.int64, device=device),
        )


def remember(buffer: ReplayBuffer, image: Tensor, label: Tensor, classes: Tensor) -> ReplayBuffer:
    """The buffer after the rows that have one of the classes (C,) bool replaced its oldest images.

    image (B,3,h,w) uint8, label (B,h,w) uint8, B ≤ N.
    """
    assert len(image) <= len(buffer.image), "a batch is not larger than the buffer"
    keep = (present_classes(label)[:, : len(classes)] & classes).any(1)
    # Kept rows come first. The places of the other rows are written with their own content: no shape depends on data.
    order = (~keep).byte().argsort(stable=True)
    place = (buffer.remembered + torch.arange(len(image), device=image.device)) % len(buffer.image)
    kept = keep[order]
    return ReplayBuffer(
        buffer.image.index_copy(0, place, paste(kept[:, None, None], buffer.image[place], image[order])),
        buffer.label.index_copy(0, place, paste(kept[:, None, None], buffer.label[place], label[order])),
        buffer.remembered + keep.sum(),
    )


def recall(buffer: ReplayBuffer, rows: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw images (rows,3,h,w) and labels (rows,h,w) with replacement. The labels of an empty buffer are void."""
    filled = buffer.remembered.clamp(1, len(buffer.image))
    index = (torch.rand(rows, generator=rng, device=rng.device) * filled).long().clamp(max=filled - 1)
    return buffer.image[index], buffer.label[index]
