"""The layout for your own data: `images/`, `labels/`, `splits/`, `classes.yaml`. See docs/formats.md."""

from __future__ import annotations

from fewmask.config import FolderDomain
from fewmask.data.domain import SPLITS
from fewmask.data.layouts.listing import IMAGE_SUFFIXES, Index, Listing, Problem
from fewmask.labels import LabelSpace


def index(settings: FolderDomain) -> Index:
    root = settings.root
    listing = Listing(root, "the folder that holds images/, labels/, splits/ and classes.yaml")
    classes = root / "classes.yaml"
    space = None
    try:
        space = LabelSpace.from_yaml(classes)
    except ValueError as error:
        listing.problems.append(Problem.of(error, classes))
    for path in listing.files("images"):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            listing.add_image(path.stem, path)
        else:
            listing.warn(path, "not an image by its name", f"images end in {', '.join(IMAGE_SUFFIXES)}; move it away")
    for path in listing.files("labels"):
        if path.suffix.lower() == ".png":
            listing.add_mask(path.stem, path)
        else:
            listing.error(path, "not a PNG by its name", "save masks as 8-bit PNG, which keeps every id")
    for folder in (*listing.folders("images", required=False), *listing.folders("labels", required=False)):
        listing.warn(root / folder, "a folder inside is not read", "put its files one level up")
    _splits(listing, settings.val_from_train)
    return listing.finish(space)


def _splits(listing: Listing, val_from_train: float) -> None:
    folder = listing.root / "splits"
    if not folder.is_dir():
        for stem, path in listing.images.items():
            listing.put("train", stem, path)
        if not val_from_train:  # an error, beside which the images are still looked at
            listing.error(
                folder / "train.txt",
                "not found",
                "write one stem a line, and val.txt and test.txt beside it; or set `val_from_train: 0.2` to train on "
                "all images but a fifth of those with masks",
            )
    for split in SPLITS if folder.is_dir() else ():
        file = f"splits/{split}.txt"
        if split != "train" and not (listing.root / file).exists():
            continue
        lines = listing.lines(file)
        for stem, where in lines:
            listing.put(split, stem, where)
        if not lines and (listing.root / file).exists():
            listing.error(listing.root / file, "it lists no stems", "write one stem a line, or remove the file")
    if val_from_train and listing.stems("val"):
        listing.error(folder / "val.txt", f"val_from_train is {val_from_train} too", "keep one of the two")
    elif val_from_train:
        listing.hold_out(val_from_train)
