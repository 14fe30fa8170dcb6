"""NIfTI volumes, `.nii` and `.nii.gz`: images by slices, masks of ids, and predictions on the grid of a volume.

A slice holds the voxels of one number along the third axis as stored. Its columns are the first axis and its rows the
second. The affine is not applied.

Shapes: H×W pixels of a slice · C channels · X,Y,Z voxels of a volume.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.config.inputs import InputSettings
from fewmask.data.headers import MAX_PIXELS, damaged
from fewmask.data.kinds import Kind
from fewmask.data.volumes import MEDICAL_EXTRA, Found, Values, slice_of, slice_path
from fewmask.labels import Mask

ENDINGS = (".nii", ".nii.gz")
_UNPACKING = threading.Lock()


def stem_of(name: str, path: Path, ending: str = "") -> str | None:
    for suffix in sorted(ENDINGS, key=len, reverse=True):
        stem = name[: -len(suffix)]
        if name.lower().endswith(suffix) and stem.endswith(ending) and (stem := stem.removesuffix(ending)):
            return stem
    return None


def find(files: Iterable[tuple[str, Path]]) -> Found:
    found = Found()
    for stem, path in files:
        try:
            count = _shape(_open(path), path)[2]
        except ValueError as error:
            found.problems.append((path, error))
        else:
            found.add_volume(stem, [slice_path(path, number) for number in range(count)])
    return found


def read_kind(path: Path, settings: InputSettings) -> Kind:
    file, _ = slice_of(path)
    width, height, _, bands = _shape(_open(file), file)
    if bands != len(settings.channels):
        raise ValueError(
            f"{file}: {bands} numbers a voxel, and the domain's `channels` are {len(settings.channels)} "
            f"({', '.join(settings.channels)}); name as many as the volume has"
        )
    return Kind(container="NIfTI", channels="bands", depth="float", width=width, height=height, bands=bands)


def read_values(path: Path, settings: InputSettings) -> Values:
    kind = read_kind(path, settings)
    image = _open(slice_of(path)[0])
    pixels = _slice(path).astype(np.float32).reshape(kind.width, kind.height, kind.bands).transpose(1, 0, 2)
    low, high = float(image.header["cal_min"]), float(image.header["cal_max"])
    return Values(np.ascontiguousarray(pixels), kind, (low, high) if low < high else None)


class NiftiMasks:
    """Volumes of ids, on the grids of the volumes of images."""

    def __call__(self, stem: str, path: Path, size: Callable[[], tuple[int, int]]) -> Mask:
        values = _slice(path)
        ids = values.reshape(values.shape[:2]).T
        if (wrong := ~((ids >= 0) & (ids <= 255) & (ids == np.floor(ids)))).any():
            y, x = np.argwhere(wrong)[0]
            raise ValueError(
                f"{path}: {ids[y, x]} at column {x}, row {y} is no id: ids are whole numbers from 0 to 255; renumber "
                "the labels"
            )
        return np.ascontiguousarray(ids.astype(np.uint8))


def check_grid(mask: Path, image: Path) -> None:
    """Raises ValueError for a volume of ids whose voxels are not those of the image."""
    one, other = _open(mask), _open(image)
    shape, wanted = _shape(one, mask), _shape(other, image)
    if shape[3] != 1:
        raise ValueError(f"{mask}: {shape[3]} numbers a voxel; save one id for each voxel")
    if shape[:3] != wanted[:3]:
        sizes = ["×".join(map(str, s[:3])) for s in (shape, wanted)]
        raise ValueError(f"{mask}: {sizes[0]} voxels, its image {image} has {sizes[1]}; resample it to the image")
    if not np.allclose(one.affine, other.affine, rtol=1e-3, atol=1e-2):
        raise ValueError(
            f"{mask}: its affine is not that of its image {image}, so their voxels lie in different places; resample "
            "it to the image"
        )


def as_volume(slices: Iterable[Mask], like: Path) -> bytes:
    """Raw ids, a mask (H,W) for each slice of the volume `like`, as a file of its grid and its compression."""
    grid = _open(like)
    ids = np.stack([mask.T for mask in slices], axis=2)
    assert ids.shape == _shape(grid, like)[:3]
    header = grid.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0  # the window of the image's values
    data: bytes = type(grid)(ids, grid.affine, header).to_bytes()
    return gzip.compress(data, mtime=0) if like.suffix.lower() == ".gz" else data


def _nibabel(path: Path) -> Any:
    try:
        import nibabel
    except ImportError:
        raise ValueError(f"{path}: NIfTI is read by nibabel; {MEDICAL_EXTRA}") from None
    return nibabel


def _open(path: Path) -> Any:
    """The header of a volume, whose voxels are read later."""
    nibabel = _nibabel(path)
    try:
        image = nibabel.load(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: cannot be read (no such file); fix the path or its permissions") from None
    except PermissionError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); fix the path or its permissions") from None
    except Exception as error:  # nibabel and gzip raise half a dozen types
        raise damaged(path, error) from None
    if not isinstance(image, nibabel.Nifti1Image | nibabel.Nifti2Image):
        raise ValueError(f"{path}: {type(image).__name__}, not NIfTI; save it as .nii or .nii.gz")
    return image


def _shape(image: Any, path: Path) -> tuple[int, int, int, int]:
    """X, Y, Z of a volume and the numbers that a voxel has."""
    shape = tuple(int(n) for n in image.shape)
    if not 2 <= len(shape) <= 4:
        sizes = "×".join(map(str, shape))
        raise ValueError(f"{path}: {sizes} is no volume, which has 2 to 4 axes; save each volume as a file of its own")
    if image.get_data_dtype().kind not in "fiu":
        raise ValueError(f"{path}: voxels of {image.get_data_dtype()}, colours or complex; save one number a voxel")
    x, y, z, bands = (*shape, 1, 1)[:4]
    if min(x, y, z, bands) < 1 or x * y > MAX_PIXELS:
        raise ValueError(f"{path}: it claims slices of {x}×{y} pixels; export it again")
    return x, y, z, bands


def _slice(path: Path) -> np.ndarray:
    """The numbers (X,Y) or (X,Y,C) of a slice, by the slope and the intercept of the volume."""
    file, number = slice_of(path)
    image = _open(file)
    try:
        if file.suffix.lower() != ".gz":
            return np.asanyarray(image.dataobj[(slice(None), slice(None), number)[: len(image.shape)]])
        state = file.stat()
        with _UNPACKING:  # threads that read slices of one volume unpack it once
            voxels, slope, intercept = _unpacked(file, state.st_mtime_ns, state.st_size)
    except Exception as error:  # of damaged files nibabel, gzip and zlib raise half a dozen types
        raise damaged(path, error) from None
    part = voxels[(slice(None), slice(None), number)[: voxels.ndim]]
    return part if (slope, intercept) == (1, 0) else part * slope + intercept


@lru_cache(maxsize=1)
def _unpacked(file: Path, changed: int, size: int) -> tuple[np.ndarray, float, float]:
    """The stored voxels of a compressed volume. The last one is kept, since gzip has to unpack all before a slice."""
    proxy = _open(file).dataobj
    return proxy.get_unscaled(), float(proxy.slope), float(proxy.inter)
