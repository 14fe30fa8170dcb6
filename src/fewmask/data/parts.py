"""Finds the partly labelled masks of a domain, by the pixels of each mask."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np

from fewmask.data.domain import Domain, FileSource
from fewmask.labels import NOT_LABELLED, Mask

Value = TypeVar("Value")


class LabelledPixels(NamedTuple):
    """The labelled pixels of a mask, with a class or void, and its size in pixels."""

    pixels: int
    size: int

    @property
    def labelled_fraction(self) -> float:
        return self.pixels / self.size


def count_labelled(mask: Mask) -> LabelledPixels:
    return LabelledPixels(int((mask != NOT_LABELLED).sum()), mask.size)


def labelled_pixel_counts(domain: Domain) -> dict[str, LabelledPixels]:
    """The labelled pixels of each labelled image. Every mask is read. Raises ValueError with the name of a file that
    cannot be read."""
    return dict(zip(domain.labelled, _of_masks(domain, count_labelled), strict=True))


def _of_masks(domain: Domain, value_of: Callable[[Mask], Value]) -> list[Value]:
    """Applies a function to the mask of each labelled image."""
    # Decoding leaves the interpreter's lock, so threads use all cores.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda stem: value_of(domain.mask(stem)), domain.labelled))


def in_part(domain: Domain, counts: Mapping[str, LabelledPixels]) -> Domain:
    """The domain with its partly labelled images in `partial`, by their `counts`. An image without a labelled
    pixel is no longer one of the labelled images."""
    return replace(
        domain,
        labelled=tuple(s for s in domain.labelled if counts[s].pixels),
        partial={s: counts[s].labelled_fraction for s in domain.labelled if 0 < counts[s].pixels < counts[s].size},
    )


def with_parts(domains: Mapping[str, Domain]) -> dict[str, Domain]:
    """The domains with `partial` as read from their masks. Procedural domains are wholly labelled and stay as they are.

    Raises ValueError like `labelled_pixel_counts`.
    """
    return {n: _as_read(d) if isinstance(d.source, FileSource) else d for n, d in domains.items()}


def _as_read(domain: Domain) -> Domain:
    per_mask = _of_masks(domain, lambda mask: (count_labelled(mask), np.bincount(mask.ravel(), minlength=256) > 0))
    occurs = np.any([classes for _, classes in per_mask], axis=0) if per_mask else np.ones(256, bool)
    unseen = tuple(name for i, name in enumerate(domain.space.names) if not occurs[i])
    counts = dict(zip(domain.labelled, (count for count, _ in per_mask), strict=True))
    return replace(in_part(domain, counts), unseen=unseen)


def image_counts(domains: Mapping[str, Domain]) -> dict[str, dict[str, int]]:
    """By kind and domain, the number of images of train with a label and of images in the pool. Partly labelled images
    count in both, and `in_part` counts them alone."""
    return {
        "labelled": {name: len(domain.labelled) for name, domain in domains.items()},
        "unlabelled": {name: len(domain.unlabelled) for name, domain in domains.items()},
        "in_part": {name: len(domain.labelled) - len(domain.whole) for name, domain in domains.items()},
    }
