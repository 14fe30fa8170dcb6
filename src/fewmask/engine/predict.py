"""Masks and overlays for any images.

Shapes: B images of one size · H×W pixels · h×w feature cells · C_k classes of domain k.
"""

from __future__ import annotations

import csv
import io
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from fewmask.config import Precision
from fewmask.data.headers import MAX_PIXELS
from fewmask.data.layouts.listing import IMAGE_SUFFIXES
from fewmask.data.pictures import overlay, write_image, write_mask
from fewmask.data.reading import read_image
from fewmask.engine.device import autocast
from fewmask.engine.evaluate import Progress, as_array, predict_batch, same_size_batches
from fewmask.engine.generalise import Choice, choices
from fewmask.files import write_text
from fewmask.labels import LabelSpace, Mask
from fewmask.models.fusion import AUTO, Fused
from fewmask.models.universal import UniversalSegmenter
from fewmask.paths import below


@dataclass(frozen=True)
class Item:
    """An image to predict. `name` is its path below the images' folder, without its ending."""

    path: Path
    name: Path
    size: tuple[int, int] = (0, 0)
    """Width and height, by the file's header."""


Batches = Iterator[list[tuple[Item, np.ndarray]]]
"""Images (H,W,3) uint8 of one size."""
Masks = Iterator[tuple[Item, np.ndarray, Mask, str]]
"""Each image (H,W,3) with its mask (H,W) uint8 in 0 … C_k−1, and whose classes these are."""


def predict(
    model: UniversalSegmenter,
    images: Path | Sequence[Path],
    out: Path,
    domain: str | None = None,
    *,
    batch_size: int = 4,
    workers: int = 2,
    precision: Precision = "auto",
    overlays: bool = True,
    opacity: float = 0.5,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Predict every image of a folder (with those inside it) or of a list, each at its own size.

    Writes `out/masks/<name>.png` with the dataset's raw ids, `out/overlays/<name>.jpg` and `out/classes.yaml`, which
    says what the ids mean. Names that begin with a dot are not looked at. Threads decode and write beside the network,
    which sees images of one size in one batch. No image is cut into tiles: the largest one sets the memory it takes.

    With the model of `load_fused`, the domain "fused" writes classes of the union of all domains, and "auto" chooses a
    domain for each image: its files go to `out/<domain>/`, and `out/domains.csv` says of each image which domain was
    chosen and how clearly, see `Choice`.

    Returns what was done, with the fraction of all pixels that each class got (of each domain, with "auto"). Raises
    ValueError, before anything is written, that lists everything that is no image, unreadable or of an equal name; for
    a domain that the model does not have; and for a folder `out` that is not empty. A file that turns out to be damaged
    when it is decoded stops the work with its name: what was written before stays, and no file is ever written in part.
    """
    name = _domain(model, domain)
    fused = model if name == AUTO and isinstance(model, Fused) else None
    places = {n: below(out, n) for n in fused.fused} if fused else {name: out}
    items = find_images(images)
    _check_out(out, images)
    began = time.monotonic()
    writers = {n: _Writer(folder, model.spaces[n], overlays, opacity) for n, folder in places.items()}
    for writer in writers.values():
        writer.space.write_yaml(writer.out / "classes.yaml")
    chosen: dict[str, Choice] = {}

    def masks(batches: Batches) -> Masks:
        return _chosen(fused, batches, precision, chosen) if fused else _predicted(model, batches, name, precision)

    was_training = model.training
    model.eval()
    try:
        pixels = _write_all(items, masks, writers, batch_size, max(workers, 1), progress)
    except ValueError as error:
        raise ValueError(
            f"{error}\n{sum(map(_count_masks, places.values()))} of {len(items)} images were predicted before that and "
            f"stay in {out}; when it is mended, predict into another folder"
        ) from error
    finally:
        model.train(was_training)
    shares = {n: _shares(model.spaces[n], counts) for n, counts in pixels.items()}
    found: dict[str, Any] = {"out": str(out), "domain": name, "images": len(items)}
    if fused:
        chosen = {i.name.as_posix(): chosen[i.name.as_posix()] for i in items}
        _write_choices(out / "domains.csv", chosen)
        found |= _told(chosen, fused.fused)
    return found | {"pixels": shares if fused else shares[name], "seconds": round(time.monotonic() - began, 3)}


def _write_all(
    items: Sequence[Item],
    masks: Callable[[Batches], Masks],
    writers: Mapping[str, _Writer],
    batch_size: int,
    threads: int,
    progress: Progress | None,
) -> dict[str, np.ndarray]:
    """Decode every image, predict it and write what was predicted; by domain the pixels (C_k,) of each class."""
    pixels = {n: np.zeros(writer.space.num_classes, np.int64) for n, writer in writers.items()}
    ahead = batch_size + threads
    with ThreadPoolExecutor(threads) as reading, ThreadPoolExecutor(threads) as writing:
        # By size, so that as few batches as possible are cut short where the size changes.
        decoded = _ahead(reading, lambda i: (i, read_image(i.path)), sorted(items, key=lambda i: i.size), ahead)
        batches = same_size_batches(decoded, batch_size, size=lambda pair: pair[1].shape)
        written = _ahead(writing, lambda job: (job[3], writers[job[3]](*job[:3])), masks(batches), ahead)
        for done, (domain, counts) in enumerate(written, 1):
            pixels[domain] += counts
            if progress:
                progress(done, len(items))
    return pixels


def _told(chosen: Mapping[str, Choice], domains: Sequence[str]) -> dict[str, Any]:
    """Which domain was chosen for each image, and how clearly."""
    return {
        "chosen": {n: sum(c.domain == n for c in chosen.values()) for n in domains},
        "ambiguous": sum(c.ambiguous for c in chosen.values()),
        "each": {
            image: {"domain": c.domain, "margin": c.margin, "ambiguous": c.ambiguous, "excess": c.excess}
            for image, c in chosen.items()
        },
    }


def _shares(space: LabelSpace, pixels: np.ndarray) -> dict[str, float]:
    return {n: float(share) for n, share in zip(space.names, pixels / max(pixels.sum(), 1), strict=True)}


def _write_choices(path: Path, chosen: Mapping[str, Choice]) -> None:
    """A line for each image: its domain, the margin to the next, whether that is ambiguous, the excess of each."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    names = list(next(iter(chosen.values())).excess)
    table.writerow(["image", "domain", "margin", "ambiguous", *(f"excess of {n}" for n in names)])
    for image, c in chosen.items():
        numbers = [f"{c.excess[n]:.3f}" for n in names]
        table.writerow([image, c.domain, f"{c.margin:.3f}", "yes" if c.ambiguous else "no", *numbers])
    write_text(path, text.getvalue())


def find_images(images: Path | Sequence[Path]) -> list[Item]:
    """The images of a folder and of the folders inside it, of one file, or of a list of files; in order of name.

    Raises one ValueError that lists every file that is no image or cannot be read, and all names that are not unique.
    """
    problems: list[str] = []
    if isinstance(images, Path) and images.is_dir():
        items = [Item(p, p.relative_to(images).with_suffix("")) for p in _walk(images, (), problems)]
        if not items and not problems:
            raise ValueError(f"{images}: no images in it; give a folder with {', '.join(IMAGE_SUFFIXES)} files")
    else:
        paths = [images] if isinstance(images, Path) else list(images)
        items = [Item(p, Path(p.stem)) for p in paths]
        if not items:
            raise ValueError("no images are given; give a folder or some files")
    by_name: dict[Path, list[Path]] = {}
    for item in items:
        by_name.setdefault(item.name, []).append(item.path)
    for name, paths in by_name.items():
        if len(paths) > 1:
            problems.append(f"{', '.join(map(str, paths))}: all would be written as {name}.png; rename all but one")
    found = []
    with warnings.catch_warnings():
        # Pillow warns of large images; the limit that counts is ours.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for item in items:
            try:
                found.append(Item(item.path, item.name, _size(item.path)))
            except ValueError as error:
                problems.append(str(error))
    if problems:
        raise ValueError("images that cannot be predicted:\n" + "\n".join(f"  {p}" for p in problems))
    return found


def _walk(folder: Path, above: tuple[Path, ...], problems: list[str]) -> Iterator[Path]:
    real = folder.resolve()
    if real in above:
        problems.append(f"{folder}: a link back to {real}, which it lies in; remove the link")
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError as error:
        problems.append(f"{folder}: cannot be read ({error.strerror}); mend its permissions")
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), (*above, real), problems)
        else:
            yield Path(entry.path)


def _size(path: Path) -> tuple[int, int]:
    """Width and height of an image by its header. Raises ValueError that names the file."""
    if path.is_dir():
        raise ValueError(f"{path}: a folder; give it alone, or list its files")
    try:
        with Image.open(path, formats=("JPEG", "PNG", "BMP", "TIFF", "WEBP")) as image:
            width, height = image.size
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not an image; give JPEG, PNG, BMP, TIFF or WebP, or move it away") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{path}: it claims more than {MAX_PIXELS} pixels; cut it into tiles") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error}); mend the path or the file") from None
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({error}); copy or export it again") from None
    if width * height > MAX_PIXELS:
        raise ValueError(f"{path}: it claims {width}×{height} pixels, more than {MAX_PIXELS}; cut it into tiles")
    return width, height


def _domain(model: UniversalSegmenter, domain: str | None) -> str:
    if domain is None and len(model.domains) == 1:
        return model.domains[0]
    if domain is None:
        names = ", ".join(model.domains)
        raise ValueError(
            f"the model has several domains; say whose classes to predict, by `domain` (--domain): {names}"
        )
    if domain not in model.domains:
        raise ValueError(f"no domain {domain!r} in the model; it has {', '.join(model.domains)}")
    return domain


def _check_out(out: Path, images: Path | Sequence[Path]) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: there already, and not an empty folder; give another one, or remove it")
    if isinstance(images, Path) and images.is_dir() and out.resolve().is_relative_to(images.resolve()):
        raise ValueError(f"{out}: lies inside the images' folder {images}; give a folder beside it")


def _predicted(model: UniversalSegmenter, batches: Batches, domain: str, precision: Precision) -> Masks:
    for batch in batches:
        masks = as_array(predict_batch(model, _stacked(batch), domain, precision))
        for (item, image), mask in zip(batch, masks, strict=True):
            yield item, image, mask, domain


def _chosen(model: Fused, batches: Batches, precision: Precision, chosen: dict[str, Choice]) -> Masks:
    """Each image by the head that fits it best, which is noted in `chosen` by the image's name."""
    device = model.mean.device
    for batch in batches:
        size = batch[0][1].shape[:2]
        with torch.inference_mode(), autocast(device, precision):
            features = model.encode(_stacked(batch).to(device).permute(0, 3, 1, 2))
            found = choices(model, features)
            masks = [
                as_array(model.logits(features[i : i + 1], c.domain, (size[0], size[1])).argmax(1)[0])
                for i, c in enumerate(found)
            ]
        for (item, image), mask, choice in zip(batch, masks, found, strict=True):
            chosen[item.name.as_posix()] = choice
            yield item, image, mask, choice.domain


def _stacked(batch: list[tuple[Item, np.ndarray]]) -> torch.Tensor:
    return torch.from_numpy(np.stack([image for _, image in batch]))


@dataclass(frozen=True)
class _Writer:
    out: Path
    space: LabelSpace
    overlays: bool
    opacity: float

    def __call__(self, item: Item, image: np.ndarray, mask: Mask) -> np.ndarray:
        """Write what was predicted for one image; returns its pixels by class (C_k,). The mask comes last."""
        if self.overlays:
            picture = overlay(image, mask, self.space, self.opacity)
            write_image(self._place("overlays", item, ".jpg"), picture)
        write_mask(self._place("masks", item, ".png"), mask, self.space)
        return np.bincount(mask.ravel(), minlength=self.space.num_classes)

    def _place(self, folder: str, item: Item, ending: str) -> Path:
        path = below(self.out, folder, item.name.as_posix(), ending=ending)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _ahead(pool: ThreadPoolExecutor, work: Callable[[Any], Any], items: Any, count: int) -> Iterator[Any]:
    """`map(work, items)` in the pool's threads, in order, with at most `count` results waiting."""
    waiting: deque[Future] = deque()
    source = iter(items)
    try:
        for item in islice(source, count):
            waiting.append(pool.submit(work, item))
        while waiting:
            yield waiting.popleft().result()
            for item in islice(source, 1):
                waiting.append(pool.submit(work, item))
    finally:
        for future in waiting:
            future.cancel()


def _count_masks(out: Path) -> int:
    return sum(1 for _ in (out / "masks").rglob("[!.]*.png"))
