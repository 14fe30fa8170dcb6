"""The images for a prediction, by their names and headers. No image is decoded here."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from fewmask.config.inputs import PLAIN, InputSettings
from fewmask.data.headers import MAX_PIXELS
from fewmask.data.inputs import input_kind, reader_of
from fewmask.data.layouts.listing import IMAGE_SUFFIXES
from fewmask.paths import fault_of_stem


@dataclass(frozen=True)
class Item:
    """An image to predict. `name` is its path below the images' folder, without the ending."""

    path: Path
    name: Path
    size: tuple[int, int] = (0, 0)
    """Width and height, by the file's header."""


@dataclass(frozen=True)
class Images:
    items: Sequence[Item]
    left_out: Sequence[str]
    """Paths in the folder that are left out: files whose names are not those of images, and everything whose name
    begins with a dot. The path of a folder ends in `/`; its contents were not read."""


def find_images(images: Path | Sequence[Path], settings: InputSettings = PLAIN) -> Images:
    """The images of a folder and of the folders inside it, of one file, or of a list of files; in order of name.

    In a folder the images are the files with an image's ending; everything else is left out. Raises one ValueError
    that lists every image that cannot be read, every listed file that is no image, and all names that are not unique.
    """
    problems: list[str] = []
    left_out: list[str] = []
    if isinstance(images, Path) and images.is_dir():
        items = _items(images, settings, problems, left_out)
        left_out = [Path(p).relative_to(images).as_posix() + "/" * p.endswith("/") for p in left_out]
        if not items and not problems:
            hint = f", but {first_names(left_out)}" if left_out else ""
            kinds = ", ".join(IMAGE_SUFFIXES) if settings.format == "pictures" else settings.format
            raise ValueError(f"{images}: no images in it{hint}; give a folder with {kinds} files")
    else:
        paths = [images] if isinstance(images, Path) else list(images)
        named = [(_stem(p.name, p, settings) or p.stem, p) for p in paths]
        items = _expanded(named, settings, problems)
        if not items:
            raise ValueError("no images are given; give a folder or some files")
    by_name: dict[Path, list[Path]] = {}
    for item in items:
        by_name.setdefault(item.name, []).append(item.path)
    for name, paths in by_name.items():
        if len(paths) > 1:
            problems.append(f"{', '.join(map(str, paths))}: all would be written as {name}.png; rename all but one")
    images_found = []
    with warnings.catch_warnings():
        # Pillow warns of large images, but `_size` checks them against fewmask's limit.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for item in items:
            if problem := fault_of_stem(item.name.as_posix()):
                problems.append(f"{item.path}: its name becomes that of a mask: {problem}")
            try:
                images_found.append(Item(item.path, item.name, _size(item.path, settings)))
            except ValueError as error:
                problems.append(str(error))
    if problems:
        raise ValueError("images that cannot be predicted:\n" + "\n".join(f"  {p}" for p in problems))
    return Images(images_found, left_out)


def first_names(names: Sequence[str], most: int = 5) -> str:
    """The first names of a list, and the number of the others."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _stem(name: str, path: Path, settings: InputSettings) -> str | None:
    """A file's name without its ending; None for a file that is no image by its name."""
    if settings.format != "pictures":
        return reader_of(settings.format).stem_of(name, path)
    return str(Path(name).with_suffix("")) if path.suffix.lower() in IMAGE_SUFFIXES else None


def _items(folder: Path, settings: InputSettings, problems: list[str], left_out: list[str]) -> list[Item]:
    """The images of a folder and of those inside it."""
    named = []
    for path in _walk(folder, (), problems, left_out):
        stem = _stem(path.relative_to(folder).as_posix(), path, settings)
        if stem is None:
            left_out.append(str(path))
        else:
            named.append((stem, path))
    return _expanded(named, settings, problems)


def _expanded(named: Sequence[tuple[str, Path]], settings: InputSettings, problems: list[str]) -> list[Item]:
    """The images of files: of a volume each slice."""
    if settings.format == "pictures":
        return [Item(path, Path(stem)) for stem, path in named]
    found = reader_of(settings.format).find(named)
    problems += [str(error) for _, error in found.problems]
    return [Item(path, Path(stem)) for stem, path in found.images]


def _walk(folder: Path, above: tuple[Path, ...], problems: list[str], left_out: list[str]) -> Iterator[Path]:
    real = folder.resolve()
    if real in above:
        problems.append(f"{folder}: a link back to {real}, which contains it; remove the link")
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError as error:
        problems.append(f"{folder}: cannot be read ({error.strerror}); fix its permissions")
        return
    for entry in entries:
        path, is_folder = Path(entry.path), entry.is_dir()
        if entry.name.startswith("."):
            left_out.append(f"{path}/" if is_folder else str(path))
        elif is_folder:
            yield from _walk(path, (*above, real), problems, left_out)
        else:
            yield path


def _size(path: Path, settings: InputSettings) -> tuple[int, int]:
    """Width and height of an image by its header. Raises ValueError that names the file."""
    if path.is_dir():
        raise ValueError(f"{path}: a folder; give it alone, or list its files")
    if not settings.plain:
        kind = input_kind(path, settings)
        return kind.width, kind.height
    try:
        with Image.open(path, formats=("JPEG", "PNG", "BMP", "TIFF", "WEBP")) as image:
            width, height = image.size
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not an image; give JPEG, PNG, BMP, TIFF or WebP, or move it away") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{path}: it claims more than {MAX_PIXELS} pixels; cut it into tiles") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error}); fix the path or the file") from None
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({error}); copy or export it again") from None
    if width * height > MAX_PIXELS:
        raise ValueError(f"{path}: it claims {width}×{height} pixels, more than {MAX_PIXELS}; cut it into tiles")
    return width, height
