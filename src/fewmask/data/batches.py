"""Joint mini-batches: labelled and unlabelled images of all domains, drawn as a function of (seed, step, row).

Shapes: B rows of a micro-batch · h×w pixels of a crop · K domains ·
P planes of an image, 3 of RGB (see `models.stems`).
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from fewmask import stopping
from fewmask.config import TrainSettings
from fewmask.data.batch import Batch, Phase
from fewmask.data.domain import Domain
from fewmask.data.drawing import answered_share, order_of, stocks_of, turn_of
from fewmask.data.features import CachedFeatures
from fewmask.data.pseudo import HUMAN, merge
from fewmask.labels import Mask
from fewmask.models.stems import Stems
from fewmask.randomness import generator
from fewmask.views.augment import weak_view
from fewmask.views.strong import noisy_view, strong_view

Item = TypeVar("Item")


class Steps(Dataset[list[Batch]]):
    """Step number → this process's micro-batches of that step. Any step can be drawn without those before it."""

    def __init__(
        self,
        domains: Mapping[str, Domain],
        settings: TrainSettings,
        phases: Sequence[Phase],
        strides: Sequence[int],
        multiple: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Raises ValueError when a phase draws labelled images from a domain that has none, or rows do not divide."""
        self.domains, self.settings, self.phases = dict(domains), settings, tuple(phases)
        self.strides, self.multiple, self.seed, self.rank, self.world = strides, multiple, seed, rank, world
        settings.check_division(world)
        self.stems = Stems.of_inputs({name: domain.input for name, domain in self.domains.items()})
        self.answered = {name: answered_share(domain) for name, domain in self.domains.items()}
        self.position = {name: i for i, name in enumerate(self.domains)}
        self.stocks = dict[tuple[str, bool | None], list[tuple[str, ...]]]()
        """The results of `_stocks_of`, which goes through all images of a domain."""
        self.features: CachedFeatures | None = None
        """The features of all images, if they take the place of the images."""
        empty = sorted({d for p in phases for d in p.labelled if not self.domains[d].labelled})
        if empty:
            raise ValueError(
                f"domains without a labelled image in train: {', '.join(empty)}; label one, or leave them out"
            )

    def _unlabelled_rows(self) -> int:
        rows = self.settings.unlabelled_batch_size
        return self.settings.batch_size if rows is None else rows

    def __getitem__(self, step: int) -> list[Batch]:
        cv2.setNumThreads(0)  # the loader's processes are the parallelism
        phase = next(p for p in self.phases if p.start <= step < p.stop)
        return [self._micro_batch(step, phase, part) for part in range(self.settings.accumulate)]

    def _micro_batch(self, step: int, phase: Phase, part: int) -> Batch:
        labelled = list(self._draw(step, phase.labelled, part, phase.whole))
        drawn = labelled + list(self._draw(step, phase.unlabelled, part, None))
        views = [self._view(step, phase, *row) for row in drawn]
        domain = torch.tensor([self.position[name] for _, name, _, _ in drawn])
        parts = [1.0 if pool else self.domains[d].partial.get(stem, 1.0) for _, d, stem, pool in drawn]
        return Batch.from_tensors(
            _channels_last([v.image for v in views]),
            _stacked([v.label for v in views]),
            domain,
            domains=len(self.domains),
            pool=len(labelled),
            strides=self.strides,
            multiple=self.multiple,
            names=tuple(batch_name(self.domains[d], s) for _, d, s, _ in drawn),
            step=step,
            steps=self.phases[-1].stop,
            phase=phase.name,
            confidence=_stacked([v.confidence for v in views]) if phase.pseudo is not None else None,
            pixel_weight=torch.tensor(parts).reciprocal() if set(parts) != {1.0} else None,
            strong=_strong([v.strong for v in views[len(labelled) :]]) if phase.strong else None,
        )

    def _draw(
        self, step: int, domains: Sequence[str], part: int, whole: bool | None
    ) -> Iterator[tuple[int, str, str, bool]]:
        """(row, domain, stem, from the pool) of this process's part. Domains take turns. Each goes through all its
        images in a new random order every epoch. `whole` None draws from the pool."""
        if not domains:
            return
        labelled = whole is not None
        total = self.settings.batch_size if labelled else self._unlabelled_rows()
        share = total // (self.world * self.settings.accumulate)
        first = (self.rank * self.settings.accumulate + part) * share
        for row in range(first, first + share):
            turn = step * total + row
            name = domains[turn % len(domains)]
            stocks = self._stocks_of(name, whole)
            of_answered = self.answered[name] if len(stocks) == 2 else 0.0
            stock, visit = turn_of(turn // len(domains), of_answered)
            epoch, position = divmod(visit, len(stocks[stock]))
            stream = self.position[name] * 2 + labelled + stock * 2 * len(self.domains)
            stems, order = stocks[stock], order_of(self.seed, stream, epoch, len(stocks[stock]))
            yield row + (0 if labelled else self.settings.batch_size), name, stems[order[position]], not labelled

    def _stocks_of(self, name: str, whole: bool | None) -> list[tuple[str, ...]]:
        if (name, whole) not in self.stocks:
            self.stocks[name, whole] = stocks_of(self.domains[name], whole)
        return self.stocks[name, whole]

    def _view(self, step: int, phase: Phase, row: int, name: str, stem: str, pool: bool) -> _View:
        domain = self.domains[name]
        labelled = not pool or stem in domain.partial
        if self.features is not None:
            return self._features_view(self.features, generator(self.seed, "view", step, row), domain, stem, labelled)
        image, label = domain.pair(stem, labelled)
        confidence = np.full(label.shape, HUMAN, np.uint8)
        if pool and phase.pseudo is not None and domain.pseudo is not None and (prediction := domain.pseudo.read(stem)):
            label, confidence = merge(label, *prediction, phase.pseudo)
        rng = generator(self.seed, "view", step, row)
        # Always as a pair: of a single channel OpenCV's warpAffine takes other pixels.
        pair: np.ndarray = cv2.merge([label, confidence])
        image, pair = weak_view(image, pair, self.settings.crop, self.settings.augment, rng)
        label, confidence = pair[..., 0], pair[..., 1]
        strong: tuple[np.ndarray, ...] = ()
        if pool:
            strong = tuple(self.stems.in_batch(strong_view(image, s, rng), name) for s in phase.strong)
        if pool and phase.noise is not None:
            image, label = noisy_view(image, label, phase.noise, rng)
        return _View(self.stems.in_batch(image, name), label, confidence, strong)

    def _features_view(
        self, cached: CachedFeatures, rng: np.random.Generator, domain: Domain, stem: str, labelled: bool
    ) -> _View:
        entry = cached.entries[domain.name, stem]
        label = domain.label(stem, entry.size, labelled)
        pair: np.ndarray = cv2.merge([label, np.full(label.shape, HUMAN, np.uint8)])
        features, pair = cached.view(entry, pair, self.settings, rng)
        return _View(features, pair[..., 0], pair[..., 1], ())


class _View(NamedTuple):
    """A row: image (h,w,P) or its features, label (h,w), its confidence (h,w), and S strong views (h,w,P)."""

    image: np.ndarray
    label: Mask
    confidence: np.ndarray
    strong: tuple[np.ndarray, ...]


def batch_name(domain: Domain, stem: str) -> str:
    """The name of an image of the domain in `Batch.names`."""
    return f"{domain.name}: {domain.source.where(stem)}"


def _strong(rows: Sequence[Sequence[np.ndarray]]) -> Tensor:
    """The strong views of U rows as (S,U,3,h,w)."""
    return torch.stack([torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2) for views in zip(*rows, strict=True)])


def _channels_last(images: Sequence[np.ndarray]) -> Tensor:
    """Images (h,w,P) as one tensor (B,P,h,w), channels last in memory, as cv2 leaves them."""
    return _stacked(images).permute(0, 3, 1, 2)


def _stacked(arrays: Sequence[np.ndarray]) -> Tensor:
    """Arrays as one tensor. In a worker process its memory is shared with the run, which saves a copy."""
    if get_worker_info() is None:
        return torch.from_numpy(np.stack(arrays))
    size = (len(arrays), *arrays[0].shape)
    kind = torch.from_numpy(arrays[0][:0]).dtype
    storage = torch.UntypedStorage._new_shared(math.prod(size) * arrays[0].itemsize)
    shared = torch.empty(0, dtype=kind).set_(storage).view(size)
    np.stack(arrays, out=shared.numpy())
    return shared


def loader(steps: Steps, first: int, workers: int, **options: Any) -> Generator[list[Batch], None, None]:
    """The micro-batches of the steps from `first` on, in order, prefetched by worker processes."""
    return read_batches(steps, range(first, steps.phases[-1].stop), workers, **options)


def read_batches(
    items: Dataset[Item], order: Sequence[int], workers: int, ahead: int = 2, **options: Any
) -> Generator[Item, None, None]:
    """`items[i] for i in order`, with `ahead` of them prefetched by each of the worker processes.

    A ValueError of an item is raised here as it is: DataLoader would make the worker's traceback its message.
    """
    dataset = _ErrorsAsItems(items)
    prefetch = ahead if workers else None
    leave = partial(_leave_with, os.getpid(), multiprocessing.get_start_method())
    loading = DataLoader(
        dataset,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        prefetch_factor=prefetch,
        worker_init_fn=leave,
        **options,
    )
    with stopping.shield_workers():
        started = iter(loading)
    for item in started:
        if isinstance(item, ValueError):
            raise item
        yield item


def _leave_with(parent: int, method: str, worker: int) -> None:
    """End a worker whose run was killed while it started. torch's own watch begins later and would wait for ever.

    A worker of a fork server is the server's child, not the run's, and has a pipe that closes with the run. A forked
    worker has that pipe too, but its younger siblings hold the other end open.
    """
    run = multiprocessing.parent_process()
    alive = run is not None and run.is_alive() if method == "forkserver" else os.getppid() == parent
    if not alive:
        os._exit(1)
    stopping.delay_sigterm()
    gc.freeze()  # or every full collection goes through the objects of all imports, and copies their pages


class _ErrorsAsItems(Dataset[Any]):
    """A dataset that returns an item's ValueError in place of the item."""

    def __init__(self, items: Dataset[Any]) -> None:
        self.items = items

    def __getitem__(self, index: int) -> Any:
        try:
            return self.items[index]
        except ValueError as error:
            return error
