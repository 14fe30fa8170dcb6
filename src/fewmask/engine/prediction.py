"""Prediction of masks and overlays for any images.

Shapes: B images of one size · H×W pixels · h×w feature cells · C_k classes of domain k.
"""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from fewmask.config import InputSettings, Precision
from fewmask.config.scale import Scale, scaled
from fewmask.data import reading
from fewmask.data.domain import resized
from fewmask.data.inputs import read_input, remarks
from fewmask.data.kinds import TURN_PIXELS
from fewmask.data.pictures import overlay, write_image, write_mask
from fewmask.engine import predicted
from fewmask.engine.ahead import ahead_of
from fewmask.engine.device import autocast, out_of_memory
from fewmask.engine.evaluation import Progress, as_array, same_size_batches
from fewmask.engine.generalise import Choice, choices, clearest
from fewmask.engine.image_files import Item, find_images
from fewmask.engine.predicted import Predicted, Prediction
from fewmask.engine.prediction_formats import Form, check_form, older_forms, write_form
from fewmask.engine.tiles import classes_by_tiles, excess_by_tiles, is_large
from fewmask.engine.transfer import common_size
from fewmask.files import write_text
from fewmask.labels import LabelSpace, Mask
from fewmask.models.fusion import AUTO, FUSED, Fused
from fewmask.models.universal import UniversalSegmenter
from fewmask.paths import AnyPath, below

BATCH_PIXELS = 2**22
"""The largest number of pixels in the images of a batch, which limits the memory."""


@dataclass(frozen=True)
class Decoded:
    item: Item
    image: np.ndarray
    """(H,W,3) uint8, or (H,W,C) of the domain's channels."""
    digest: str
    remarks: tuple[str, ...] = ()
    """Remarks as in `fewmask check` on the image's pixels, such as on an orientation tag, with the fix."""


@dataclass(frozen=True)
class Answer:
    decoded: Decoded
    domain: str
    mask: Mask
    """(H,W) uint8 in 0 … C_k−1, at the size of the image."""
    choice: Choice | None = None


Batches = Iterator[list[Decoded]]
"""Images of one size."""


def predict(
    model: UniversalSegmenter,
    images: AnyPath | Sequence[AnyPath],
    out: AnyPath,
    domain: str | None = None,
    *,
    batch_size: int = 4,
    workers: int = 2,
    precision: Precision = "auto",
    overlays: bool = True,
    opacity: float = 0.5,
    form: Form = "png",
    upright: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Predict every image of a folder (with those inside it) or of a list.

    Writes `out/masks/<name>.png` with the dataset's raw ids, `out/overlays/<name>.jpg` and `out/classes.yaml`, which
    names the ids. Threads decode and write beside the network, which predicts images of one size in one batch.

    Each image is resized to the size of the network's training (`model.sizes`), and its mask is enlarged (nearest) to
    the size of the image. A large image is predicted by overlapping tiles, see `engine.tiles`.

    With the model of `load_fused`, the domain "fused" writes classes of the union of all domains. The domain "auto"
    chooses a domain for each image: its files go to `out/<domain>/`, and `out/domains.csv` lists each image's domain
    and how clear the choice is, see `Choice`.

    `form` writes the masks in another form as well, see `write_form`. `upright` turns images by their orientation tags,
    as a domain with `orientation: apply` does. `overwrite` overwrites another prediction in the folder.

    Returns a summary with each class's fraction of all pixels (for each domain, with "auto"), the files that were left
    out, remarks on images, and forms of an earlier prediction. Raises one ValueError with all unreadable images and
    repeated names. No file is ever written in part. The same call resumes a prediction that was stopped.
    """
    began = time.monotonic()
    files = Path(images) if isinstance(images, str | os.PathLike) else [Path(image) for image in images]
    out = Path(out)
    name = _domain(model, domain)
    fused = model if name == AUTO and isinstance(model, Fused) else None
    sizes = _sizes(model, name, fused)
    pixels = model.inputs[name]
    given = find_images(files, pixels)
    check_form(form, given.items, several=fused is not None)
    places = {n: below(out, n) for n in fused.fused} if fused else {name: out}
    if isinstance(files, Path) and files.is_dir() and out.resolve().is_relative_to(files.resolve()):
        raise ValueError(f"{out}: lies inside the images' folder {files}; give a folder beside it")
    writers = {n: _Writer(folder, model.spaces[n], overlays, opacity) for n, folder in places.items()}
    where = str(files.resolve()) if isinstance(files, Path) else tuple(str(file.resolve()) for file in files)
    prediction = Prediction(
        network=predicted.fingerprint(model), domain=name, sizes=sizes, precision=precision,
        overlays=overlays, opacity=opacity, images=where, upright=upright,
    )  # fmt: skip
    answering = _Answering(model, name, fused, sizes, precision)
    lines: dict[str, Predicted] = {}
    was_training = model.training
    model.eval()
    try:
        with predicted.hold_output(out, prediction, overwrite):
            lines |= {
                n: line for n, line in predicted.read_predicted(out, given.items).items() if writers[line.domain].has(n)
            }
            done_before = len(lines)
            for writer in writers.values():
                writer.space.write_yaml(writer.out / "classes.yaml")
            remaining = [item for item in given.items if item.name.as_posix() not in lines]
            # `closing` ends the threads when the loop stops, so that none writes after the folder was released.
            with closing(
                _write_all(remaining, answering, writers, batch_size, max(workers, 1), upright, pixels)
            ) as written:
                for line in written:
                    predicted.append_predicted(out, line)
                    lines[line.image] = line
                    if progress:
                        progress(len(lines), len(given.items))
            ordered = [lines[item.name.as_posix()] for item in given.items]
            if fused:
                _write_choices(out / "domains.csv", ordered)
            forms = []
            for n, writer in writers.items():
                items = [item for item in given.items if lines[item.name.as_posix()].domain == n]
                forms += [str(path) for path in [write_form(writer.out, items, writer.space, form)] if path and items]
            noted = predicted.note_form(out, form)
    except ImageError as error:
        raise ValueError(
            f"{error}\n{len(lines)} of {len(given.items)} images were predicted before that and stay in {out}; when it "
            "is fixed, the same command goes on"
        ) from error
    finally:
        model.train(was_training)
    shares = {n: _shares(writer.space, [line for line in ordered if line.domain == n]) for n, writer in writers.items()}
    return {
        "out": str(out),
        "domain": name,
        "images": len(ordered),
        "before": done_before,
        "sizes": sizes,
        "forms": forms,
        "older_forms": [str(path) for w in writers.values() for path in older_forms(w.out, noted)],
        "left_out": list(given.left_out),
        "remarks": _remarks(ordered),
        **(_choice_summary(ordered, fused.fused) if fused else {}),
        "pixels": shares if fused else shares[name],
        "seconds": round(time.monotonic() - began, 3),
    }


class ImageError(ValueError):
    """An image that cannot be decoded, or that takes more memory than is available."""


@dataclass(frozen=True)
class _Answering:
    """A network that predicts the masks of a batch of images of one size."""

    model: UniversalSegmenter
    domain: str
    fused: Fused | None
    """The model, with the domain "auto"."""
    sizes: Mapping[str, Scale]
    """The sizes of the domains whose heads may predict."""
    precision: Precision

    def batches(self, images: Iterator[Decoded], batch_size: int) -> Batches:
        for batch in same_size_batches(images, batch_size, size=lambda decoded: decoded.image.shape):
            height, width = batch[0].image.shape[:2]
            largest = max(h * w for h, w in (scaled((height, width), size) for size in self.sizes.values()))
            batch_images = max(1, BATCH_PIXELS // largest)
            yield from (batch[i : i + batch_images] for i in range(0, len(batch), batch_images))

    @torch.inference_mode()
    def __call__(self, batch: list[Decoded]) -> list[Answer]:
        """Raises ImageError where there is not enough memory."""
        try:
            with autocast(self.model.mean.device, self.precision):
                return self._chosen(self.fused, batch) if self.fused else self._predicted(batch)
        except (RuntimeError, MemoryError, cv2.error) as error:
            if not out_of_memory(error):
                raise
            raise ImageError(_too_large(batch, self.sizes, error)) from error

    def _predicted(self, batch: list[Decoded]) -> list[Answer]:
        if self._is_large(batch, self.domain):
            return [Answer(one, self.domain, self._by_tiles(one, self.domain)) for one in batch]
        features, size = self._encode(batch, self.sizes[self.domain])
        masks = as_array(self.model.classes(features, self.domain, size))
        return [Answer(d, self.domain, _enlarged(mask, d)) for d, mask in zip(batch, masks, strict=True)]

    def _chosen(self, model: Fused, batch: list[Decoded]) -> list[Answer]:
        """Predict each image with the head that fits it best. Every domain has its own size of the image."""
        if any(self._is_large(batch, name) for name in model.fused):
            return [self._chosen_by_tiles(model, one) for one in batch]
        encoded = {size: self._encode(batch, size) for size in set(self.sizes.values())}
        excess = {size: model.excess(model.similarity(features)) for size, (features, _) in encoded.items()}
        own_excess = torch.stack([excess[self.sizes[n]][:, k] for k, n in enumerate(model.fused)], 1)
        answers = []
        for i, (decoded, choice) in enumerate(zip(batch, choices(model, own_excess), strict=True)):
            features, size = encoded[self.sizes[choice.domain]]
            mask = as_array(model.classes(features[i : i + 1], choice.domain, size)[0])
            answers.append(Answer(decoded, choice.domain, _enlarged(mask, decoded), choice))
        return answers

    def _is_large(self, batch: list[Decoded], domain: str) -> bool:
        height, width = batch[0].image.shape[:2]
        return is_large(scaled((height, width), self.sizes[domain]))

    def _by_tiles(self, one: Decoded, domain: str) -> Mask:
        image = torch.from_numpy(resized(one.image, self.sizes[domain]))
        return _enlarged(classes_by_tiles(self.model, image, domain, self.precision).numpy(), one)

    def _chosen_by_tiles(self, model: Fused, one: Decoded) -> Answer:
        images = {size: torch.from_numpy(resized(one.image, size)) for size in set(self.sizes.values())}
        excess = {size: excess_by_tiles(model, image, self.precision) for size, image in images.items()}
        own = torch.stack([excess[self.sizes[n]][:, k] for k, n in enumerate(model.fused)], 1)
        (choice,) = choices(model, own)
        return Answer(one, choice.domain, self._by_tiles(one, choice.domain), choice)

    def _encode(self, batch: list[Decoded], scale: Scale) -> tuple[torch.Tensor, tuple[int, int]]:
        """Features (B,C,h,w) of the images at a scale, and their H, W there."""
        images = torch.from_numpy(np.stack([resized(decoded.image, scale) for decoded in batch]))
        image = images.to(self.model.mean.device).permute(0, 3, 1, 2)
        return self.model.encode(image, self.domain), (image.shape[2], image.shape[3])


def _enlarged(mask: Mask, decoded: Decoded) -> Mask:
    height, width = decoded.image.shape[:2]
    return mask if mask.shape == (height, width) else cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)


def _too_large(batch: Sequence[Decoded], sizes: Mapping[str, Scale], error: BaseException) -> str:
    height, width = batch[0].image.shape[:2]
    fix = "take a smaller --batch-size" if len(batch) > 1 else "reduce it, or predict it where there is more memory"
    names = ", ".join(str(decoded.item.path) for decoded in batch)
    description = f"each of {width}×{height} pixels" if len(batch) > 1 else f"{width}×{height} pixels"
    return f"{names}: {description}, for which there is not enough memory ({' '.join(str(error).split())[:200]}); {fix}"


def _write_all(
    items: Sequence[Item],
    answering: _Answering,
    writers: Mapping[str, _Writer],
    batch_size: int,
    threads: int,
    upright: bool,
    pixels: InputSettings,
) -> Generator[Predicted, None, None]:
    """Decode every image, predict it and write the files, in the order of the images' sizes."""
    if any(is_large(scaled(item.size, size)) for item in items for size in answering.sizes.values()):
        batch_size = threads = 1  # large images come one by one, so that few of them are held at once
    ahead = batch_size + threads
    with ThreadPoolExecutor(threads) as reading, ThreadPoolExecutor(threads) as writing:
        # Sorting by size keeps the number of batches low, since a batch holds one size.
        decode = partial(_decode, turn=upright, settings=pixels)
        decoded = ahead_of(reading, decode, sorted(items, key=lambda i: i.size), ahead)
        answers = chain.from_iterable(map(answering, answering.batches(decoded, batch_size)))
        yield from ahead_of(writing, lambda answer: writers[answer.domain](answer), answers, ahead)


def _decode(item: Item, turn: bool, settings: InputSettings) -> Decoded:
    try:
        pixels, kind = read_input(item.path, settings)
        pixels = reading.upright(pixels, kind.orientation) if turn else pixels
        judgements = (cell for cell in remarks(kind, settings) if not (turn and cell.fix.startswith(TURN_PIXELS)))
        of_pixels = tuple(f"{cell.how}; {cell.fix}" for cell in judgements)
        return Decoded(item, pixels, predicted.digest_of(item.path), of_pixels)
    except ValueError as error:
        raise ImageError(str(error)) from None
    except (MemoryError, cv2.error) as error:
        if not out_of_memory(error):
            raise
        raise ImageError(f"{item.path}: not enough memory to decode it; predict it where there is more") from error


def _remarks(lines: Sequence[Predicted]) -> dict[str, list[str]]:
    """The images of each remark."""
    images_by_remark: dict[str, list[str]] = {}
    for line in lines:
        for remark in line.remarks:
            images_by_remark.setdefault(remark, []).append(line.image)
    return images_by_remark


def _choice_summary(lines: Sequence[Predicted], domains: Sequence[str]) -> dict[str, Any]:
    """The domain that was chosen for each image, and how clear the choice is."""
    chosen = {line.image: clearest(line.excess or {}) for line in lines}
    return {
        "chosen": {n: sum(c.domain == n for c in chosen.values()) for n in domains},
        "ambiguous": sum(c.ambiguous for c in chosen.values()),
        "each": {
            image: {"domain": c.domain, "margin": c.margin, "ambiguous": c.ambiguous, "excess": c.excess}
            for image, c in chosen.items()
        },
    }


def _shares(space: LabelSpace, lines: Sequence[Predicted]) -> dict[str, float]:
    pixels = np.array([line.pixels for line in lines], np.int64).reshape(-1, space.num_classes).sum(0)
    return {n: float(share) for n, share in zip(space.names, pixels / max(pixels.sum(), 1), strict=True)}


def _write_choices(path: Path, lines: Sequence[Predicted]) -> None:
    """Write a line for each image: its domain, the margin to the next one, its ambiguity, and each domain's excess."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    names = list(lines[0].excess or {})
    table.writerow(["image", "domain", "margin", "ambiguous", *(f"excess of {n}" for n in names)])
    for line in lines:
        c = clearest(line.excess or {})
        numbers = [f"{c.excess[n]:.3f}" for n in names]
        table.writerow([line.image, c.domain, f"{c.margin:.3f}", "yes" if c.ambiguous else "no", *numbers])
    write_text(path, text.getvalue())


def _strips(mask: Mask) -> list[np.ndarray]:
    """Strips of a mask's rows: bincount makes eight bytes of each pixel."""
    return np.array_split(mask, max(1, mask.size // BATCH_PIXELS))


def _domain(model: UniversalSegmenter, domain: str | None) -> str:
    if domain is None and len(model.domains) == 1:
        return model.domains[0]
    if domain is None:
        names = ", ".join(model.domains)
        raise ValueError(
            f"the model has several domains; choose whose classes to predict by `domain` (--domain): {names}"
        )
    if domain not in model.domains:
        raise ValueError(f"no domain {domain!r} in the model; it has {', '.join(model.domains)}")
    return domain


def _sizes(model: UniversalSegmenter, domain: str, fused: Fused | None) -> dict[str, Scale]:
    """The size of an image for each domain whose head may predict."""
    if fused is not None:
        return {n: model.sizes[n] for n in fused.fused}
    return {
        domain: common_size(model, model.fused) if isinstance(model, Fused) and domain == FUSED else model.sizes[domain]
    }


@dataclass(frozen=True)
class _Writer:
    out: Path
    space: LabelSpace
    overlays: bool
    opacity: float

    def __call__(self, answer: Answer) -> Predicted:
        """Write the files of one image. The mask comes last."""
        name, image, mask = answer.decoded.item.name.as_posix(), answer.decoded.image, answer.mask
        if self.overlays:
            write_image(self._place("overlays", name), overlay(image, mask, self.space, self.opacity))
        write_mask(self._place("masks", name), mask, self.space)
        each = [np.bincount(strip.ravel(), minlength=self.space.num_classes) for strip in _strips(mask)]
        pixels = np.sum(each, axis=0)
        excess = dict(answer.choice.excess) if answer.choice else None
        return Predicted(
            image=name, digest=answer.decoded.digest, domain=answer.domain, pixels=tuple(pixels.tolist()),
            excess=excess, remarks=answer.decoded.remarks,
        )  # fmt: skip

    def has(self, name: str) -> bool:
        return all(self._place(f, name).exists() for f in ("masks", *["overlays"] * self.overlays))

    def _place(self, folder: str, name: str) -> Path:
        return below(self.out, folder, name, ending=".png" if folder == "masks" else ".jpg")
