"""The files of a user's folder, by their paths and endings. No file is opened here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from fewmask.data.layouts.listing import IMAGE_SUFFIXES

SYSTEM = {"thumbs.db", "desktop.ini", "__macosx"}


@dataclass(frozen=True)
class Tree:
    """A folder and the sorted paths of the files below it. Hidden files and those of operating systems are left out."""

    root: Path
    files: tuple[PurePosixPath, ...]

    @classmethod
    def scan(cls, root: Path) -> Tree:
        if not root.is_dir():
            raise ValueError(f"{root}: no such folder; give the folder that holds the images")
        return cls(root, tuple(sorted(_below(root, PurePosixPath()))))

    @cached_property
    def images(self) -> tuple[PurePosixPath, ...]:
        return tuple(file for file in self.files if file.suffix.lower() in IMAGE_SUFFIXES)

    def ending_in(self, *suffixes: str) -> list[PurePosixPath]:
        return [file for file in self.files if file.suffix.lower() in suffixes]

    def path(self, file: PurePosixPath | str) -> Path:
        """The path of a file or a folder of the tree."""
        return self.root / file


def _below(folder: Path, name: PurePosixPath) -> Iterator[PurePosixPath]:
    for entry in os.scandir(folder):
        if entry.name.startswith(".") or entry.name.casefold() in SYSTEM:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _below(Path(entry.path), name / entry.name)
        elif entry.is_file():
            yield name / entry.name


@dataclass(frozen=True)
class Pairing:
    """Where images and their masks lie, as settings of the layout `folder`."""

    root: str
    """The folder of images and masks, relative to the given folder."""
    images: str
    labels: str
    image_ending: str = ""
    label_ending: str = ""
    image_files: tuple[PurePosixPath, ...] = ()
    label_files: tuple[PurePosixPath, ...] = ()


WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
MOST_PARTNERS = 20
"""The largest number of files that may share the name before their last word. With more, that word distinguishes
images."""
IMAGE_WORDS = ("images", "image", "imgs", "img", "jpegimages", "photos", "pictures", "rgb", "input", "inputs", "data")
MASK_WORDS = (
    *("labels", "label", "masks", "mask", "annotations", "annotation", "ann", "anns", "annot", "gt", "ground_truth"),
    *("groundtruth", "segmentationclass", "segmentation", "segmentations", "targets", "target", "labelids", "seg"),
)


def looks_like_masks(name: str) -> bool:
    """Whether the name of a folder, or an ending of files, is one of masks."""
    words = name.casefold().replace("-", "_").strip("_.").split("_")
    return (
        name.casefold() in MASK_WORDS or any(word in MASK_WORDS for word in words) or name.casefold().endswith("annot")
    )


def pairings(images: Sequence[PurePosixPath], labels: Sequence[PurePosixPath]) -> list[Pairing]:
    """The ways in which files of labels may belong to images, best one first. The two lists may be the same."""
    pairs_by_key: dict[tuple[str, ...], list[tuple[PurePosixPath, PurePosixPath]]] = {}
    by_name: dict[str, list[PurePosixPath]] = {}
    for image in images:
        for base in _bases(image.stem):
            by_name.setdefault(base, []).append(image)
    for label in labels:
        stem = label.stem
        while PurePosixPath(stem).suffix.lower() in IMAGE_SUFFIXES:  # a.jpg.png
            stem = PurePosixPath(stem).stem
        for base in _bases(stem):
            partners = by_name.get(base, [])
            for image in partners if base == stem or len(partners) <= MOST_PARTNERS else ():
                if image != label and (key := _relation(image, label, base)) is not None:
                    pairs_by_key.setdefault(key, []).append((image, label))
    ranked = sorted(pairs_by_key.items(), key=lambda item: (-_rank(item[0], item[1]), item[0]))
    return [_pairing(key, pairs) for key, pairs in ranked]


def _bases(stem: str) -> list[str]:
    """The names that a stem may share with its partner's: all of it, or the name before its last word."""
    cuts = [
        position
        for position, sign in enumerate(stem)
        if sign in "_-." and position and WORD.fullmatch(stem[position + 1 :])
    ]
    return [stem, *(stem[:position] for position in cuts[-2:])]


def _relation(image: PurePosixPath, label: PurePosixPath, base: str) -> tuple[str, ...] | None:
    """The folders and endings in which the two differ; None where they differ in more than one folder."""
    image_folders, label_folders = image.parts[:-1], label.parts[:-1]
    image_rest, label_rest = image.stem[len(base) :], label.name[len(base) :]
    if len(image_folders) != len(label_folders):
        if (
            label_folders[: len(image_folders)] == image_folders and len(label_folders) == len(image_folders) + 1
        ):  # x.jpg beside masks/x.png
            return ("inside", "/".join(image_folders), label_folders[-1], image_rest, label_rest)
        return None
    different = [i for i, (a, b) in enumerate(zip(image_folders, label_folders, strict=True)) if a != b]
    if len(different) > 1 or (image_rest and not label_rest):
        return None
    if not different:
        end = image.name[len(base) :] if image_rest or image.suffix.lower() == label.suffix.lower() else image_rest
        if end == label_rest or (len(end) > len(label_rest) and not image_rest):
            return None
        return ("beside", image_rest, label_rest)
    level = different[0]
    return ("apart", str(level), image_folders[level], label_folders[level], image_rest, label_rest)


def _rank(key: tuple[str, ...], pairs: Sequence[object]) -> float:
    """The rank of a pairing: more pairs first, then plain names, and masks with names of masks."""
    kind, *words = key
    image_rest, label_rest = words[-2:]
    hint = 0.0
    if kind == "apart":
        hint += 0.3 * looks_like_masks(words[2]) - 0.3 * looks_like_masks(words[1])
        hint += 0.1 * (words[1].casefold() in IMAGE_WORDS)
    elif kind == "inside":
        hint += 0.3 * looks_like_masks(words[1])
    else:
        hint += 0.2 * looks_like_masks(PurePosixPath(label_rest).stem) + 0.1 * (not image_rest)
        hint -= 0.3 * looks_like_masks(image_rest)
    return len(pairs) * (1 + hint) - 0.01 * len(image_rest)


def _pairing(key: tuple[str, ...], pairs: Sequence[tuple[PurePosixPath, PurePosixPath]]) -> Pairing:
    kind, *words = key
    image_rest, label_rest = words[-2:]
    image_files = tuple(dict.fromkeys(image for image, _ in pairs))
    label_files = tuple(dict.fromkeys(label for _, label in pairs))
    plain = label_rest.lower() in (".png", ".tif", ".tiff", ".bmp", ".json", ".txt", ".jpg", ".jpeg")
    label_ending = "" if plain and kind != "beside" else label_rest
    if kind == "beside":
        root = _common([image.parent for image in image_files])
        return Pairing(root, ".", ".", image_rest, label_ending, image_files, label_files)
    if kind == "inside":
        return Pairing(words[0] or ".", ".", words[1], image_rest, label_ending, image_files, label_files)
    level = int(words[0])
    parents = {image.parts[:level] for image in image_files}
    before = _common([PurePosixPath(*parts) for parts in parents])
    depth = 0 if before == "." else len(PurePosixPath(before).parts)
    stars = ["*"] * (level - depth)
    images, labels = ("/".join([*stars, folder]) for folder in (words[1], words[2]))
    return Pairing(before, images, labels, image_rest, label_ending, image_files, label_files)


def _common(folders: Sequence[PurePosixPath]) -> str:
    return os.path.commonpath([str(folder) for folder in folders]) if folders else "."
