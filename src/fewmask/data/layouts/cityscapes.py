"""Cityscapes: `leftImg8bit/<split>/<city>/`, `gtFine/<split>/<city>/`; the 19 classes that are scored.

Source of the table: github.com/mcordts/cityscapesScripts, cityscapesscripts/helpers/labels.py.
"""

from __future__ import annotations

from fewmask.config import CityscapesDomain
from fewmask.data.layouts.listing import Index, Listing
from fewmask.labels import LabelSpace

# Name, id in *_gtFine_labelIds.png, colour; their order is that of the train ids.
CLASSES = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)
# unlabeled, ego vehicle, rectification border, out of roi, static, dynamic, ground, parking, rail track, guard rail,
# bridge, tunnel, polegroup, caravan, trailer. License plate has id -1 and is never drawn.
VOID_IDS = frozenset({0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30})
SPACE = LabelSpace(
    names=tuple(name for name, _, _ in CLASSES),
    colours=tuple(colour for _, _, colour in CLASSES),
    raw_ids={raw: train_id for train_id, (_, raw, _) in enumerate(CLASSES)},
    void_ids=VOID_IDS,
)


def index(settings: CityscapesDomain) -> Index:
    listing = Listing(settings.root, "the folder that holds leftImg8bit/ and gtFine/")
    # The official test set has no public masks (its files are blank), so it is not read.
    for split in ("train", "val"):
        for folder in listing.folders(f"leftImg8bit/{split}"):
            for path in listing.files(folder):
                if path.name.endswith("_leftImg8bit.png"):
                    stem = path.name.removesuffix("_leftImg8bit.png")
                    listing.add_image(stem, path)
                    listing.put(split, stem, path)
                else:
                    listing.warn(path, "not an image by its name", "images end in _leftImg8bit.png; move it away")
        for folder in listing.folders(f"gtFine/{split}", required=split == "val"):
            for path in listing.files(folder):
                if path.name.endswith("_gtFine_labelIds.png"):
                    listing.add_mask(path.name.removesuffix("_gtFine_labelIds.png"), path)
    if settings.val_from_train:
        listing.move("val", "test")
        listing.hold_out(settings.val_from_train, group=lambda stem: stem.split("_")[0])
    return listing.finish(SPACE)
