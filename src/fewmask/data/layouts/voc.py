"""Pascal VOC 2012: `JPEGImages/`, `SegmentationClass/` (palette PNG), `ImageSets/Segmentation/`; 21 classes.

Source of the classes and the palette: the VOC 2012 development kit (VOCinit.m, VOClabelcolormap.m).
"""

from __future__ import annotations

from fewmask.config import VocDomain
from fewmask.data.layouts.listing import Index, Listing
from fewmask.labels import LabelSpace

NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def palette_colour(index: int) -> tuple[int, int, int]:
    """VOC's colour of an index: its bits, three at a time, fill red, green and blue from the top."""
    red, green, blue = (sum((index >> 3 * k + c & 1) << 7 - k for k in range(3)) for c in range(3))
    return red, green, blue


SPACE = LabelSpace(
    names=NAMES,
    colours=tuple(palette_colour(i) for i in range(len(NAMES))),
    raw_ids={i: i for i in range(len(NAMES))},
    void_ids=frozenset({255}),  # the border between objects
)


def index(settings: VocDomain) -> Index:
    listing = Listing(settings.root, "VOCdevkit/VOC2012, which holds JPEGImages/")
    images = {path.stem: path for path in listing.files("JPEGImages") if path.suffix == ".jpg"}
    masks = {path.stem: path for path in listing.files("SegmentationClass") if path.suffix == ".png"}
    # Most of JPEGImages belongs to VOC's other tasks, so only what the lists name is the dataset's.
    for split in ("train", "val"):
        for stem, where in listing.lines(f"ImageSets/Segmentation/{split}.txt"):
            if stem in images:
                listing.images[stem] = images[stem]
                if stem in masks:
                    listing.masks[stem] = masks[stem]
            listing.put(split, stem, where)
    if settings.val_from_train:
        listing.move("val", "test")
        listing.hold_out(settings.val_from_train)
    return listing.finish(SPACE)
