"""Images that are not pictures: which files of a format there are, and the images that each of them holds.

A slice of a file of many has a path of its own below the file's: `scans/brain.nii.gz/012.slice`. Wherever images are
paths, slices are therefore images too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from fewmask.config.inputs import InputSettings
from fewmask.data.kinds import Kind
from fewmask.paths import below

SLICE = ".slice"
MEDICAL_EXTRA = 'pip install "fewmask[medical]"'


class Values(NamedTuple):
    """The numbers (H,W,C) of an image, with those that its file asks to show as black and as white."""

    pixels: np.ndarray
    kind: Kind
    window: tuple[float, float] | None


@dataclass
class Found:
    """The images of some files."""

    images: list[tuple[str, Path]] = field(default_factory=list)
    """Their stems and paths, slices in their order."""
    volume_of: dict[str, str] = field(default_factory=dict)
    """The volume of each stem that is a slice."""
    problems: list[tuple[Path, ValueError]] = field(default_factory=list)
    """Files and folders that cannot be divided into slices."""

    def add_volume(self, volume: str, paths: Sequence[Path]) -> None:
        for stem, path in zip(slice_names(volume, len(paths)), paths, strict=True):
            self.images.append((stem, path))
            self.volume_of[stem] = volume


class Reader(Protocol):
    """A module that reads one format. Its functions raise ValueError that names the file, also if an extra lacks."""

    def stem_of(self, name: str, path: Path, ending: str = "") -> str | None:
        """The stem of a file by its name below the images' folder, without `ending`; None for a file of another
        kind."""
        ...

    def find(self, files: Iterable[tuple[str, Path]]) -> Found:
        """The images of files of this format, given with their stems. Only headers are read."""
        ...

    def read_kind(self, path: Path, settings: InputSettings) -> Kind: ...

    def read_values(self, path: Path, settings: InputSettings) -> Values: ...


def slice_names(volume: str, count: int) -> list[str]:
    """`brain_000`, `brain_001`, …: counted from 0 with three digits, or as many as the last one has."""
    digits = max(3, len(str(count - 1)))
    return [f"{volume}_{number:0{digits}d}" for number in range(count)]


def slice_path(file: Path, number: int) -> Path:
    return below(file, f"{number:03d}", ending=SLICE)


def slice_of(path: Path) -> tuple[Path, int]:
    """The file of a slice, and the slice's number in it."""
    assert path.suffix == SLICE
    return path.parent, int(path.stem)


def file_of(path: Path) -> Path:
    """The file that holds an image."""
    return path.parent if path.suffix == SLICE else path
