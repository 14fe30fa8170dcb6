"""Datasets as they lie on disk: one file a layout, each turning its published tree into an `Index` by stem."""

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
    """List a dataset's files without opening an image. Never raises for the user's faults: they are its `problems`."""
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
    """The index with what its images are read by. Images that cannot be read are left to who opens each of them."""
    found = index(settings)
    assert isinstance(settings, FilesDomain), "scenes have no files"
    pixels, error = settle_readable(settings.input, [found.images[stem] for stem in found.splits["train"]])
    told = () if error is None else (Problem.of(error, found.root),)
    return replace(found, input=pixels, problems=(*found.problems, *told))


def load_domain(name: str, settings: DomainSettings, keep: bool = False) -> Domain:
    """The domain that the settings describe. Raises one ValueError that lists every error of its listing.

    Every image of train that has a mask is labelled; `Domain.with_labelled` draws fewer. `keep`: what is read of the
    files stays in memory.
    """
    if isinstance(settings, ScenesDomain):
        from fewmask.data import scenes

        return scenes.domain(name, settings)
    found = index(settings)
    if found.errors:
        raise ValueError(f"domain {name}:\n" + "\n".join(f"  {p}" for p in found.errors))
    assert found.space is not None
    try:
        pixels = settle_stretch(settings.input, [found.images[stem] for stem in found.splits["train"]])
    except ValueError as error:
        raise ValueError(f"domain {name}:\n  {error}") from None
    source = FileSource(
        found.root, found.images, found.masks, found.space, settings.size, {} if keep else None,
        found.reader or PixelMasks(), found.upright, pixels,
    )  # fmt: skip
    return Domain(name, found.space, source, found.splits, found.labelled, size=settings.size, input=pixels)
