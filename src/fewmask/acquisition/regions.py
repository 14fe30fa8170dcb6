"""Regions, the areas that questions are about. They tile the image: every pixel lies in exactly one region, and each
region has a stable id.

A region's score, mask, box, pixels and cost all come from the same map. Regions at the right and lower edge are smaller
where the size does not divide the image; they are never dropped.

Shapes: H×W pixels · R regions · C classes · D embedding size · h×w cells of the embedding.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewmask.acquisition.scores import By

BINS = 10  # of the histogram of difficulties


# The exceptions that numpy raises for a damaged file of arrays, beside the errors of its archive.
_DAMAGED = (ValueError, KeyError, TypeError, EOFError, OSError, OverflowError, MemoryError, RuntimeError, SyntaxError)


@dataclass(frozen=True, eq=False)
class Regions:
    """`map` (H,W) int32 holds the id, 0 … count−1, of each pixel's region. `spec` says how the map was made."""

    spec: str
    map: np.ndarray
    count: int
    _ids: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        assert self.map.dtype == np.int32 and self.map.ndim == 2
        object.__setattr__(self, "_ids", torch.from_numpy(self.map.reshape(-1)))
        self.map.flags.writeable = False

    def __reduce__(self) -> tuple[type[Regions], tuple[str, np.ndarray, int]]:
        return Regions, (self.spec, self.map.copy(), self.count)

    def ids(self, device: torch.device) -> Tensor:
        """The map as (H·W,) int32 on a device."""
        return self._ids.to(device)

    @property
    def size(self) -> tuple[int, int]:
        return self.map.shape[0], self.map.shape[1]

    @cached_property
    def pixels(self) -> np.ndarray:
        """Number of pixels of each region, (R,) int64."""
        return np.bincount(self.map.reshape(-1), minlength=self.count)

    @cached_property
    def first(self) -> np.ndarray:
        """Row-major position of each region's first pixel, (R,) int64."""
        positions = np.zeros(self.count, dtype=np.int64)
        positions[self.map.reshape(-1)[::-1]] = np.arange(self.map.size - 1, -1, -1)  # the last write to an id wins
        return positions

    @cached_property
    def border(self) -> np.ndarray:
        """Which regions touch the image's edge, (R,) bool. S4AL+ never asks for these."""
        touches = np.zeros(self.count, dtype=bool)
        for edge in (self.map[0], self.map[-1], self.map[:, 0], self.map[:, -1]):
            touches[edge] = True
        return touches

    def mask(self, region: int) -> np.ndarray:
        """The pixels of a region, (H,W) bool."""
        return self.map == region

    def box(self, region: int) -> tuple[int, int, int, int]:
        """The smallest box that holds a region: top, left, bottom, right in pixels, the last two exclusive."""
        assert 0 <= region < self.count
        side = parse_regions(self.spec).side
        if side:
            H, W = self.size
            row, column = divmod(region, -(-W // side))
            return row * side, column * side, min((row + 1) * side, H), min((column + 1) * side, W)
        rows, columns = np.nonzero(self.mask(region))
        return int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1

    def to_bytes(self, content: str = "") -> bytes:
        """Compressed bytes for a cache, so that superpixels are computed once. `from_bytes` gives an equal value back.

        `content` is a digest of the image's pixels.
        """
        narrow = self.map.astype(np.min_scalar_type(self.count))
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer, spec=np.array(self.spec), map=narrow, count=np.array(self.count), content=np.array(content)
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, content: str | None = None) -> Regions:
        """Raises ValueError for bytes that `to_bytes` has not written, or for a `content` that differs from the stored
        one."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as stored:
                made = cls(str(stored["spec"]), stored["map"].astype(np.int32), int(stored["count"]))
                cut = str(stored["content"])
        except (*_DAMAGED, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"not a stored region map ({error}); remove it, and it is computed again") from None
        if content not in (None, cut):
            raise ValueError(
                "the image has changed since its regions were computed; restore the image, or remove this file to "
                "compute its regions again"
            )
        return made


# ── The kinds of regions ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Spec:
    """A kind of regions with its numbers; `str` gives the text that `parse` reads."""

    kind: Literal["squares", "superpixels", "points", "image"]
    side: int = 0
    """The side of a square in pixels, for the kinds that are a grid."""
    count: int = 0
    """The approximate number of superpixels in an image."""
    compactness: float = 0.0

    def __str__(self) -> str:
        if self.kind == "squares":
            return f"squares:{self.side}"
        if self.kind == "superpixels":
            return f"superpixels:{self.count}:{repr(self.compactness).removesuffix('.0')}"
        return self.kind

    def tile(self, image: np.ndarray) -> Regions:
        """The regions of an image (H,W,3) uint8. Superpixels depend on its pixels, the other kinds on its size
        alone."""
        if self.kind == "superpixels":
            return superpixels(image, self.count, self.compactness)
        size = image.shape[0], image.shape[1]
        if self.kind == "squares":
            return squares(size, self.side)
        return points(size) if self.kind == "points" else whole(size)


def parse_regions(text: str) -> Spec:
    """Parse "squares:SIDE", "superpixels:COUNT[:COMPACTNESS]", "points" or "image".

    Raises ValueError with the fix for anything else.
    """
    kind, *numbers = text.split(":")
    try:
        if kind == "squares" and len(numbers) == 1 and int(numbers[0]) > 0:
            return Spec("squares", side=int(numbers[0]))
        if kind == "superpixels" and len(numbers) in (1, 2) and int(numbers[0]) > 0:
            compactness = float(numbers[1]) if len(numbers) == 2 else 10.0
            if 0 < compactness < math.inf:
                return Spec("superpixels", count=int(numbers[0]), compactness=compactness)
        if kind == "points" and not numbers:
            return Spec("points", side=1)
        if kind == "image" and not numbers:
            return Spec("image")
    except ValueError:
        pass
    raise ValueError(
        f"{text!r} names no regions; write squares:30 (side in pixels), superpixels:256:10 (number in an image, and "
        "compactness), points or image"
    )


@lru_cache(maxsize=8)
def squares(size: tuple[int, int], side: int) -> Regions:
    """A grid of squares with ids in row-major order. The last row and column hold the rest of the image."""
    spec = str(parse_regions(f"squares:{side}"))
    cells, count = _grid(size, side)
    return Regions(spec, cells, count)


@lru_cache(maxsize=2)
def points(size: tuple[int, int]) -> Regions:
    """Every pixel a region, with its row-major position as id."""
    cells, count = _grid(size, 1)
    return Regions("points", cells, count)


@lru_cache(maxsize=8)
def whole(size: tuple[int, int]) -> Regions:
    """The image as its only region."""
    return Regions("image", np.zeros(size, dtype=np.int32), 1)


def _grid(size: tuple[int, int], side: int) -> tuple[np.ndarray, int]:
    rows, columns = (np.arange(n, dtype=np.int32) // side for n in size)
    across = int(columns[-1]) + 1
    return np.ascontiguousarray(rows[:, None] * across + columns), (int(rows[-1]) + 1) * across


def superpixels(image: np.ndarray, count: int, compactness: float = 10.0) -> Regions:
    """SLIC superpixels (Achanta et al., TPAMI 2012) of an RGB image (H,W,3) uint8, connected, ids in the order of their
    first pixel.

    `count` is their approximate number. A higher `compactness` makes them squarer. The same image and settings give the
    same ids only with the same version of scikit-image, so code that refers to an id keeps the map (`to_bytes`).
    """
    spec = parse_regions(f"superpixels:{count}:{compactness!r}")
    try:
        from skimage.measure import label
        from skimage.segmentation import slic
    except ImportError:
        raise ValueError("superpixels need scikit-image; install fewmask[superpixels]") from None
    segments = slic(image, n_segments=count, compactness=compactness, start_label=0)
    connected = label(segments, background=-1, connectivity=1) - 1
    return Regions(str(spec), np.ascontiguousarray(connected, dtype=np.int32), int(connected.max()) + 1)


# ── From pixels to regions ───────────────────────────────────────────────────────────────────────────────────────────


class Scored(NamedTuple):
    """The scores of one image's regions."""

    score: np.ndarray
    """(R,) float32; 0 where nothing is open."""
    open: np.ndarray
    """The number of pixels that may still be asked for, (R,) int64. A region with 0 is no candidate."""


def aggregate(
    score: Tensor,
    regions: Regions,
    unavailable: Tensor | None = None,
    by: By = "mean",
    answered: Literal["zero", "leave-out"] = "zero",
) -> Scored:
    """Each region's score from the scores of its pixels.

    `score` (H,W) on any device; `unavailable` (H,W) bool, on the same device, marks pixels that are answered or
    excluded. `by`:

    - "mean" over the region, where unavailable pixels count as 0 (S4AL+), or with `answered="leave-out"` not at all;
    - "histogram-entropy" of scores within 0 … 1 in 10 bins, in nats (DEAL's DE), of the available pixels;
    - "one-pixel": the score of the first available pixel, for scores that are drawn at random.

    Raises ValueError where the score of an available pixel is not finite: such a score ranks above all others.
    """
    assert tuple(score.shape) == regions.size, f"score {tuple(score.shape)}, regions {regions.size}"
    ids, flat = regions.ids(score.device), score.reshape(-1).float()
    if unavailable is None:
        open_ = torch.from_numpy(regions.pixels)
    else:
        available = ~unavailable.reshape(-1)
        # A count instead of a sum: a sum of ones in fp32 stops at 2²⁴ pixels.
        open_ = torch.bincount(ids[available], minlength=regions.count).cpu()
        flat = torch.where(available, flat, 0.0)
    if not bool(flat.isfinite().all()):
        raise ValueError(
            f"{int((~flat.isfinite()).sum())} pixels have a score that is not finite, because the network's logits are"
            " not finite; check the training run of the network"
        )
    if by == "mean":
        divisor = torch.from_numpy(regions.pixels) if answered == "zero" else open_
        wide = flat if flat.device.type == "mps" else flat.double()  # MPS has no float64
        total = torch.bincount(ids, wide, regions.count).cpu().double()
        region_score = total / divisor.clamp_min(1)
    elif by == "histogram-entropy":
        bins = (flat * BINS).long().clamp_(0, BINS - 1)
        cells = ids * BINS + bins
        cells = cells if unavailable is None else cells[available]
        counts = torch.bincount(cells, minlength=regions.count * BINS).view(-1, BINS).cpu()
        share = counts.double() / open_.clamp_min(1)[:, None]
        region_score = torch.special.entr(share).sum(1)
    else:
        position = torch.arange(len(flat), device=flat.device)
        if unavailable is not None:
            position = torch.where(available, position, len(flat) - 1)
        first = torch.full((regions.count,), len(flat) - 1, device=flat.device)
        region_score = flat[first.scatter_reduce_(0, ids.long(), position, "amin")].cpu()
    return Scored(torch.where(open_ > 0, region_score, 0.0).float().numpy(), open_.numpy())


def dominant_class(prediction: Tensor, regions: Regions, classes: int) -> np.ndarray:
    """The most frequent class of each region, (R,) int16: the lowest number among equals, −1 where no pixel has a
    class.

    `prediction` (H,W) of an integer dtype; values of `classes` and above, such as void, are no class.
    """
    flat = prediction.reshape(-1).long()
    cells = regions.ids(flat.device).long() * (classes + 1) + flat.clamp_max(classes)
    counts = torch.bincount(cells, minlength=regions.count * (classes + 1)).view(-1, classes + 1)[:, :classes].cpu()
    most = counts.max(1)
    return torch.where(most.values > 0, counts.argmax(1), -1).to(torch.int16).numpy()


def embed(features: Tensor, regions: Regions, chosen: np.ndarray, cell: tuple[float, float]) -> np.ndarray:
    """An embedding of each chosen region, (n,D) float32, from features (D,h,w) of the image. Each feature belongs to a
    cell of `cell` (height, width) pixels, counted from the upper left corner. The last cells may reach beyond the
    image.

    The embedding is the mean over the cells whose centre is in the region. A region without a cell centre, such as a
    point, takes the cell that holds its first pixel.
    """
    D, h, w = features.shape
    H, W = regions.size
    cells = features.detach().float().reshape(D, -1).T
    wanted = torch.from_numpy(np.asarray(chosen, dtype=np.int64)).to(cells.device)
    y, x = np.divmod(regions.first[chosen], W)
    row, column = _within((y + 0.5) / cell[0], h), _within((x + 0.5) / cell[1], w)
    nearest = cells[torch.from_numpy(row * w + column).to(cells.device)]
    if regions.count == H * W:
        return nearest.cpu().numpy()
    rows, columns = _within((np.arange(h) + 0.5) * cell[0], H), _within((np.arange(w) + 0.5) * cell[1], W)
    centres = torch.from_numpy(regions.map[np.ix_(rows, columns)].reshape(-1).astype(int))
    centres = centres.to(cells.device)
    total = torch.zeros(regions.count, D, device=cells.device).index_add_(0, centres, cells)
    held = torch.bincount(centres, minlength=regions.count)[wanted, None]
    return torch.where(held > 0, total[wanted] / held.clamp_min(1), nearest).cpu().numpy()


def _within(place: np.ndarray, count: int) -> np.ndarray:
    """The index of the unit step that each place lies in, at most `count` − 1."""
    return np.minimum(place.astype(np.int64), count - 1)


def preselect(
    score: Tensor, keep: int, top: float, rng: np.random.Generator, unavailable: Tensor | None = None
) -> np.ndarray:
    """Draw points of one image uniformly from its `top` fraction of best-scored available pixels (PixelPick, Shin et
    al., ICCVW 2021, with `top` 0.05) → ids in `points`, (≤ keep,) int64 in ascending order.

    The draw spreads the points, so that they do not all lie on one edge. Raises ValueError like `aggregate`.
    """
    assert keep >= 0 and 0 < top <= 1
    flat = score.reshape(-1).float()
    ids = torch.arange(len(flat), device=flat.device)
    if unavailable is not None:
        ids = (~unavailable.reshape(-1)).nonzero()[:, 0]
        flat = flat[ids]
    if not bool(flat.isfinite().all()):
        raise ValueError("pixels have a score that is not finite, because the network's logits are not finite")
    best = math.ceil(top * len(flat))
    if not best or not keep:
        return np.empty(0, dtype=np.int64)
    threshold = flat.topk(best, sorted=False).values.min()
    above, level = (ids[where].cpu().numpy() for where in (flat > threshold, flat == threshold))
    pool = np.concatenate([above, rng.choice(level, best - len(above), replace=False)])
    return np.sort(rng.choice(pool, min(keep, best), replace=False))
