"""The splits of a folder's images: those that the folder states, or drawn ones without similar pictures in two splits.

Shapes: N images.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fewmask.config.inputs import InputSettings
from fewmask.data.doctor import NEAR
from fewmask.data.domain import SPLITS
from fewmask.data.fingerprints import THUMBNAIL, digest, thumbnail
from fewmask.data.inputs import read_input
from fewmask.data.layouts.listing import Index, image_names, resolve
from fewmask.discovery.pixels import Progress
from fewmask.discovery.tree import Tree
from fewmask.formats.texts import MIB, read_bytes
from fewmask.randomness import generator

CALLED = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "testset"), "test"),
}
HELD_OUT = 0.2
"""The fraction of the images with masks that is held out for val, and the same for test."""


@dataclass(frozen=True)
class Splits:
    stems: Mapping[str, tuple[str, ...]]
    why: str
    """How the splits were made, as a phrase for people."""
    left_out: tuple[str, ...] = ()
    """Images that are in no split."""


def choose_splits(tree: Tree, listing: Index, progress: Progress | None = None) -> Splits:
    """The splits of a folder's images: by lists, by the folders' names, or drawn."""
    stems = _of_lists(tree, listing) or _of_folders(listing)
    masked = set(listing.masks)
    if stems is not None:
        given, why = stems
        given = {split: [s for s in given[split] if split == "train" or s in masked] for split in SPLITS}
        if given["train"] and given["val"]:
            return _finish(listing, given, why)
        if given["train"] and not given["val"]:
            drawn = _draw_splits(listing, given["train"], progress, test=False)
            reason = f"{why}; val is drawn from train, {drawn.why}"
            return _finish(listing, {**drawn.stems, "test": given["test"]}, reason)
    return _draw_splits(listing, list(listing.images), progress)


def _finish(listing: Index, given: Mapping[str, Sequence[str]], why: str) -> Splits:
    stems = {split: tuple(given[split]) for split in SPLITS}
    used = {s for each in stems.values() for s in each}
    return Splits(stems, why, tuple(s for s in listing.images if s not in used))


def _of_lists(tree: Tree, listing: Index) -> tuple[dict[str, list[str]], str] | None:
    """The splits by text files named train, val and test in one folder, whose lines name images."""
    lists: dict[PurePosixPath, dict[str, PurePosixPath]] = {}
    for file in tree.ending_in(".txt"):
        if split := CALLED.get(file.stem.casefold()):
            lists.setdefault(file.parent, {})[split] = file
    names = image_names(listing.root, listing.images, listing.masks)
    for folder, files in sorted(lists.items(), key=lambda item: (-len(item[1]), item[0])):
        by_split: dict[str, list[str]] = {split: [] for split in SPLITS}
        used: set[str] = set()
        skipped = Counter[str]()
        for split in (s for s in SPLITS if s in files):
            for line in read_bytes(tree.path(files[split]), 64 * MIB).decode("utf-8-sig", "replace").splitlines():
                stems = resolve(names, line.strip(), *line.split()[:1]) if line.strip() else set()
                if len(stems) == 1 and not stems & used:
                    used |= stems
                    by_split[split] += stems
                elif line.strip():
                    many = "name several images" if len(stems) > 1 else "repeat an image"
                    skipped[many if stems else "name no image"] += 1
        if by_split["train"]:
            remarks = [f"{number:,} of their lines {problem}" for problem, number in skipped.items()]
            return by_split, "; ".join([f"as the lists in {folder} say", *remarks])
    return None


def _of_folders(listing: Index) -> tuple[dict[str, list[str]], str] | None:
    """The splits by folders named train, val and test in the paths of images."""
    by_split: dict[str, list[str]] = {split: [] for split in SPLITS}
    for stem, path in listing.images.items():
        parts = path.relative_to(listing.root).parts[:-1]
        named = [CALLED[word] for part in parts if (word := re.sub(r"[_-]?\d+$", "", part).casefold()) in CALLED]
        if named:
            by_split[named[0]].append(stem)
    return (
        (by_split, "by the folders train, val and test")
        if by_split["train"] and (by_split["val"] or by_split["test"])
        else None
    )


def _draw_splits(listing: Index, among: Sequence[str], progress: Progress | None, test: bool = True) -> Splits:
    """Draw splits from whole groups of images that belong to one series or look alike, until `HELD_OUT` of the masks
    are held out for each split."""
    series = _series(listing, among)
    groups = _alike(listing, among, series, progress)
    masked = [g for g in groups if any(s in listing.masks for s in g)]
    total = sum(s in listing.masks for g in masked for s in g)
    held: dict[str, list[str]] = {split: [] for split in SPLITS}
    order = [masked[i] for i in generator(0, "split").permutation(len(masked))]
    wanted = {"val": max(1, round(HELD_OUT * total)), "test": max(1, round(HELD_OUT * total))}
    splits = [s for s in ("val", "test") if len(masked) >= (3 if s == "val" else 6) and (test or s == "val")]
    taken: set[int] = set()
    for split in splits:
        for position, group in enumerate(order):
            inside = [s for s in group if s in listing.masks]
            if position in taken or (len(held[split]) + len(inside) > max(wanted[split], 1) and held[split]):
                continue
            if len(held[split]) >= wanted[split] or len(taken) + 1 >= len(order):
                continue
            if len(inside) > max(2 * wanted[split], 1):
                continue
            taken.add(position)
            held[split] += inside
    held_stems = {s for position in taken for s in order[position]}
    held["train"] = [s for s in among if s not in held_stems]
    groups_text = f"{len(set(series.values()))} series of their names" if len(set(series.values())) > 1 else "images"
    parts = " and ".join(s for s in splits if held[s]) or "nothing"
    why = f"{parts} held out: {HELD_OUT:.0%} of the masks each, whole {groups_text}, none similar to one of train"
    return _finish(listing, held, why)


def _series(listing: Index, among: Sequence[str]) -> dict[str, str]:
    """The series of each stem, such as its drive, patient or place: its folder, or its name without the frame's
    number."""
    folders = {stem: str(listing.images[stem].parent) for stem in among}
    if len(set(folders.values())) >= 3:
        return folders
    cut = {stem: re.sub(r"[_.\- ]?(?:frame|img|image|slice|tile|f)?[_.\- ]?\d+$", "", stem) for stem in among}
    count = len(set(cut.values()))
    return cut if 3 <= count <= len(among) / 2 else dict.fromkeys(among, "")


def _alike(
    listing: Index, among: Sequence[str], series: Mapping[str, str], progress: Progress | None
) -> list[list[str]]:
    """Groups of stems that belong to one series, have equal pixels, or show nearly the same picture."""
    paths = [listing.images[stem] for stem in among]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        prints = []
        for done, fingerprint in enumerate(pool.map(lambda path: _print(path, listing.input), paths), 1):
            prints.append(fingerprint)
            if progress:
                progress(done, len(paths))
    parent = list(range(len(among)))

    def top(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[object, int] = {}
    for i, stem in enumerate(among):
        series_keys = [series[stem]] if series[stem] else []
        fingerprint = prints[i]
        for key in (*series_keys, *([] if fingerprint is None else [fingerprint[0]])):
            parent[top(i)] = top(first.setdefault(key, i))
    rows = [i for i in range(len(among)) if prints[i] is not None]
    thumbnails = [fingerprint[1] for fingerprint in prints if fingerprint is not None]
    table = np.array(thumbnails, np.float32).reshape(len(rows), THUMBNAIL) - 128
    squares = (table**2).sum(1)
    for start in range(0, len(rows), 512):
        block = table[start : start + 512]
        near = squares[start : start + 512, None] + squares - 2 * block @ table.T < NEAR**2 * table.shape[1]
        # Every picture of a connected component of similar pictures joins the component's first one.
        inside, column = np.nonzero(near)
        size = len(rows)
        _, component = connected_components(
            coo_array((np.ones(len(column), bool), (inside + start, column)), (size, size)), False
        )
        leader: dict[int, int] = {}
        for row in np.unique(np.concatenate([inside + start, column])).tolist():
            parent[top(rows[row])] = top(rows[leader.setdefault(int(component[row]), row)])
    groups: dict[int, list[str]] = {}
    for i, stem in enumerate(among):
        groups.setdefault(top(i), []).append(stem)
    return list(groups.values())


def _print(path: Path, settings: InputSettings) -> tuple[bytes, np.ndarray] | None:
    try:
        pixels = read_input(path, settings).pixels
    except ValueError:
        return None  # `fewmask check` reports the error
    return digest(pixels), thumbnail(pixels)
