"""From a stranger's folder to a configuration: what is in it, of what kind, and what is proposed for it."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewmask.config import FolderDomain
from fewmask.data.domain import SPLITS
from fewmask.data.layouts import Index, index
from fewmask.discovery.found import Classes, Found, FoundClass
from fewmask.discovery.layouts import find
from fewmask.discovery.pixels import Progress
from fewmask.discovery.proposal import Proposal, configuration, propose, turned
from fewmask.discovery.splits import Splits, choose
from fewmask.discovery.tree import Tree
from fewmask.files import write_new
from fewmask.paths import below

__all__ = ["Classes", "Discovery", "Found", "FoundClass", "Proposal", "discover", "name_of", "taken", "write"]


@dataclass(frozen=True)
class Discovery:
    """What is in a folder, and what is proposed for it."""

    root: Path
    found: Found
    listing: Index
    splits: Splits
    proposals: list[Proposal]
    upright: bool
    """Whether images are to be turned as their orientation tags ask."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        found = self.found
        return {
            "root": str(self.root),
            "layout": found.settings(),
            "kind": found.kind,
            "images": len(self.listing.images),
            "masks": len(self.listing.masks),
            "without_mask": len(self.listing.images.keys() - self.listing.masks.keys()),
            "classes": {e.id: e.name for e in found.classes.entries},
            "ignore": [list(i) if isinstance(i, tuple) else i for i in found.classes.ignore],
            "absent": list(found.classes.absent),
            "splits": {split: len(self.splits.stems[split]) for split in SPLITS},
            "splits_why": self.splits.why,
            "left_out": list(self.splits.left_out),
            "orientation": "apply" if self.upright else "ignore",
            "proposals": {p.key: {"value": p.value, "why": p.why} for p in self.proposals},
            "notes": list(found.notes),
        }


def discover(folder: Path, progress: Progress | None = None) -> Discovery:
    """Look at a folder; every mask of it is opened. Raises ValueError that says what could not be told. Writes
    nothing."""
    tree = Tree.of(folder.resolve())
    found = find(tree, progress)
    root = tree.path(found.root)
    with tempfile.TemporaryDirectory() as place:
        classes = Path(place) / "classes.yaml"
        classes.write_text(found.classes.yaml(), encoding="utf-8")
        given = {"layout": "folder", "root": root, "classes": classes, "splits": place, **found.settings()}
        listing = index(FolderDomain.model_validate(given))
    upright = turned(listing, found)
    splits = choose(tree, listing, progress)
    return Discovery(root, found, listing, splits, propose(found, listing, splits), upright)


def name_of(folder: Path) -> str:
    """A name for the configuration, of the folder's."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name)[:60].strip("-._")
    return name or "mine"


def files_of(name: str, out: Path) -> dict[str, Path]:
    """What is written: the configuration, the classes, and a list for each split."""
    return {
        "config": below(out, name, ending=".yaml"),
        "classes": out / "classes.yaml",
        **{split: below(out, f"{name}-splits", f"{split}.txt") for split in SPLITS},
    }


def taken(name: str, out: Path) -> list[Path]:
    """What of it is there already."""
    return [path for path in files_of(name, out).values() if os.path.lexists(path)]


def write(discovery: Discovery, name: str, out: Path) -> dict[str, Path]:
    """Write the files, whose paths are returned. Raises ValueError where one is there already."""
    if there := taken(name, out):
        raise ValueError(f"{there[0]}: there already; move it away, or give another --name or --out")
    files = files_of(name, out)
    out.mkdir(parents=True, exist_ok=True)
    files["train"].parent.mkdir(exist_ok=True)
    text = configuration(name, discovery.root, out.resolve(), discovery.found, discovery.proposals, discovery.upright)
    contents = {"config": text, "classes": discovery.found.classes.yaml()}
    contents |= {s: "".join(f"{stem}\n" for stem in discovery.splits.stems[s]) for s in SPLITS}
    written = {key: path for key, path in files.items() if contents[key]}
    for key, path in written.items():
        data = contents[key].encode()
        write_new(path, data)
        if path.read_bytes() != data:
            raise ValueError(f"{path}: another process wrote it meanwhile; move it away, and say init again")
    return written
