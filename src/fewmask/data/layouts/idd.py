"""India Driving Dataset: `leftImg8bit/<split>/<drive>/`, `gtFine/<split>/<drive>/`; 7 classes (level 1) or 26 (3).

Source of tree and table: github.com/AutoNUE/public-code, README.md and helpers/anue_labels.py; the names of the
classes at the two levels are those of its evaluation scripts. IDD Lite (`<frame>_image.jpg`, `<frame>_label.png`,
level 1) is read too.
"""

from __future__ import annotations

from pathlib import Path

from fewmask.config import IddDomain
from fewmask.data.layouts.listing import Index, Listing
from fewmask.labels import LabelSpace

# Name, id, level-3 id, level-1 id, colour. The five ids after these (unlabeled, ego vehicle, rectification border,
# out of roi, license plate) belong to no class.
LABELS = (
    ("road", 0, 0, 0, (128, 64, 128)),
    ("parking", 1, 1, 0, (250, 170, 160)),
    ("drivable fallback", 2, 1, 0, (81, 0, 81)),
    ("sidewalk", 3, 2, 1, (244, 35, 232)),
    ("rail track", 4, 3, 1, (230, 150, 140)),
    ("non-drivable fallback", 5, 3, 1, (152, 251, 152)),
    ("person", 6, 4, 2, (220, 20, 60)),
    ("animal", 7, 4, 2, (246, 198, 145)),
    ("rider", 8, 5, 2, (255, 0, 0)),
    ("motorcycle", 9, 6, 3, (0, 0, 230)),
    ("bicycle", 10, 7, 3, (119, 11, 32)),
    ("autorickshaw", 11, 8, 3, (255, 204, 54)),
    ("car", 12, 9, 3, (0, 0, 142)),
    ("truck", 13, 10, 3, (0, 0, 70)),
    ("bus", 14, 11, 3, (0, 60, 100)),
    ("caravan", 15, 12, 3, (0, 0, 90)),
    ("trailer", 16, 12, 3, (0, 0, 110)),
    ("train", 17, 12, 3, (0, 80, 100)),
    ("vehicle fallback", 18, 12, 3, (136, 143, 153)),
    ("curb", 19, 13, 4, (220, 190, 40)),
    ("wall", 20, 14, 4, (102, 102, 156)),
    ("fence", 21, 15, 4, (190, 153, 153)),
    ("guard rail", 22, 16, 4, (180, 165, 180)),
    ("billboard", 23, 17, 4, (174, 64, 67)),
    ("traffic sign", 24, 18, 4, (220, 220, 0)),
    ("traffic light", 25, 19, 4, (250, 170, 30)),
    ("pole", 26, 20, 4, (153, 153, 153)),
    ("polegroup", 27, 20, 4, (153, 153, 153)),
    ("obs-str-bar-fallback", 28, 21, 4, (169, 187, 214)),
    ("building", 29, 22, 5, (70, 70, 70)),
    ("bridge", 30, 23, 5, (150, 100, 100)),
    ("tunnel", 31, 23, 5, (150, 120, 90)),
    ("vegetation", 32, 24, 5, (107, 142, 35)),
    ("sky", 33, 25, 6, (70, 130, 180)),
    ("fallback background", 34, 25, 6, (169, 187, 214)),
)
VOID_IDS = frozenset(range(35, 40))
LEVEL1 = ("drivable", "non-drivable", "living-things", "vehicles", "road-side-objs", "far-objects", "sky")
LEVEL3 = (
    *("road", "drivable fallback", "sidewalk", "non-drivable fallback", "person", "rider", "motorcycle", "bicycle"),
    *("autorickshaw", "car", "truck", "bus", "vehicle fallback", "curb", "wall", "fence", "guard rail", "billboard"),
    *("traffic sign", "traffic light", "pole", "obs-str-bar-fallback", "building", "bridge", "vegetation", "sky"),
)
SUFFIXES = {1: ("_gtFine_labellevel1Ids.png", "_label.png"), 3: ("_gtFine_labellevel3Ids.png",)}
IMAGE_SUFFIXES = ("_leftImg8bit.png", "_leftImg8bit.jpg", "_image.jpg")


def space(level: int, raw: bool) -> LabelSpace:
    """The label space of a level, for masks of label ids (`raw`) or for masks that hold the level's own ids."""
    names = {1: LEVEL1, 3: LEVEL3}[level]
    to_class = {raw_id: {1: level1, 3: level3}[level] for _, raw_id, level3, level1, _ in LABELS}
    # A class of level 1 has no colour of its own and takes that of its first label.
    colours = {to_class[raw_id]: colour for _, raw_id, _, _, colour in reversed(LABELS)}
    if level == 3:
        colours |= {LEVEL3.index(name): colour for name, _, _, _, colour in LABELS if name in LEVEL3}
    return LabelSpace(
        names=names,
        colours=tuple(colours[i] for i in range(len(names))),
        raw_ids=to_class if raw else {i: i for i in range(len(names))},
        void_ids=VOID_IDS if raw else frozenset(),
    )


def index(settings: IddDomain) -> Index:
    listing = Listing(settings.root, "the folder that holds leftImg8bit/ and gtFine/")
    level_masks: dict[str, Path] = {}
    id_masks: dict[str, Path] = {}
    polygons = False
    # The official test set has no public masks, so it is not read.
    for split in ("train", "val"):
        for folder in listing.folders(f"leftImg8bit/{split}"):
            for path in listing.files(folder):
                if stem := _stem(path, split, IMAGE_SUFFIXES):
                    listing.add_image(stem, path)
                    listing.put(split, stem, path)
                else:
                    listing.warn(path, "not an image by its name", "images end in _leftImg8bit.png or .jpg")
        for folder in listing.folders(f"gtFine/{split}", required=split == "val"):
            for path in listing.files(folder):
                polygons |= path.name.endswith("_polygons.json")
                if path.name.endswith("_inst_label.png"):  # IDD Lite's instances
                    continue
                if stem := _stem(path, split, SUFFIXES[settings.level]):
                    level_masks[stem] = path
                elif stem := _stem(path, split, ("_gtFine_labelids.png",)):
                    id_masks[stem] = path
    listing.masks |= level_masks or id_masks
    create = f"run AutoNUE's preperation/createLabels.py with --id-type level{settings.level}Id"
    for stem in sorted(id_masks.keys() - level_masks.keys() if level_masks else ()):
        listing.error(id_masks[stem], f"it has no level-{settings.level} mask while others have", f"{create} for all")
    if polygons and not listing.masks:
        listing.error(settings.root / "gtFine", "polygons, but no masks", create)
    if settings.val_from_train:
        listing.move("val", "test")
        listing.hold_out(settings.val_from_train, group=lambda stem: listing.images[stem].parent.name)
    return listing.finish(space(settings.level, raw=not level_masks))


def _stem(path: Path, split: str, suffixes: tuple[str, ...]) -> str | None:
    """Split, drive and frame: frames are numbered anew in every drive."""
    for suffix in suffixes:
        if path.name.endswith(suffix):
            return f"{split}_{path.parent.name}_{path.name.removesuffix(suffix)}"
    return None
