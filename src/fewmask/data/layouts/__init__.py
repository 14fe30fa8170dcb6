"""Datasets in their published folder structures: each layout is a module that lists the files as an `Index` by stem."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from fewmask.config import (
    CamvidDomain,
    CityscapesDomain,
    DomainSettings,
    FolderDomain,
    IddDomain,
    PluginDomain,
    ScenesDomain,
    SunrgbdDomain,
    VocDomain,
)
from fewmask.config.domains import FilesDomain, installed_layouts
from fewmask.data.domain import Domain, FileSource
from fewmask.data.layouts import camvid, cityscapes, folder, idd, sunrgbd, voc
from fewmask.data.layouts.listing import Index, Listing, Problem
from fewmask.data.masks import PixelMasks
from fewmask.data.stretch import settle_readable, settle_stretch

__all__ = ["Index", "Listing", "Problem", "index", "index_to_check", "load_domain"]


def index(settings: DomainSettings) -> Index:
    """List a dataset's files without opening an image. Faults of the data are its `problems` and are never raised."""
    match settings:
        case FolderDomain():
            return folder.index(settings)
        case CamvidDomain():
            return camvid.index(settings)
        case CityscapesDomain():
            return cityscapes.index(settings)
        case IddDomain():
            return idd.index(settings)
        case SunrgbdDomain():
            return sunrgbd.index(settings)
        case VocDomain():
            return voc.index(settings)
        case PluginDomain():
            return cast(Index, installed_layouts()[settings.layout].index(settings))
    raise AssertionError(f"{settings.layout} has no files")


def index_to_check(settings: DomainSettings) -> Index:
    """The index with the settings by which its images are read. Unreadable images are left to the caller, who opens
    each."""
    file_index = index(settings)
    assert isinstance(settings, FilesDomain), "scenes have no files"
    pixels, error = settle_readable(settings.input, [file_index.images[stem] for stem in file_index.splits["train"]])
    stretch_problems = () if error is None else (Problem.of(error, file_index.root),)
    return replace(file_index, input=pixels, problems=(*file_index.problems, *stretch_problems))


def load_domain(name: str, settings: DomainSettings, keep: bool = False) -> Domain:
    """The domain that the settings describe. Raises one ValueError that lists every error of its listing.

    Every image of train that has a mask is labelled; `Domain.with_labelled` draws fewer. With `keep`, images and masks
    stay in memory once they are read.
    """
    if isinstance(settings, ScenesDomain):
        from fewmask.data import scenes

        return scenes.domain(name, settings)
    file_index = index(settings)
    if file_index.errors:
        raise ValueError(f"domain {name}:\n" + "\n".join(f"  {p}" for p in file_index.errors))
    assert file_index.space is not None
    try:
        pixels = settle_stretch(settings.input, [file_index.images[stem] for stem in file_index.splits["train"]])
    except ValueError as error:
        raise ValueError(f"domain {name}:\n  {error}") from None
    source = FileSource(
        file_index.root, file_index.images, file_index.masks, file_index.space, settings.size, {} if keep else None,
        file_index.reader or PixelMasks(), file_index.upright, pixels,
    )  # fmt: skip
    return Domain(
        name, file_index.space, source, file_index.splits, file_index.labelled, size=settings.size, input=pixels
    )
