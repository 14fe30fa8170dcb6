"""SUN RGB-D in the form of ankurhanda/sunrgbd-meta-data; 37 classes, or 13 by a many→one table.

Each of the three archives is unpacked into a folder of its name: `SUNRGBD-train_images/img-000001.jpg …`,
`SUNRGBD-test_images/img-000001.jpg …`, `sunrgbd_train_test_labels/img-000001.png …`. The first 5050 labels are the
test set's, in order; the train set's follow.
"""

from __future__ import annotations

import re

from fewmask.config import SunrgbdDomain
from fewmask.data.layouts.listing import Index, Listing
from fewmask.labels import LabelSpace, distinct_colour

TEST_IMAGES = 5050

# Source of the 13 classes and their colours: the README of github.com/ankurhanda/SceneNetv1.0, where sunrgbd-meta-data
# sends its readers; they are those of Couprie et al. 2013.
CLASSES_13 = (
    ("bed", (0, 0, 255)),
    ("books", (233, 89, 48)),
    ("ceiling", (0, 218, 0)),
    ("chair", (149, 0, 240)),
    ("floor", (222, 241, 24)),
    ("furniture", (255, 206, 206)),
    ("objects", (0, 224, 229)),
    ("picture", (106, 136, 204)),
    ("sofa", (117, 29, 41)),
    ("table", (240, 35, 235)),
    ("tv", (0, 167, 156)),
    ("wall", (249, 139, 0)),
    ("window", (225, 229, 194)),
)
# The 37 classes in the order of their ids, which begin at 1 (0 is "not labelled" in the dataset: its class is
# unknown, so it is void here), each with its class of the 13. Source of the names: SUNRGBDtoolbox; of the mapping:
# class13Mapping of github.com/ankurhanda/nyuv2-meta-data, whose first 37 of 40 classes are these.
CLASSES_37 = (
    ("wall", "wall"),
    ("floor", "floor"),
    ("cabinet", "furniture"),
    ("bed", "bed"),
    ("chair", "chair"),
    ("sofa", "sofa"),
    ("table", "table"),
    ("door", "wall"),
    ("window", "window"),
    ("bookshelf", "furniture"),
    ("picture", "picture"),
    ("counter", "furniture"),
    ("blinds", "window"),
    ("desk", "table"),
    ("shelves", "furniture"),
    ("curtain", "window"),
    ("dresser", "furniture"),
    ("pillow", "objects"),
    ("mirror", "objects"),
    ("floor mat", "floor"),
    ("clothes", "objects"),
    ("ceiling", "ceiling"),
    ("books", "books"),
    ("fridge", "furniture"),
    ("tv", "tv"),
    ("paper", "objects"),
    ("towel", "objects"),
    ("shower curtain", "objects"),
    ("box", "objects"),
    ("whiteboard", "objects"),
    ("person", "objects"),
    ("night stand", "furniture"),
    ("toilet", "objects"),
    ("sink", "objects"),
    ("lamp", "objects"),
    ("bathtub", "objects"),
    ("bag", "objects"),
)
NAMES_13 = tuple(name for name, _ in CLASSES_13)
SPACES = {
    37: LabelSpace(
        names=tuple(name for name, _ in CLASSES_37),
        colours=tuple(distinct_colour(i) for i in range(37)),
        raw_ids={i + 1: i for i in range(37)},
        void_ids=frozenset({0}),
    ),
    13: LabelSpace(
        names=NAMES_13,
        colours=tuple(colour for _, colour in CLASSES_13),
        raw_ids={i + 1: NAMES_13.index(coarse) for i, (_, coarse) in enumerate(CLASSES_37)},
        void_ids=frozenset({0}),
    ),
}


def index(settings: SunrgbdDomain) -> Index:
    listing = Listing(
        settings.root,
        "the folder that holds SUNRGBD-train_images/, SUNRGBD-test_images/ and sunrgbd_train_test_labels/",
    )
    # An image's stem is its label's, since both image folders count from 1.
    for split, first in (("train", TEST_IMAGES), ("test", 0)):
        for path in listing.files(f"SUNRGBD-{split}_images"):
            number = re.fullmatch(r"img-(\d{6})\.jpg", path.name)
            if number is None:
                listing.warn(path, "not an image by its name", "images are named img-000001.jpg; move it away")
            elif split == "test" and int(number[1]) > TEST_IMAGES:
                listing.error(path, f"the test set ends at {TEST_IMAGES}", "move it to where it came from")
            else:
                stem = f"img-{first + int(number[1]):06d}"
                listing.add_image(stem, path)
                listing.put(split, stem, path)
    for path in listing.files("sunrgbd_train_test_labels"):
        if re.fullmatch(r"img-\d{6}\.png", path.name):
            listing.add_mask(path.stem, path)
    if settings.val_from_train:
        listing.hold_out(settings.val_from_train)
    return listing.finish(SPACES[settings.classes])
