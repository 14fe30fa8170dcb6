"""The files of a stranger's folder, by their places and endings; nothing is opened here."""

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
    """A folder and the paths of the files below it, sorted; hidden ones and those of systems are left out."""

    root: Path
    files: tuple[PurePosixPath, ...]

    @classmethod
    def of(cls, root: Path) -> Tree:
        if not root.is_dir():
            raise ValueError(f"{root}: no such folder; give the folder that holds the images")
        return cls(root, tuple(sorted(_below(root, PurePosixPath()))))

    @cached_property
    def images(self) -> tuple[PurePosixPath, ...]:
        return tuple(file for file in self.files if file.suffix.lower() in IMAGE_SUFFIXES)

    def ending_in(self, *suffixes: str) -> list[PurePosixPath]:
        return [file for file in self.files if file.suffix.lower() in suffixes]

    def path(self, file: PurePosixPath | str) -> Path:
        """Where a file or a folder of the tree is."""
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
    """Where images lie and where their masks do, in the words of the layout `folder`."""

    root: str
    """The folder of both below the one that was given."""
    images: str
    labels: str
    image_ending: str = ""
    label_ending: str = ""
    image_files: tuple[PurePosixPath, ...] = ()
    label_files: tuple[PurePosixPath, ...] = ()


WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
MOST_PARTNERS = 20
"""Files that share what stands before their last word: with more of them that word tells images apart."""
IMAGE_WORDS = ("images", "image", "imgs", "img", "jpegimages", "photos", "pictures", "rgb", "input", "inputs", "data")
MASK_WORDS = (
    *("labels", "label", "masks", "mask", "annotations", "annotation", "ann", "anns", "annot", "gt", "ground_truth"),
    *("groundtruth", "segmentationclass", "segmentation", "segmentations", "targets", "target", "labelids", "seg"),
)


def looks_like_masks(name: str) -> bool:
    """Whether a folder's name or an ending of files says that masks are in it."""
    words = name.casefold().replace("-", "_").strip("_.").split("_")
    return (
        name.casefold() in MASK_WORDS or any(word in MASK_WORDS for word in words) or name.casefold().endswith("annot")
    )


def pairings(images: Sequence[PurePosixPath], labels: Sequence[PurePosixPath]) -> list[Pairing]:
    """How files of labels may belong to images, the one with most pairs first. The two lists may be the same."""
    found: dict[tuple[str, ...], list[tuple[PurePosixPath, PurePosixPath]]] = {}
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
                    found.setdefault(key, []).append((image, label))
    ranked = sorted(found.items(), key=lambda item: (-_rank(item[0], item[1]), item[0]))
    return [_pairing(key, pairs) for key, pairs in ranked]


def _bases(stem: str) -> list[str]:
    """What a stem may share with its partner's: all of it, or what stands before its last word."""
    cuts = [at for at, sign in enumerate(stem) if sign in "_-." and at and WORD.fullmatch(stem[at + 1 :])]
    return [stem, *(stem[:at] for at in cuts[-2:])]


def _relation(image: PurePosixPath, label: PurePosixPath, base: str) -> tuple[str, ...] | None:
    """Folders and endings that the two differ in; None where they differ in more than one folder."""
    of_image, of_label = image.parts[:-1], label.parts[:-1]
    image_rest, label_rest = image.stem[len(base) :], label.name[len(base) :]
    if len(of_image) != len(of_label):
        if of_label[: len(of_image)] == of_image and len(of_label) == len(of_image) + 1:  # x.jpg beside masks/x.png
            return ("inside", "/".join(of_image), of_label[-1], image_rest, label_rest)
        return None
    different = [i for i, (a, b) in enumerate(zip(of_image, of_label, strict=True)) if a != b]
    if len(different) > 1 or (image_rest and not label_rest):
        return None
    if not different:
        end = image.name[len(base) :] if image_rest or image.suffix.lower() == label.suffix.lower() else image_rest
        if end == label_rest or (len(end) > len(label_rest) and not image_rest):
            return None
        return ("beside", image_rest, label_rest)
    at = different[0]
    return ("apart", str(at), of_image[at], of_label[at], image_rest, label_rest)


def _rank(key: tuple[str, ...], pairs: Sequence[object]) -> float:
    """More pairs first; of as many those with the plainest names, and with masks that are called so."""
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
    at = int(words[0])
    above = {image.parts[:at] for image in image_files}
    before = _common([PurePosixPath(*parts) for parts in above])
    depth = 0 if before == "." else len(PurePosixPath(before).parts)
    stars = ["*"] * (at - depth)
    images, labels = ("/".join([*stars, folder]) for folder in (words[1], words[2]))
    return Pairing(before, images, labels, image_rest, label_ending, image_files, label_files)


def _common(folders: Sequence[PurePosixPath]) -> str:
    return os.path.commonpath([str(folder) for folder in folders]) if folders else "."
