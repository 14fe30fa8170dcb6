"""Which images are train, val and test: as the folder says it, or drawn so that no two splits have pictures that look
alike.

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

from fewmask.data.doctor import NEAR
from fewmask.data.domain import SPLITS
from fewmask.data.fingerprints import digest, thumbnail
from fewmask.data.layouts.listing import Index, image_names, resolve
from fewmask.data.reading import read_image
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
"""Of the images with masks, for val and for test each."""


@dataclass(frozen=True)
class Splits:
    stems: Mapping[str, tuple[str, ...]]
    why: str
    """How they came about, in words."""
    left_out: tuple[str, ...] = ()
    """Images in no split."""


def choose(tree: Tree, listing: Index, progress: Progress | None = None) -> Splits:
    """The splits of a folder's images: by lists, by folders of their names, or drawn."""
    stems = _of_lists(tree, listing) or _of_folders(listing)
    masked = set(listing.masks)
    if stems is not None:
        given, why = stems
        given = {split: [s for s in given[split] if split == "train" or s in masked] for split in SPLITS}
        if given["train"] and given["val"]:
            return _finish(listing, given, why)
        if given["train"] and not given["val"]:
            drawn = _draw(listing, given["train"], progress, test=False)
            told = f"{why}; val is drawn from train, {drawn.why}"
            return _finish(listing, {**drawn.stems, "test": given["test"]}, told)
    return _draw(listing, list(listing.images), progress)


def _finish(listing: Index, given: Mapping[str, Sequence[str]], why: str) -> Splits:
    stems = {split: tuple(given[split]) for split in SPLITS}
    used = {s for each in stems.values() for s in each}
    return Splits(stems, why, tuple(s for s in listing.images if s not in used))


def _of_lists(tree: Tree, listing: Index) -> tuple[dict[str, list[str]], str] | None:
    """Texts of the names train, val and test beside each other, whose lines name images."""
    lists: dict[PurePosixPath, dict[str, PurePosixPath]] = {}
    for file in tree.ending_in(".txt"):
        if split := CALLED.get(file.stem.casefold()):
            lists.setdefault(file.parent, {})[split] = file
    names = image_names(listing.root, listing.images, listing.masks)
    for folder, files in sorted(lists.items(), key=lambda item: (-len(item[1]), item[0])):
        found: dict[str, list[str]] = {split: [] for split in SPLITS}
        seen: set[str] = set()
        odd = Counter[str]()
        for split in (s for s in SPLITS if s in files):
            for line in read_bytes(tree.path(files[split]), 64 * MIB).decode("utf-8-sig", "replace").splitlines():
                same = resolve(names, line.strip(), *line.split()[:1]) if line.strip() else set()
                if len(same) == 1 and not same & seen:
                    seen |= same
                    found[split] += same
                elif line.strip():
                    many = "name several images" if len(same) > 1 else "repeat an image"
                    odd[many if same else "name no image"] += 1
        if found["train"]:
            left = [f"{number:,} of their lines {what}" for what, number in odd.items()]
            return found, "; ".join([f"as the lists in {folder} say", *left])
    return None


def _of_folders(listing: Index) -> tuple[dict[str, list[str]], str] | None:
    """Folders called train, val and test in the paths of images."""
    found: dict[str, list[str]] = {split: [] for split in SPLITS}
    for stem, path in listing.images.items():
        parts = path.relative_to(listing.root).parts[:-1]
        named = [CALLED[word] for part in parts if (word := re.sub(r"[_-]?\d+$", "", part).casefold()) in CALLED]
        if named:
            found[named[0]].append(stem)
    return (found, "by the folders train, val and test") if found["train"] and (found["val"] or found["test"]) else None


def _draw(listing: Index, among: Sequence[str], progress: Progress | None, test: bool = True) -> Splits:
    """Whole groups of images that are of one series or look alike, until a part of the masks is held out."""
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
    out = {s for position in taken for s in order[position]}
    held["train"] = [s for s in among if s not in out]
    what = f"{len(set(series.values()))} series of their names" if len(set(series.values())) > 1 else "images"
    parts = " and ".join(s for s in splits if held[s]) or "nothing"
    why = f"{parts} held out: {HELD_OUT:.0%} of the masks each, whole {what}, none that looks like one of train"
    return _finish(listing, held, why)


def _series(listing: Index, among: Sequence[str]) -> dict[str, str]:
    """Of each stem what tells its drive, patient or place: its folder, or its name without the number of the frame."""
    folders = {stem: str(listing.images[stem].parent) for stem in among}
    if len(set(folders.values())) >= 3:
        return folders
    cut = {stem: re.sub(r"[_.\- ]?(?:frame|img|image|slice|tile|f)?[_.\- ]?\d+$", "", stem) for stem in among}
    count = len(set(cut.values()))
    return cut if 3 <= count <= len(among) / 2 else dict.fromkeys(among, "")


def _alike(
    listing: Index, among: Sequence[str], series: Mapping[str, str], progress: Progress | None
) -> list[list[str]]:
    """Groups of stems: of one series, of equal pixels, or almost the same picture."""
    paths = [listing.images[stem] for stem in among]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        prints = []
        for done, one in enumerate(pool.map(_print, paths), 1):
            prints.append(one)
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
        of_series = [series[stem]] if series[stem] else []
        one = prints[i]
        for key in (*of_series, *([] if one is None else [one[0]])):
            parent[top(i)] = top(first.setdefault(key, i))
    rows = [i for i in range(len(among)) if prints[i] is not None]
    table = np.array([one[1] for one in prints if one is not None], np.float32).reshape(len(rows), -1) - 128
    squares = (table**2).sum(1)
    for start in range(0, len(rows), 512):
        block = table[start : start + 512]
        near = squares[start : start + 512, None] + squares - 2 * block @ table.T < NEAR**2 * table.shape[1]
        # Every picture of a part of this block that is connected by likeness joins the first one of it.
        inside, to = np.nonzero(near)
        size = len(rows)
        _, part = connected_components(coo_array((np.ones(len(to), bool), (inside + start, to)), (size, size)), False)
        leader: dict[int, int] = {}
        for row in np.unique(np.concatenate([inside + start, to])).tolist():
            parent[top(rows[row])] = top(rows[leader.setdefault(int(part[row]), row)])
    groups: dict[int, list[str]] = {}
    for i, stem in enumerate(among):
        groups.setdefault(top(i), []).append(stem)
    return list(groups.values())


def _print(path: Path) -> tuple[bytes, np.ndarray] | None:
    try:
        pixels = read_image(path)
    except ValueError:
        return None  # `check` tells what is wrong with it
    return digest(pixels), thumbnail(pixels)
