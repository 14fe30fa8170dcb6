"""One micro-batch as methods see it: rows of all domains, labelled or not, and how many pixels the step shows.

Shapes: B rows of a micro-batch, U of them of the pool · h×w pixels of a crop · K domains · S strong views.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewmask import distributed
from fewmask.config import LossSettings, NoiseSettings, StrongSettings
from fewmask.data.pseudo import HUMAN
from fewmask.labels import NOT_LABELLED
from fewmask.models.universal import at_stride


@dataclass(frozen=True)
class PixelCounts:
    """How many pixels of each domain a step shows, or how many cells of a stride, each (K,) fp32.

    They are means over the step's micro-batches and processes: dividing by them makes the average of all parts' losses
    the loss of one global batch.
    """

    labelled: Tensor
    """Pixels with a class."""
    unlabelled: Tensor
    """Pixels without a label, 254."""
    pool_labelled: Tensor
    """Pixels with a class in rows of the pool."""
    pool_unlabelled: Tensor
    """Pixels without a label in rows of the pool."""
    weighted: Tensor
    """Pixels with a class, each times the `pixel_weight` of its row."""

    @property
    def valid(self) -> Tensor:
        """Pixels that are not void."""
        return self.labelled + self.unlabelled

    @property
    def pool(self) -> Tensor:
        """Pixels that are not void in rows of the pool."""
        return self.pool_labelled + self.pool_unlabelled

    def without_pool(self) -> PixelCounts:
        """The counts of the labelled rows alone."""
        none = torch.zeros_like(self.labelled)
        return PixelCounts(
            self.labelled - self.pool_labelled,
            self.unlabelled - self.pool_unlabelled,
            none,
            none,
            self.weighted - self.pool_labelled,  # rows of the pool have a weight of 1
        )

    def table(self) -> Tensor:
        """All counts as one tensor (5,K), for a sum over processes; `PixelCounts(*table)` reads it back."""
        return torch.stack([getattr(self, one.name) for one in fields(self)])


@dataclass(frozen=True)
class Batch:
    """One micro-batch. Rows with a label and rows without one stand in the same tensors, and go through F together."""

    image: Tensor
    """(B,3,h,w) uint8 RGB; where domains have other channels (B,P,h,w), see `models.stems`. Or the features of a frozen
    encoder in their place, float16, see `models.packing`."""
    label: Tensor
    """(B,h,w) uint8: 0 … C_k−1, 254 not labelled, 255 void or padding."""
    domain: Tensor
    """(B,) int64 on the CPU, position of the row's domain in the run's order."""
    has_label: Tensor
    """(B,) bool on the CPU: some pixel of the row has a class."""
    has_unlabelled: Tensor
    """(B,) bool on the CPU: some pixel of the row is 254. A row with a part of its labels has both."""
    names: tuple[str, ...]
    """(B,) domain and file of each row, for messages."""
    pool: int
    """The rows from this one on were drawn from the pool."""
    counts: Mapping[int, PixelCounts]
    """By stride; 1 counts pixels."""
    step: int = 0
    steps: int = 1
    phase: str = "train"
    """The name of the method's phase that the step is in."""
    confidence: Tensor | None = None
    """(B,h,w) uint8, if the phase reads pseudo-labels: the confidence of each label in 254 steps, or 255 for a person's
    label."""
    pixel_weight: Tensor | None = None
    """(B,) fp32: the weight of a labelled pixel of each row. It is 1/labelled_fraction for a row of a partly labelled
    image. Such an image is drawn in proportion to its labelled fraction (`answered_share`), and without this weight its
    labels would count for too little beside whole images. None: 1 for all."""
    strong: Tensor | None = None
    """(S,U,3,h,w) uint8: strong views of the U rows of the pool, if the phase has any."""
    class_weights: Mapping[int, Tensor] = field(default_factory=dict)
    """By domain, (C_k,) fp32: the weight of a labelled pixel of each class. Domains that are left out: 1."""
    loss: LossSettings = field(default_factory=LossSettings)
    """The loss of labelled pixels."""

    @classmethod
    def from_tensors(
        cls,
        image: Tensor,
        label: Tensor,
        domain: Tensor | None = None,
        *,
        domains: int = 1,
        pool: int | None = None,
        strides: Sequence[int] = (1,),
        multiple: int = 1,
        names: tuple[str, ...] | None = None,
        pixel_weight: Tensor | None = None,
        **others: Any,
    ) -> Batch:
        """A batch of images (B,3,h,w) and labels (B,h,w) with its counts, by default of one domain and without a pool.

        `domain` (B,) is the position of each row's domain among so many `domains`. Rows from `pool` on are the pool's.
        A method that reads `counts` at the network's stride needs it among `strides`, and the network's `multiple`.
        `others` are further fields. All tensors are on the CPU; `to` moves the batch.
        """
        pool = len(label) if pool is None else pool
        domain = torch.zeros(len(label), dtype=torch.int64) if domain is None else domain
        labelled, unlabelled = _by_row(label)
        return cls(
            image=image,
            label=label,
            domain=domain,
            has_label=labelled > 0,
            has_unlabelled=unlabelled > 0,
            names=names or tuple(f"row {row}" for row in range(len(label))),
            pool=pool,
            counts={
                s: count_pixels(at_stride(label, s, multiple), domain, domains, pool, pixel_weight) for s in strides
            },
            pixel_weight=pixel_weight,
            **others,
        )

    @property
    def size(self) -> tuple[int, int]:
        """h, w of the crops."""
        return self.label.shape[1], self.label.shape[2]

    def rows(self) -> dict[int, Tensor]:
        """By domain, in order, the indices of its rows; domains without one are left out."""
        return _rows(self.domain, torch.ones_like(self.domain, dtype=torch.bool))

    def labelled_rows(self) -> dict[int, Tensor]:
        """By domain, in order, the indices of its rows that have a labelled pixel; domains without one are left out."""
        return _rows(self.domain, self.has_label)

    def unlabelled_rows(self) -> dict[int, Tensor]:
        """By domain, in order, the indices of its rows that have an unlabelled pixel; others are left out."""
        return _rows(self.domain, self.has_unlabelled)

    def pool_rows(self) -> dict[int, Tensor]:
        """By domain, in order, the indices of its rows in the pool, counted from the pool's first row."""
        owner = self.domain[self.pool :]
        return _rows(owner, torch.ones_like(owner, dtype=torch.bool))

    def weighted(self, k: int, rows: Tensor) -> tuple[Tensor | None, Tensor]:
        """The weights of the labelled pixels of these rows (b,) of domain k, and the divisor of their weighted sum.

        The weights are (b,1,1), or (b,h,w) with class weights, or None if all are 1. The divisor () is the sum of
        `pixel_weight` over all labelled pixels of the domain. Class weights do not change it: their mean is 1 over the
        domain's masks, not over one step's rows. Pseudo-labels have no class weights. The network that made them was
        trained with these weights, and predicts rare classes more often already.
        """
        pixels = self.counts[1].weighted[k]
        factor = self.row_weight(rows)
        if k not in self.class_weights:
            return factor, pixels
        weights = self.class_weights[k]
        label = take(self.label, rows).long()
        of_class = torch.where(label < len(weights), weights[label.clamp_max(len(weights) - 1)], 0.0)
        if self.confidence is not None:
            of_class = torch.where(take(self.confidence, rows) == HUMAN, of_class, 1.0)
        return of_class if factor is None else factor * of_class, pixels

    def row_weight(self, rows: Tensor) -> Tensor | None:
        """`pixel_weight` of these rows, (b,1,1), or None for 1."""
        return None if self.pixel_weight is None else take(self.pixel_weight, rows)[:, None, None]

    def without_pool(self) -> Batch:
        """The labelled rows alone, and their counts."""
        part = {name: getattr(self, name)[: self.pool] for name in _BY_ROW if getattr(self, name) is not None}
        return replace(self, **part, counts={s: c.without_pool() for s, c in self.counts.items()}, strong=None)

    def __getstate__(self) -> dict[str, Any]:
        """For the way from a loader's process to the run: small tensors are sent as arrays. For each tensor torch opens
        a file and a connection."""
        small = {name: _array_of(getattr(self, name)) for name in _SMALL}
        counts = {stride: _array_of(of_stride.table()) for stride, of_stride in self.counts.items()}
        return {**self.__dict__, **small, "counts": counts}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        small = {name: _tensor_of(state[name]) for name in _SMALL}
        counts = {stride: PixelCounts(*torch.from_numpy(table)) for stride, table in state["counts"].items()}
        self.__dict__.update({**state, **small, "counts": counts})

    def pin_memory(self) -> Batch:
        """For the loader: page-locked memory, which a GPU copies from while it computes."""
        return self._mapped(Tensor.pin_memory)

    def to(self, device: torch.device) -> Batch:
        if device.type == "cpu":
            return self
        moved = self._mapped(lambda tensor: tensor.to(device, non_blocking=True))
        counts = {s: PixelCounts(*c.table().to(device)) for s, c in self.counts.items()}
        return replace(moved, counts=counts, class_weights={k: w.to(device) for k, w in self.class_weights.items()})

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Batch:
        pixels = {name: getattr(self, name) for name in ("image", "label", "confidence", "pixel_weight", "strong")}
        changed: dict[str, Any] = {name: change(values) for name, values in pixels.items() if values is not None}
        return replace(self, **changed)


_SMALL = ("domain", "has_label", "has_unlabelled", "pixel_weight")
_BY_ROW = ("image", "label", "domain", "has_label", "has_unlabelled", "names", "confidence", "pixel_weight")


@dataclass(frozen=True)
class Phase:
    """Steps `start` ≤ step < `stop` of a run, the domains that they draw from, and what the rows are like."""

    name: str
    start: int
    stop: int
    labelled: tuple[str, ...]
    unlabelled: tuple[str, ...] = ()
    trains_for: tuple[str, ...] | None = None
    """The domains whose predictions it improves, where these are not those of its labelled rows: adaptation learns from
    a source's labels for a target. They are scored, and in the last phase weights are selected by them."""
    restart: bool = False
    """Whether the phase begins a new schedule."""
    whole: bool = False
    """Whether labelled rows show wholly labelled images only, if a domain has any. Images with a few answered regions
    are then in the pool alone, with their answers."""
    pseudo: float | None = None
    """Pseudo-labels of at least this confidence are labels of the rows of the pool."""
    noise: NoiseSettings | None = None
    """The rows of the pool are strongly augmented, and parts of them cut out."""
    strong: tuple[StrongSettings, ...] = ()
    """Strong views of the rows of the pool beside the weak one."""

    @property
    def trained(self) -> tuple[str, ...]:
        return self.labelled if self.trains_for is None else self.trains_for


def count_pixels(label: Tensor, domain: Tensor, domains: int, pool: int, weight: Tensor | None = None) -> PixelCounts:
    """The counts of rows with label (B,h,w) and domain (B,), of which those from `pool` on are the pool's. weight (B,):
    see `Batch.pixel_weight`."""
    labelled, unlabelled = _by_row(label)
    of_pool = torch.arange(len(label)) >= pool
    weighted = labelled if weight is None else labelled * weight
    by_row = torch.stack([labelled, unlabelled, labelled * of_pool, unlabelled * of_pool, weighted])
    return PixelCounts(*torch.zeros(5, domains).index_add_(1, domain, by_row))


def _by_row(label: Tensor) -> tuple[Tensor, Tensor]:
    """The pixels with a class and those without a label (254) in each row of label (B,h,w), each (B,) fp32."""
    rows = label.numpy()  # numpy counts in a twentieth of the time of torch's sum
    return (
        torch.tensor([float(np.count_nonzero(row < NOT_LABELLED)) for row in rows]),
        torch.tensor([float(np.count_nonzero(row == NOT_LABELLED)) for row in rows]),
    )


def _array_of(values: Tensor | None) -> np.ndarray | None:
    return None if values is None else values.numpy()


def _tensor_of(values: np.ndarray | None) -> Tensor | None:
    return None if values is None else torch.from_numpy(values)


def take(values: Tensor, rows: Tensor) -> Tensor:
    """`values[rows]` for ascending rows, without a copy where that is all of them."""
    return values if len(rows) == len(values) else values[rows]


def _rows(domain: Tensor, chosen: Tensor) -> dict[int, Tensor]:
    present = torch.unique(domain[chosen]).tolist()
    return {k: torch.nonzero((domain == k) & chosen).flatten() for k in present}


def mean_counts(batches: Sequence[Batch]) -> dict[int, PixelCounts]:
    """`Batch.counts` as the losses need them: the mean over micro-batches and processes."""
    parts = len(batches) * distributed.world()
    tables = {s: torch.stack([batch.counts[s].table() for batch in batches]).sum(0) for s in batches[0].counts}
    return {s: PixelCounts(*(distributed.all_reduce_sum(table) / parts)) for s, table in tables.items()}
