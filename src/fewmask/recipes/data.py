"""Checking the data of a recipe before any training, with all missing files and errors at once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fewmask.config import Config, DomainSettings, ScenesDomain
from fewmask.data.layouts import index
from fewmask.paths import below
from fewmask.recipes import sources


@dataclass(frozen=True)
class RecipeData:
    """A dataset on the disk. `images` counts the images of each published split, before any are held out."""

    domain: str
    folder: Path
    layout: str
    images: dict[str, int]
    expected: dict[str, int]
    """The published counts; empty if they are not known."""


def check_data(name: str, configs: Iterable[Config], data: Path, incomplete: bool = False) -> list[RecipeData]:
    """The datasets that the configurations read. This lists their files and opens no image.

    Raises one ValueError that lists all missing datasets, with where to get them, and all errors of their files. Unless
    `incomplete`, it also lists every split whose number of images differs from the published one.
    """
    known_sources = {Path(os.path.abspath(below(data, path))): source for path, source in sources().items()}
    domains: dict[str, tuple[str, DomainSettings]] = {}
    problems: dict[str, None] = {}  # without repetitions, in order
    datasets = []
    for config in configs:
        domains |= {f"{domain} {s.model_dump_json()}": (domain, s) for domain, s in config.domains.items()}
        weights = config.model.weights
        if isinstance(weights, Path) and not weights.exists():
            get = known_sources[weights].get if weights in known_sources else "give the path of an encoder's weights"
            problems[f"{weights}: missing; {get}"] = None
    for domain, settings in domains.values():
        if isinstance(settings, ScenesDomain):
            continue
        source = known_sources.get(settings.root)
        if not settings.root.exists():
            problems[f"{settings.root}: missing; {source.get if source else f'set domains.{domain}.root'}"] = None
            continue
        # The published split: the images held out for validation belong to train.
        whole = settings.model_copy(update={"val_from_train": 0.0} if hasattr(settings, "val_from_train") else {})
        listing = index(whole)
        problems |= dict.fromkeys(f"domain {domain}: {problem}" for problem in index(settings).errors)
        images = {split: len(stems) for split, stems in listing.splits.items() if stems}
        expected = source.images if source else {}
        if expected and images != expected and not incomplete and not listing.errors:
            problems[
                f"domain {domain}: {settings.root} has {_counts(images)} images, but should have {_counts(expected)}; "
                "add the missing images, or give --incomplete to use those that are there"
            ] = None
        datasets.append(RecipeData(domain, settings.root, settings.layout, images, expected))
    if problems:
        raise ValueError("\n".join([f"recipe {name}, data={data}:", *(f"  {p}" for p in problems)]))
    return datasets


def _counts(images: dict[str, int]) -> str:
    return ", ".join(f"{split} {count}" for split, count in images.items()) or "no"
