"""The layout for your own data: images, masks of any kind, lists of splits and `classes.yaml`. See docs/formats.md."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from fewmask.class_list import ClassList, read_class_list
from fewmask.config import FolderDomain
from fewmask.data import nifti
from fewmask.data.annotations import Annotated, AnnotatedMasks, LabelMe, Yolo, read_coco, read_cvat, read_label_studio
from fewmask.data.domain import SPLITS
from fewmask.data.inputs import reader_of
from fewmask.data.layouts.listing import IMAGE_SUFFIXES, Index, Listing, Problem, image_names, resolve
from fewmask.data.masks import BinaryMasks, ClassIds, MaskReader, PixelMasks, colours_of
from fewmask.data.volumes import file_of, slice_names, slice_path
from fewmask.labels import LabelSpace

LOSSY = (".jpg", ".jpeg", ".webp")
MASK_SUFFIXES = {
    "pixels": (".png", ".tif", ".tiff", ".bmp"),
    "binary": (".png", ".tif", ".tiff", ".bmp"),
    "labelme": (".json",),
    "coco": (".json",),
    "yolo": (".txt",),
    "cvat": (".xml",),
    "label-studio": (".json",),
    "nifti": nifti.ENDINGS,
}
"""The endings of the files, by kind of mask."""
OF_MANY: Mapping[str, Callable[..., list[Annotated]]] = {
    "coco": read_coco,
    "cvat": read_cvat,
    "label-studio": read_label_studio,
}
"""The readers of files about many images."""
UPLOADED = re.compile(r"(^|/)[0-9a-f]{8}-")
"""The prefix that Label Studio adds to the name of an uploaded image."""


def index(settings: FolderDomain) -> Index:
    listing = Listing(settings.root, "the folder that holds images/, labels/, splits/ and classes.yaml")
    file = settings.classes or settings.root / "classes.yaml"
    listed, space, reader = None, None, None
    try:
        listed = read_class_list(file)
        space = LabelSpace.from_class_list(listed)
        reader = _reader(settings, listed, space)
    except ValueError as error:
        message = str(error) if str(error).startswith(f"{file}: ") else f"{file}: {error}"
        listing.problems.append(Problem.of(ValueError(message), file))
    if listed is not None and listed.listed:
        ids = ", ".join(f"{i} {name}" for i, name in zip(listed.ids, listed.names, strict=True))
        listing.warn(
            file, f"a list of classes, whose positions are taken as ids: {ids[:200]}", "write ids if that is wrong"
        )
    files = _Files(settings, listing)
    try:
        files.add_images()
    except ValueError as error:  # an extra lacks
        listing.problems.append(Problem.of(error, listing.root))
    if settings.masks in OF_MANY:
        if listed is not None and space is not None:
            reader = _annotated(listing, files, ClassIds.of(listed, space))
    elif settings.masks == "nifti":
        _add_volumes_of_ids(listing, files)
    elif settings.masks == "binary":
        if listed is not None and space is not None:
            reader = _binary(listing, files, ClassIds.of(listed, space))
    else:
        files.add_masks()
    _splits(listing, settings)
    return listing.finish(space, reader=reader, upright=settings.orientation == "apply")


def _reader(settings: FolderDomain, listed: ClassList, space: LabelSpace) -> MaskReader | None:
    """The reader of a kind of mask that has a file for each image."""
    if settings.masks == "nifti":
        return nifti.NiftiMasks()
    if settings.masks == "pixels":
        return PixelMasks(colours_of(listed, space))
    ids = ClassIds.of(listed, space)
    return LabelMe(ids) if settings.masks == "labelme" else Yolo(ids) if settings.masks == "yolo" else None


@dataclass
class _Files:
    """Separates images, masks and other files."""

    settings: FolderDomain
    listing: Listing
    walked: dict[str, list[tuple[str, Path]]] = field(default_factory=dict)

    @property
    def together(self) -> bool:
        return self.settings.images == self.settings.labels

    def add_images(self) -> None:
        listing, settings = self.listing, self.settings
        inside = not self.together and (
            settings.images == "." or f"{settings.labels}/".startswith(f"{settings.images}/")
        )
        masks = {path for _, path in self._walk(settings.labels, required=False)} if inside else set()
        own = {listing.root / "classes.yaml", *(listing.root.glob("splits/*.txt"))}
        reader = None if settings.format == "pictures" else reader_of(settings.format)
        others: list[tuple[str, Path]] = []  # images that are not pictures
        for name, path in self._walk(settings.images):
            if path in masks or path in own or (self.together and self._is_mask(path)):
                continue
            ending = settings.image_ending
            stem = reader.stem_of(name, path, ending) if reader else _stem(name, ending, IMAGE_SUFFIXES)
            if stem is not None and reader:
                others.append((stem, path))
            elif stem is not None:
                listing.add_image(stem, path)
            elif reader:
                what = f"not {settings.format} by its name{' or its mark' * (settings.format == 'dicom')}"
                listing.warn(path, what, "left out; remove `format`, rename it or move it away")
            else:
                ends = settings.image_ending or ", ".join(IMAGE_SUFFIXES)
                listing.warn(
                    path, "not an image by its name", f"left out: images end in {ends}; rename or move it away"
                )
        if reader:
            listing.add_found(reader.find(others))

    def add_masks(self) -> None:
        for name, path in self.masks():
            self.listing.add_mask(self.image_stem(_stem(name, self.settings.label_ending, self.endings) or name), path)

    @property
    def endings(self) -> tuple[str, ...]:
        return MASK_SUFFIXES[self.settings.masks]

    def masks(self) -> Iterable[tuple[str, Path]]:
        """The files of masks or of annotations, with their paths from the folder; others become problems."""
        images = set(self.listing.images.values())
        for name, path in self._walk(self.settings.labels):
            if path in images or (self.together and not self._is_mask(path)):
                continue
            if self._is_mask(path):
                yield name, path
            elif self.settings.masks == "pixels" and path.suffix.lower() in LOSSY and not self.settings.label_ending:
                self.listing.error(path, "not a PNG by its name", "save masks as 8-bit PNG, which keeps every id")
            else:
                ends = self.settings.label_ending or ", ".join(self.endings)
                self.listing.warn(
                    path, "not a mask by its name", f"left out: masks end in {ends}; rename or move it away"
                )

    def image_stem(self, stem: str) -> str:
        """The stem of the one image of that name in other folders, where the masks' folders are not the images'."""
        if stem in self.listing.images:
            return stem
        last = stem.rpartition("/")[2]
        same = [s for s in self.stems_by_name.get(last, []) if "/" not in stem or "/" not in s]
        return same[0] if len(same) == 1 else stem

    @cached_property
    def stems_by_name(self) -> dict[str, list[str]]:
        stems: dict[str, list[str]] = {}
        for stem in self.listing.images:
            stems.setdefault(stem.rpartition("/")[2], []).append(stem)
        return stems

    def _is_mask(self, path: Path) -> bool:
        return _stem(path.name, self.settings.label_ending, self.endings) is not None

    def _walk(self, folder: str, required: bool = True) -> list[tuple[str, Path]]:
        if folder not in self.walked:
            self.walked[folder] = self.listing.walk(folder, required)
        return self.walked[folder]


def _stem(name: str, ending: str, suffixes: tuple[str, ...]) -> str | None:
    """A file's name without its ending; None where it ends otherwise."""
    if "." in ending:
        return name.removesuffix(ending) if name.endswith(ending) and name != ending else None
    suffix = max((suffix for suffix in suffixes if name.lower().endswith(suffix)), key=len, default="")
    stem = name[: len(name) - len(suffix)]
    if not suffix or not stem.endswith(ending) or not stem.removesuffix(ending):
        return None
    return stem.removesuffix(ending)


def _add_volumes_of_ids(listing: Listing, files: _Files) -> None:
    """Divide volumes of ids into the masks of the slices of the volumes of images."""
    if files.settings.format != "nifti":
        listing.error(
            listing.root, "`masks: nifti` for images of another format", "write `format: nifti`, or give PNG masks"
        )
        return
    image_of = {volume: file_of(listing.images[stem]) for stem, volume in listing.volume_of.items()}
    slices = Counter(listing.volume_of.values())
    for name, path in files.masks():
        volume = _stem(name, files.settings.label_ending, files.endings) or name
        if volume not in image_of:
            listing.error(
                path, f"a volume of ids without an image {volume!r}", "rename it like its image, or remove it"
            )
            continue
        try:
            nifti.check_grid(path, image_of[volume])
        except ValueError as error:
            listing.problems.append(Problem.of(error, path))
            continue
        for number, stem in enumerate(slice_names(volume, slices[volume])):
            listing.add_mask(stem, slice_path(path, number))


def _binary(listing: Listing, files: _Files, ids: ClassIds) -> BinaryMasks:
    """Find the masks in a folder for each class, at the top or below each folder of images."""
    class_files: dict[str, dict[str, Path]] = {}
    for name, path in files.masks():
        parts = (_stem(name, files.settings.label_ending, files.endings) or name).split("/")
        named = [part for part in parts[:-1] if part in ids.ids]
        if len(named) != 1:
            there = ", ".join(ids.ids)
            listing.error(path, "in no folder of a class", f"move it into a folder named after a class: {there}")
            continue
        stem = files.image_stem("/".join(part for part in parts if part != named[0]))
        if (first := class_files.setdefault(stem, {}).setdefault(named[0], path)) is not path:
            listing.error(path, f"same stem as {first}", "remove one, or rename it: an image has one mask a class")
        listing.masks.setdefault(stem, path)
    ordered = {s: [(raw, of[n]) for n, raw in ids.ids.items() if n in of] for s, of in class_files.items()}
    return BinaryMasks(ordered, ids.unpainted)


def _annotated(listing: Listing, files: _Files, ids: ClassIds) -> AnnotatedMasks:
    """Assign the annotations of files about many images to the images that they name."""

    def report(error: ValueError) -> None:
        listing.problems.append(Problem.of(error, path))

    read = OF_MANY[files.settings.masks]
    annotated: dict[str, Annotated] = {}
    absent = 0
    elsewhere: list[tuple[str, Path]] = []
    stems = image_names(listing.root, listing.images, listing.masks)
    for _, path in files.masks():
        try:
            images = read(path, ids, report)
        except ValueError as error:
            report(error)
            continue
        for image in images:
            here = path.parent.relative_to(listing.root).as_posix()
            near = {s for s in resolve(stems, image.name) if listing.images[s].is_relative_to(path.parent)}
            same = (
                near
                if len(near) == 1
                else resolve(stems, f"{here}/{image.name}", image.name, UPLOADED.sub(r"\1", image.name))
            )
            if not same:
                absent += 1
            elif len(same) > 1:
                both = " or ".join(str(listing.images[s]) for s in sorted(same)[:2])
                listing.error(image.where, f"{image.name!r} is {both}", "write its folder into the name")
            else:
                (stem,) = same
                written = image.name.replace("\\", "/").removeprefix("./")
                uploaded = UPLOADED.search(image.name)
                if "/" in written and not uploaded and not listing.images[stem].as_posix().endswith(f"/{written}"):
                    elsewhere.append((image.name, listing.images[stem]))
                listing.add_mask(stem, path)
                annotated.setdefault(stem, image)
    if elsewhere:
        name, taken = elsewhere[0]
        listing.warn(
            taken,
            f"taken as {name!r} of the annotations, which name another folder ({len(elsewhere):,} such images)",
            "write its folder into the name if another image is meant",
        )
    if absent:
        listing.warn(
            listing.root, f"{absent:,} images of the annotations are missing", "add them if they are to be used"
        )
    return AnnotatedMasks(annotated, ids.unpainted)


def _splits(listing: Listing, settings: FolderDomain) -> None:
    folder, val_from_train = settings.splits or listing.root / "splits", settings.val_from_train
    if not folder.is_dir():
        for stem, path in listing.images.items():
            listing.put("train", stem, path)
        if not val_from_train:  # an error, but the images are checked all the same
            listing.error(
                folder / "train.txt",
                "not found",
                "write one stem a line, and val.txt and test.txt beside it; or set `val_from_train: 0.2` to train on "
                "all images but a fifth of those with masks",
            )
    slices: dict[str, list[str]] = {}
    for stem, volume in listing.volume_of.items():
        slices.setdefault(volume, []).append(stem)
    names = image_names(listing.root, listing.images, listing.masks) if folder.is_dir() else {}
    for split in SPLITS if folder.is_dir() else ():
        file = folder / f"{split}.txt"
        if split != "train" and not file.exists():
            continue
        lines = listing.lines(file)
        taken: list[tuple[str, str]] = []
        for line, where in lines:
            stem = line
            volume = line if line in slices else _stem(line, settings.image_ending, nifti.ENDINGS) or ""
            if line not in listing.images and volume in slices:
                for stem in slices[volume]:
                    listing.put(split, stem, where)
                continue
            if line not in listing.images and len(same := resolve(names, line)) == 1:
                (stem,) = same
                taken.append((line, stem))
            elif line not in listing.images and len(same) > 1:
                both = " and ".join(repr(s) for s in sorted(same)[:3])
                listing.error(where, f"{line!r} may be {both}", "write the stem, with its folders")
                continue
            listing.put(split, stem, where)
        if taken:
            line, stem = taken[0]
            listing.warn(
                file,
                f"{len(taken)} lines name an image otherwise than by its stem: {line!r} is taken as {stem!r}",
                "write stems if that is wrong",
            )
        if not lines and file.exists():
            listing.error(file, "it lists no stems", "write one stem a line, or remove the file")
    if val_from_train and listing.stems("val"):
        listing.error(folder / "val.txt", f"val_from_train is {val_from_train} too", "keep one of the two")
    elif val_from_train:
        listing.hold_out(val_from_train, group=lambda stem: listing.volume_of.get(stem, stem))
