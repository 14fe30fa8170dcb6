"""Lists the files of a dataset, and all problems of their names and places.

A `Listing` collects both. It neither raises at the first fault nor opens an image. `finish` turns it into an
`Index`.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from fewmask.config.inputs import PLAIN, InputSettings
from fewmask.data.domain import SPLITS
from fewmask.data.masks import MaskReader, PixelMasks
from fewmask.data.volumes import Found
from fewmask.labels import LabelSpace
from fewmask.paths import alike, fault_of_stem
from fewmask.randomness import generator

WHOLE = frozenset({"classes.yaml", *(f"{split}.txt" for split in SPLITS)})
"""Files that concern all images."""
_IDS = PixelMasks()
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Problem:
    """One fault: its file (and line), the value found there, and the fix."""

    where: str
    value: str
    fix: str
    severity: Literal["error", "warning"] = "error"

    @classmethod
    def of(cls, error: ValueError, path: Path) -> Problem:
        """The problem in a reader's error, whose message is `file: value; fix`."""
        value, semicolon, fix = str(error).removeprefix(f"{path}: ").rpartition("; ")
        return cls(str(path), value, fix) if semicolon else cls(str(path), fix, "see docs/formats.md")

    def __str__(self) -> str:
        return f"{self.where}: {self.value}; {self.fix}"

    @property
    def kind(self) -> str:
        """The value without the names and numbers that differ from file to file."""
        return re.sub(r"'[^']*'|\S*/\S*|\d+(?:[.,×]\d+)*", "…", self.value)

    @property
    def reach(self) -> int:
        """The extent of the fault: 0 for the dataset, 1 for a line of a list, 2 for a file."""
        path = Path(self.where)
        if not path.suffix or path.name in WHOLE:
            return 0
        return 1 if re.search(r":\d+$", self.where) else 2


@dataclass(frozen=True)
class Index:
    """A dataset's files by stem. `space` is None where its classes could not be read (a problem says why).

    `splits` always has train, val and test; a split that the dataset does not have is empty.
    """

    root: Path
    space: LabelSpace | None
    images: Mapping[str, Path]
    masks: Mapping[str, Path]
    splits: Mapping[str, tuple[str, ...]]
    problems: tuple[Problem, ...]
    reader: MaskReader | None = _IDS
    """None if the classes could not be read, which the masks need."""
    upright: bool = False
    """Whether images are turned as their orientation tags ask."""
    input: InputSettings = PLAIN
    """The settings by which its images are read, once they are determined."""

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(p for p in self.problems if p.severity == "error")

    @property
    def labelled(self) -> tuple[str, ...]:
        """The stems of train that have a mask, in the order of the split."""
        return tuple(s for s in self.splits["train"] if s in self.masks)


@dataclass
class Listing:
    """Collects the files of one dataset under `root`; `hint` says in an error what `root` should be."""

    root: Path
    hint: str
    images: dict[str, Path] = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    volume_of: dict[str, str] = field(default_factory=dict)
    """The volume of each image that is a slice. Slices of one volume look alike, so they stay in one split."""
    # By split: the stem and where it stands, so that a fault can name the file and line.
    _splits: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: {s: [] for s in SPLITS})

    def error(self, where: str | Path, value: str, fix: str) -> None:
        self.problems.append(Problem(str(where), value, fix))

    def warn(self, where: str | Path, value: str, fix: str) -> None:
        self.problems.append(Problem(str(where), value, fix, "warning"))

    def files(self, folder: str, required: bool = True) -> list[Path]:
        """The files directly in a folder, by name, without hidden ones; links out of the root are problems."""
        path = self.root / folder
        if not path.is_dir():
            if required:
                self.error(path, "no such folder", f"make it, or set `root` to {self.hint}")
            return []
        if not self._inside(path):
            return []
        paths: list[Path] = []
        pictures: dict[str, Path] = {}
        for entry in sorted(os.scandir(path), key=lambda e: e.name):
            file = Path(entry.path)
            if entry.name.startswith(".") or (entry.is_symlink() and not self._inside(file)) or entry.is_dir():
                continue
            if not entry.is_file():
                self.error(file, "a broken link", "restore the file that it points to, or remove it")
                continue
            if wrong := _fault(file.stem):
                self.error(str(file).encode(errors="backslashreplace").decode(), *wrong)
                continue
            if file.suffix.lower() in IMAGE_SUFFIXES and (first := pictures.setdefault(file.stem, file)) is not file:
                self.error(file, f"same stem as {first}", "rename one, so that each has its own stem, or remove it")
                continue
            paths.append(file)
        return paths

    def folders(self, folder: str, required: bool = True) -> list[str]:
        """The folders directly in a folder, by name, as paths relative to the root."""
        path = self.root / folder
        if not path.is_dir():
            if required:
                self.error(path, "no such folder", f"make it, or set `root` to {self.hint}")
            return []
        entries = sorted(os.scandir(path), key=lambda e: e.name) if self._inside(path) else []
        return [f"{folder}/{e.name}" for e in entries if e.is_dir() and not e.name.startswith(".")]

    def walk(self, pattern: str, required: bool = True) -> list[tuple[str, Path]]:
        """The files of a folder and of those inside it, or one file, with their paths from there.

        A `*` in the folder's path stands for any folder, which the paths then begin with. Hidden files are left out.
        """
        head, star, tail = pattern.partition("*")
        if star:
            files: list[tuple[str, Path]] = []
            for folder in self.folders(head.rstrip("/") or ".", required):
                inner, name = f"{folder}{tail}", folder.rpartition("/")[2]
                files += [(f"{name}/{below}", path) for below, path in self.walk(inner, required=False)]
            if not files and required:
                self.error(self.root / pattern, "no files in such folders", f"set `root` to {self.hint}")
            return files
        path = self.root / pattern
        if path.is_file() and self._inside(path):
            return [(path.name, path)]
        if not path.is_dir():
            if required:
                self.error(path, "no such folder", f"make it, or set `root` to {self.hint}")
            return []
        return list(self._below(path, "", ())) if self._inside(path) else []

    def _below(self, folder: Path, name: str, above: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
        if (real := folder.resolve()) in above:
            self.error(folder, f"a link back to {real}, which it lies in", "remove the link")
            return
        for entry in sorted(os.scandir(folder), key=lambda e: e.name):
            path = Path(entry.path)
            called = f"{name}/{entry.name}" if name else entry.name
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            if entry.is_symlink() and not self._inside(path):
                continue
            if entry.is_dir():
                yield from self._below(path, called, (*above, real))
            elif not entry.is_file():
                self.error(path, "a broken link", "restore the file that it points to, or remove it")
            elif wrong := _fault(path.stem):
                self.error(str(path).encode(errors="backslashreplace").decode(), *wrong)
            else:
                yield called, path

    def _inside(self, path: Path) -> bool:
        """Whether a path stays in the root once links and `..` are followed; a problem where it does not."""
        real = path.resolve()
        if real.is_relative_to(self.root.resolve()):
            return True
        self.error(path, f"leads out of the root, to {real}", "copy it into the root, or set `root` to hold both")
        return False

    def lines(self, file: str | Path) -> list[tuple[str, str]]:
        """The lines of a text file that are not blank, each with where it stands; a name is of a file in the root."""
        path = self.root / file
        try:
            text = path.read_text(encoding="utf-8-sig") if isinstance(file, Path) or self._inside(path) else ""
        except FileNotFoundError:
            self.error(path, "not found", f"write it, or set `root` to {self.hint}")
            return []
        except (OSError, UnicodeDecodeError) as error:
            self.error(path, f"not readable as text ({error})", "save it as UTF-8 text with one entry a line")
            return []
        return [(s, f"{path}:{n}") for n, line in enumerate(text.splitlines(), 1) if (s := line.strip())]

    def add_image(self, stem: str, path: Path) -> None:
        if stem in self.images:
            self.error(path, f"same stem as {self.images[stem]}", "rename one, so that each image has its own stem")
        else:
            self.images[stem] = path

    def add_mask(self, stem: str, path: Path) -> None:
        if stem in self.masks:
            self.error(path, f"same stem as {self.masks[stem]}", "remove one, or rename it: an image has one mask")
        else:
            self.masks[stem] = path

    def add_found(self, found: Found) -> None:
        """Add the images of volumes and of other files that are not pictures."""
        for stem, path in found.images:
            self.add_image(stem, path)
        self.volume_of |= found.volume_of
        self.problems += [Problem.of(error, path) for path, error in found.problems]

    def put(self, split: str, stem: str, where: str | Path) -> None:
        """Add an image to a split; `where` is the line or the file that puts it there."""
        if Path(stem).is_absolute() or ".." in Path(stem).parts:
            self.error(str(where), f"{stem!r} leads out of the root", "write the stem of an image of this dataset")
        else:
            self._splits[split].append((stem, str(where)))

    def move(self, source: str, target: str) -> None:
        """Move all images of a split to another one, which is empty so far."""
        assert not self._splits[target]
        self._splits[target], self._splits[source] = self._splits[source], []

    def stems(self, split: str) -> list[str]:
        return [stem for stem, _ in self._splits[split]]

    def hold_out(self, fraction: float, group: Callable[[str], str] = str) -> None:
        """Move part of train's images with masks to val, as whole groups. The draw does not depend on a run's seed.

        Frames of one drive look alike, so a layout that knows drives or cities makes them the groups.
        """
        candidates = [stem for stem in self.stems("train") if stem in self.masks]
        groups = sorted({group(stem) for stem in candidates})
        if len(groups) < 2:
            self.error(
                self.root,
                f"val_from_train {fraction} has {len(groups)} of the images or sequences with masks to hold out from",
                "add masks, or set val_from_train to 0",
            )
            return
        wanted = min(max(1, round(fraction * len(candidates))), len(candidates) - 1)
        held: set[str] = set()
        for position in generator(0, "split").permutation(len(groups))[:-1]:
            if len(held) < wanted:
                held |= {stem for stem in candidates if group(stem) == groups[position]}
        self._splits["val"] = [item for item in self._splits["train"] if item[0] in held]
        self._splits["train"] = [item for item in self._splits["train"] if item[0] not in held]

    def finish(
        self,
        space: LabelSpace | None,
        unlisted: bool = True,
        reader: MaskReader | None = _IDS,
        upright: bool = False,
    ) -> Index:
        """Check the requirements of every layout. With `unlisted`, an image in no split is a warning."""
        if not self.root.is_dir():
            self.problems = [Problem(str(self.root), "no such folder", f"set `root` to {self.hint}")]
            return Index(self.root, space, {}, {}, dict.fromkeys(SPLITS, ()), tuple(self.problems))
        splits = {split: self._check_split(split) for split in SPLITS}
        used = {stem for stems in splits.values() for stem in stems}
        for stem in self.images.keys() - used if unlisted else ():
            self.warn(self.images[stem], "in no split", "list it in one if it is to be used")
        for stem in sorted(self.masks.keys() - self.images.keys()):
            value = f"a mask without an image {stem!r}{self._near(stem)}"
            self.error(self.masks[stem], value, "rename it like its image, or remove it")
        self._tell_alike()
        if not splits["train"]:
            self.error(self.root, "the split train has no images", f"list some, or set `root` to {self.hint}")
        elif not any(stem in self.masks for stem in splits["train"]):
            # A campaign may begin without labels, and methods that need labels raise an error themselves.
            self.warn(self.root, "no image of train has a mask", "add masks for a few, or have a campaign ask for them")
        if not splits["val"]:
            self.warn(self.root, "the split val has no images", "without it no choice can be checked before the test")
        order = {"error": 0, "warning": 1}
        return Index(
            self.root,
            space,
            self.images,
            self.masks,
            splits,
            tuple(sorted(self.problems, key=lambda p: (order[p.severity], p.where))),
            reader,
            upright,
        )

    def _check_split(self, split: str) -> tuple[str, ...]:
        """A split's stems that have an image; the others, and those listed twice, become problems."""
        elsewhere = {stem: other for other in SPLITS[: SPLITS.index(split)] for stem in self.stems(other)}
        stems: dict[str, None] = {}
        for stem, where in self._splits[split]:
            if stem in stems:
                self.error(where, f"{stem!r} is listed twice", "keep one line")
            elif stem not in self.images:
                self.error(where, f"{stem!r} has no image{self._near(stem)}", self._fix_for_stem(stem))
            else:
                if stem in elsewhere:
                    fix = "keep it in one split: scores on training images are too high"
                    self.error(where, f"{stem!r} is also in {elsewhere[stem]}", fix)
                if split != "train" and stem not in self.masks:
                    self.error(self.images[stem], f"in {split} but without a mask", "add its mask, or move it to train")
                stems[stem] = None
        return tuple(stems)

    @cached_property
    def _lookalikes(self) -> dict[str, str]:
        return {_plain(stem): stem for stem in self.images}

    def _near(self, stem: str) -> str:
        """Which image differs from a stem in its Unicode form or its case alone; empty where none does."""
        other = self._lookalikes.get(_plain(stem))
        return "" if other is None else f": {self.images[other].name!r} {_difference(other, stem)}"

    def _tell_alike(self) -> None:
        """Report images whose stems are the same name on other systems."""
        for first, other in alike(self.images):
            value, fix = f"beside {self.images[first]}, whose name {_difference(first, other)}", "rename one"
            if _nfc(first) == _nfc(other):
                self.error(self.images[other], value, f"{fix}: nothing distinguishes them")
            else:
                self.warn(self.images[other], value, f"{fix}: on macOS and Windows one replaces the other")

    def _fix_for_stem(self, stem: str) -> str:
        if self._near(stem):
            return "rename the file or write the line again, so that both have the same bytes"
        if Path(stem).suffix.lower() in IMAGE_SUFFIXES and Path(stem).stem in self.images:
            return f"write it without its ending: {Path(stem).stem}"
        return "add the image, or take the line out"


def image_names(root: Path, images: Mapping[str, Path], masks: Mapping[str, Path]) -> dict[str, set[str]]:
    """The stems by each name that a list may use for an image: its stem, its path or its mask's path, with or without
    the ending and with or without the folders above it."""
    names: dict[str, set[str]] = {}
    for stem, path in images.items():
        for file in filter(None, (path, masks.get(stem))):
            rel = file.relative_to(root) if file.is_relative_to(root) else file
            for name in (rel.as_posix(), rel.with_suffix("").as_posix(), f"{stem}{file.suffix}", stem):
                parts = name.split("/")
                for at in range(len(parts)):
                    names.setdefault("/".join(parts[at:]), set()).add(stem)
    return names


def resolve(names: Mapping[str, set[str]], *written: str) -> set[str]:
    """The stems of the first of the `written` names that occurs in `names`. A path out of the root has none."""
    for name in written:
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts:
            continue
        for at in range(len(parts)):
            if stems := names.get("/".join(parts[at:])):
                return stems
    return set()


def _fault(stem: str) -> tuple[str, str] | None:
    """The reason why a file's name cannot be used, and the fix."""
    if wrong := fault_of_stem(stem):
        value, _, fix = wrong.rpartition("; ")
        return f"its name cannot be used: {value}", fix
    return ("a blank begins or ends its name", "rename it: lists ignore such blanks") if stem != stem.strip() else None


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _plain(name: str) -> str:
    """The name without its differences of case and Unicode form."""
    return _nfc(unicodedata.normalize("NFD", name).casefold())


def _difference(there: str, wanted: str) -> str:
    if _nfc(there) != _nfc(wanted):
        return "is equal but for its case"
    form = "decomposed, as macOS writes it" if there != _nfc(there) else "composed"
    return f"looks equal, but is in another Unicode form ({form})"
