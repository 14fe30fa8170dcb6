"""DICOM files as images of one channel: the rescaled values, such as Hounsfield units.

Files of one series with positions in space are the slices of a volume, in the order of their positions.

Shapes: H×W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fewmask.config.inputs import InputSettings
from fewmask.data.headers import MAX_PIXELS, damaged
from fewmask.data.kinds import Kind
from fewmask.data.volumes import MEDICAL_EXTRA, Found, Values

ENDINGS = (".dcm", ".dicom", ".ima")
MARK, MARK_AT = b"DICM", 128
GREY = ("MONOCHROME1", "MONOCHROME2")


class Place(NamedTuple):
    """Where a slice lies."""

    path: Path
    axes: np.ndarray
    """The directions of its rows and its columns (2,3)."""
    position: np.ndarray
    """The centre of its first pixel (3,), in millimetres."""


def stem_of(name: str, path: Path, ending: str = "") -> str | None:
    """A file counts by its ending or, since many names have none, by its mark."""
    suffix = next((suffix for suffix in ENDINGS if name.lower().endswith(suffix)), "")
    if Path(name).name.upper() == "DICOMDIR" or not (suffix or _is_marked(path)):
        return None
    stem = name[: len(name) - len(suffix)]
    return stem.removesuffix(ending) if stem.endswith(ending) and stem != ending else None


def find(files: Iterable[tuple[str, Path]]) -> Found:
    found = Found()
    folders: dict[Path, list[tuple[str, Path]]] = {}
    for stem, path in files:
        folders.setdefault(path.parent, []).append((stem, path))
    for folder, inside in folders.items():
        series: dict[str, list[tuple[str, Place]]] = {}
        for stem, path in inside:
            if (placed := _placed(path)) is not None:
                series.setdefault(placed[0], []).append((stem, placed[1]))
        volumes = [slices for slices in series.values() if len(slices) > 1]
        of_volumes = {stem for slices in volumes for stem, _ in slices}
        found.images += [(stem, path) for stem, path in inside if stem not in of_volumes]
        if len(volumes) > 1:
            value = f"{folder}: slices of {len(volumes)} series"
            found.problems.append((folder, ValueError(f"{value}; move each series into a folder of its own")))
        for slices in volumes[:1] if len(volumes) == 1 else ():
            try:
                ordered = _ordered(folder, [place for _, place in slices])
            except ValueError as error:
                found.problems.append((folder, error))
            else:
                above = slices[0][0].rpartition("/")[0]
                found.add_volume(above or folder.resolve().name, ordered)
    return found


def read_kind(path: Path, settings: InputSettings) -> Kind:
    return _kind(_open(path, pixels=False), path)


def read_values(path: Path, settings: InputSettings) -> Values:
    data = _open(path)
    kind = _kind(data, path)
    syntax = data.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise damaged(path, "it states no transfer syntax")
    try:
        stored = data.pixel_array
    except Exception as error:  # pydicom and its decoders raise a dozen types
        if syntax.is_compressed and not _is_decodable(syntax):
            raise ValueError(
                f"{path}: its pixels are compressed as {syntax.name}, which no decoder here reads; decompress it "
                "(`gdcmconv --raw` does), or install a plug-in of pydicom for it"
            ) from None
        raise damaged(path, error) from None
    if stored.shape != (kind.height, kind.width):
        raise damaged(path, f"its header claims {kind.width}×{kind.height} pixels")
    slope, intercept = _number(data, "RescaleSlope", 1.0, path), _number(data, "RescaleIntercept", 0.0, path)
    window = _window(data, path) if settings.window == "file" else None
    values = stored.astype(np.float64)
    if data.PhotometricInterpretation == "MONOCHROME1":  # 0 is white
        ends = _ends(data, stored)
        values = ends - values
        if window:
            window = slope * ends + 2 * intercept - window[1], slope * ends + 2 * intercept - window[0]
    return Values((values * slope + intercept).astype(np.float32)[..., None], kind, window)


def _is_marked(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(MARK_AT + len(MARK))[MARK_AT:] == MARK
    except OSError:
        return False


def _open(path: Path, pixels: bool = True) -> Any:
    try:
        import pydicom
    except ImportError:
        raise ValueError(f"{path}: DICOM is read by pydicom; {MEDICAL_EXTRA}") from None
    try:
        return pydicom.dcmread(path, stop_before_pixels=not pixels)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"{path}: cannot be read ({reason}); fix the path or its permissions") from None
    except pydicom.errors.InvalidDicomError:
        raise ValueError(f"{path}: not a DICOM file (no DICM mark); export it again, or move it away") from None
    except Exception as error:  # of damaged files pydicom raises a dozen types
        raise damaged(path, error) from None


def _kind(data: Any, path: Path) -> Kind:
    """Raises ValueError for an image of another kind than one grey frame."""
    colours = data.get("PhotometricInterpretation")
    if "Rows" not in data or "Columns" not in data:
        raise ValueError(f"{path}: a DICOM without an image ({data.get('Modality', 'no modality')}); move it away")
    if data.get("SamplesPerPixel", 1) != 1 or colours not in GREY:
        raise ValueError(f"{path}: a DICOM of colours ({colours}); save it as PNG, in a domain of pictures")
    if (frames := int(data.get("NumberOfFrames") or 1)) != 1:
        raise ValueError(f"{path}: a DICOM of {frames} frames; save each as a file, or all as NIfTI (`dcm2niix` does)")
    if "ModalityLUTSequence" in data:
        raise ValueError(
            f"{path}: its values are given by a table (Modality LUT), which is not read; save them as TIFF"
        )
    height, width = int(data.Rows), int(data.Columns)
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"{path}: it claims {width}×{height} pixels, and the most is {MAX_PIXELS}; export it again")
    return Kind(container="DICOM", channels="grey", depth="float", width=width, height=height)


def _is_decodable(syntax: Any) -> bool:
    from pydicom.pixels.decoders.base import get_decoder

    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _number(data: Any, name: str, default: float, path: Path) -> float:
    value = data.get(name)
    try:
        return default if value in (None, "") else float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{path}: {name} is {value!r}; write a number there") from None


def _window(data: Any, path: Path) -> tuple[float, float] | None:
    """The values that the file asks to show as black and as white: those of its first window."""
    centres, widths = (data.get(name) for name in ("WindowCenter", "WindowWidth"))
    if centres in (None, "") or widths in (None, ""):
        return None
    try:
        centre, width = (float(v if isinstance(v, int | float | str) else v[0]) for v in (centres, widths))
    except (TypeError, ValueError, IndexError):
        raise ValueError(f"{path}: its window is {centres!r}, {widths!r}; write `window` as two numbers") from None
    function = data.get("VOILUTFunction", "LINEAR")
    if function == "LINEAR_EXACT" and width > 0:
        return centre - width / 2, centre + width / 2
    if function != "LINEAR" or width <= 1:
        raise ValueError(f"{path}: its window is {function} of width {width}; write `window` as two numbers")
    return centre - width / 2, centre + width / 2 - 1  # PS3.3, C.11.2.1.2.1


def _ends(data: Any, stored: np.ndarray) -> float:
    """The sum of the smallest and the largest value that the stored bits can hold."""
    if stored.dtype.kind == "f":
        return float(stored.min() + stored.max())
    return -1.0 if data.get("PixelRepresentation") else float(2 ** int(data.BitsStored) - 1)


def _placed(path: Path) -> tuple[str, Place] | None:
    """The series of a file, and its place in space; None for a file without, and for one that cannot be read."""
    try:
        data = _open(path, pixels=False)
    except ValueError as error:
        if MEDICAL_EXTRA in str(error):
            raise
        return None
    numbers = [data.get(name) for name in ("ImageOrientationPatient", "ImagePositionPatient")]
    if data.get("SeriesInstanceUID") is None or [len(n) if n else 0 for n in numbers] != [6, 3]:
        return None
    axes, position = (np.array([float(value) for value in n]) for n in numbers)
    return str(data.SeriesInstanceUID), Place(path, axes.reshape(2, 3), position)


def _ordered(folder: Path, places: list[Place]) -> list[Path]:
    """The slices of a series by their positions along the normal of the slices."""
    axes = places[0].axes
    if turned := [place.path for place in places if not np.allclose(place.axes, axes, atol=1e-3)]:
        raise ValueError(
            f"{folder}: slices of two orientations ({places[0].path.name}, {turned[0].name}); move those of one into a "
            "folder of their own"
        )
    normal = np.cross(*axes)
    at = {place.path: float(place.position @ normal) for place in places}
    ordered = sorted(at, key=lambda path: at[path])
    for first, second in pairwise(ordered):
        if at[second] - at[first] < 1e-3:
            raise ValueError(
                f"{folder}: two slices at one position ({first.name}, {second.name}); move each volume of the series "
                "into a folder of its own"
            )
    return ordered
