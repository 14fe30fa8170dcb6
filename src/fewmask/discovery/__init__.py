"""Detection of the dataset in a user's folder: its layout, kind, classes and splits, and a proposed configuration."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fewmask.config import FolderDomain
from fewmask.data.domain import SPLITS
from fewmask.data.layouts import Index, index
from fewmask.data.stretch import settle_readable
from fewmask.discovery.detected import Classes, DetectedClass, DetectedDataset
from fewmask.discovery.inputs import detect_input
from fewmask.discovery.layouts import find_dataset
from fewmask.discovery.pixels import Progress
from fewmask.discovery.proposal import Proposal, configuration, needs_turning, propose
from fewmask.discovery.splits import Splits, choose_splits
from fewmask.discovery.tree import Tree
from fewmask.files import write_new
from fewmask.paths import below

__all__ = [
    "Classes",
    "DetectedClass",
    "DetectedDataset",
    "Discovery",
    "Proposal",
    "discover",
    "name_of",
    "taken",
    "write",
]


@dataclass(frozen=True)
class Discovery:
    """The dataset in a folder, and the proposed settings for it."""

    root: Path
    dataset: DetectedDataset
    listing: Index
    splits: Splits
    proposals: list[Proposal]
    upright: bool
    """Whether images have to be turned as their orientation tags say."""

    def domain(self, name: str, folder: Path) -> dict[str, Any]:
        """The domain's settings in the configuration of this name, which lies in `folder`."""
        inside = self.root.is_relative_to(folder.parent)
        settings = {"layout": "folder", "root": os.path.relpath(self.root, folder) if inside else str(self.root)}
        settings |= {**self.dataset.settings(), "classes": "classes.yaml", "splits": f"{name}-splits"}
        if not self.listing.input.plain:
            settings |= self.listing.input.model_dump(include={"channels", "depth"}, mode="json")
        return settings | ({"orientation": "apply"} if self.upright else {})

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        dataset = self.dataset
        return {
            "root": str(self.root),
            "layout": dataset.settings(),
            "kind": dataset.kind,
            "images": len(self.listing.images),
            "masks": len(self.listing.masks),
            "without_mask": len(self.listing.images.keys() - self.listing.masks.keys()),
            "classes": {e.id: e.name for e in dataset.classes.entries},
            "ignore": [list(i) if isinstance(i, tuple) else i for i in dataset.classes.ignore],
            "absent": list(dataset.classes.absent),
            "channels": list(self.listing.input.channels),
            "depth": self.listing.input.depth,
            "splits": {split: len(self.splits.stems[split]) for split in SPLITS},
            "splits_why": self.splits.why,
            "left_out": list(self.splits.left_out),
            "orientation": "apply" if self.upright else "ignore",
            "proposals": {p.key: {"value": p.value, "why": p.why} for p in self.proposals},
            "notes": list(dataset.notes),
        }


def discover(folder: Path, progress: Progress | None = None) -> Discovery:
    """Detect the dataset in a folder. Every mask is opened and nothing is written. Raises ValueError that says what
    could not be determined."""
    tree = Tree.scan(folder.resolve())
    dataset = find_dataset(tree, progress)
    root = tree.path(dataset.root)
    with tempfile.TemporaryDirectory() as place:
        classes = Path(place) / "classes.yaml"
        classes.write_text(dataset.classes.yaml(), encoding="utf-8")
        given = {"layout": "folder", "root": root, "classes": classes, "splits": place, **dataset.settings()}
        listing = index(FolderDomain.model_validate(given))
    images = [*listing.images.values()]
    listing = replace(listing, input=settle_readable(detect_input(images), images)[0])
    upright = needs_turning(listing, dataset)
    splits = choose_splits(tree, listing, progress)
    return Discovery(root, dataset, listing, splits, propose(dataset, listing, splits), upright)


def configuration_name(folder: Path) -> str:
    """A name for the configuration, made from the folder's name."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name)[:60].strip("-._")
    return name or "mine"


def files_of(name: str, out: Path) -> dict[str, Path]:
    """The files that `write` writes: the configuration, the classes, and a list for each split."""
    return {
        "config": below(out, name, ending=".yaml"),
        "classes": out / "classes.yaml",
        **{split: below(out, f"{name}-splits", f"{split}.txt") for split in SPLITS},
    }


def taken(name: str, out: Path) -> list[Path]:
    """The paths of `files_of` that exist already."""
    return [path for path in files_of(name, out).values() if os.path.lexists(path)]


def write(discovery: Discovery, name: str, out: Path) -> dict[str, Path]:
    """Write the files and return their paths. Raises ValueError where one exists already."""
    if existing := taken(name, out):
        raise ValueError(f"{existing[0]}: exists already; move it away, or give another --name or --out")
    files = files_of(name, out)
    out.mkdir(parents=True, exist_ok=True)
    files["train"].parent.mkdir(exist_ok=True)
    text = configuration(name, discovery.domain(name, out.resolve()), discovery.proposals)
    contents = {"config": text, "classes": discovery.dataset.classes.yaml()}
    contents |= {s: "".join(f"{stem}\n" for stem in discovery.splits.stems[s]) for s in SPLITS}
    written = {key: path for key, path in files.items() if contents[key]}
    for key, path in written.items():
        data = contents[key].encode()
        write_new(path, data)
        if path.read_bytes() != data:
            raise ValueError(f"{path}: another process wrote it meanwhile; move it away, and run init again")
    return written
