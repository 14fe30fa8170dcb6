"""The features of a frozen encoder, computed once for all images of a training and kept on the disk.

    for each image that a phase draws, and for its mirror image where flips are drawn:
        padded image → encoder, in eval mode → its maps as one tensor of half precision → <key>.npy

A key is made of the image's pixels, of the encoder's weights and settings, and of how it is padded and computed. So the
files serve later rounds of a campaign and a resumed run, and no file of another encoder or image is ever taken.

Shapes: H×W pixels of an image · h×w cells · P packed channels.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from statistics import fmean

import numpy as np
import torch

from fewmask.config import TrainSettings
from fewmask.data.batch import Phase
from fewmask.data.domain import Domain
from fewmask.data.features import CachedFeatures, Entry
from fewmask.engine.device import autocast, gains_from_bf16
from fewmask.engine.evaluation import Progress
from fewmask.files import write_atomically
from fewmask.methods.common.base import Method
from fewmask.models.packing import Packing
from fewmask.models.universal import UniversalSegmenter
from fewmask.paths import below
from fewmask.plurals import count


def check_features(train: TrainSettings, model: UniversalSegmenter, method: Method) -> Packing:
    """How the features are packed. Raises ValueError that lists the settings under which they cannot stand for images,
    each as a line `key: the error; the fix`."""
    augment, problems = train.augment, []
    if not method.takes_features:
        problems.append(
            f"model.tuning.cached: {method.name} changes or compares images, whose features are not kept; take "
            "supervised, joint, entropy-min, mmd, univ-cross or univ-full, or set model.tuning.cached=false"
        )
    if tuple(augment.scale) != (1.0, 1.0):
        scale = list(augment.scale)
        problems.append(f"train.augment.scale: {scale} changes the features of an image; set it to [1, 1]")
    for key in ("flip_vertical", "rotate", "jitter"):
        if value := getattr(augment, key):
            problems.append(f"train.augment.{key}: {value} changes the features of an image; set it to 0")
    if uneven := [side for side in train.crop if side % model.multiple]:
        lower = [max(side // model.multiple, 1) * model.multiple for side in train.crop]
        problems.append(
            f"train.crop: {', '.join(map(str, uneven))} is no multiple of the {model.multiple} pixels of a cell of "
            f"cached features; take {lower}"
        )
    try:
        packing = model.keep_features()
    except ValueError as error:
        problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    return packing


def drawn_images(domains: Mapping[str, Domain], phases: Sequence[Phase]) -> list[tuple[Domain, str]]:
    """All images that the phases draw."""
    images: dict[tuple[str, str], Domain] = {}
    for phase in phases:
        for names, pool in ((phase.labelled, False), (phase.unlabelled, True)):
            for domain in (domains[name] for name in names):
                images |= {(domain.name, s): domain for s in (domain.unlabelled if pool else domain.labelled)}
    return [(domain, stem) for (_, stem), domain in images.items()]


def features_size(train: TrainSettings, model: UniversalSegmenter, method: Method) -> str:
    """A line with the number of images whose features a training keeps, and how much they take."""
    assert model.packing is not None
    images = drawn_images(method.domains, [p for p in method.phases(train.steps) if p.stop > p.start])
    needed = features_bytes(images, model.packing, train) / 1e6
    return f"model.tuning.cached: the features of {count(len(images), 'image')} take about {needed:,.0f} MB on the disk"


def features_bytes(images: Sequence[tuple[Domain, str]], packing: Packing, train: TrainSettings) -> int:
    """About how many bytes the features take, from the sizes of ten images."""
    shown = images[:: -(-len(images) // 10) or 1]
    cells = []
    for domain, stem in shown:
        sides = map(max, domain.image(stem).shape[:2], train.crop)
        height, width = (-(-side // packing.stride) for side in sides)
        cells.append(height * width)
    return round(fmean(cells) * len(images)) * packing.channels * 2 * _turns(train) if cells else 0


def _turns(train: TrainSettings) -> int:
    return 2 if train.augment.flip else 1


@torch.no_grad()
def cache_features(
    model: UniversalSegmenter,
    domains: Mapping[str, Domain],
    phases: Sequence[Phase],
    train: TrainSettings,
    folder: Path,
    progress: Progress = lambda done, total: None,
) -> CachedFeatures:
    """The features of all images of the phases. Those that `folder` lacks are computed. Raises ValueError where the
    disk has no room for them, and where a feature is beyond half precision."""
    packing, device = model.packing, model.mean.device
    assert packing is not None
    images = drawn_images(domains, phases)
    needed, made_by = features_bytes(images, packing, train), _digest(model, packing, train)
    turns, entries, checked = _turns(train), {}, False
    was_training = model.training
    model.eval()
    for done, (domain, stem) in enumerate(images, 1):
        image = domain.image(stem)
        turned = (image, image[:, ::-1])[:turns]
        files = tuple(below(folder, _key(one, made_by), ending=".npy") for one in turned)
        for one, file in zip(turned, files, strict=True):
            if file.exists():
                continue
            if not checked:
                _expect_room(folder, needed)
                checked = True
            batch = torch.from_numpy(one.copy()).permute(2, 0, 1)[None].to(device)
            with autocast(device, train.precision):
                packed = model.pack(batch, domain.name, train.crop)
            values = packed[0].permute(1, 2, 0).contiguous().cpu().numpy()
            if not np.isfinite(values).all():
                raise ValueError(
                    f"model.tuning.cached: features of {domain.name}: {domain.source.where(stem)} are beyond the range "
                    "of half precision; set model.tuning.cached=false"
                )
            write_atomically(file, lambda out, values=values: np.save(out, values))  # type: ignore[misc]
        entries[domain.name, stem] = Entry((image.shape[0], image.shape[1]), files)
        progress(done, len(images))
    model.train(was_training)
    return CachedFeatures(entries, packing.stride)


def _expect_room(folder: Path, needed: int) -> None:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if (free := shutil.disk_usage(there).free) < needed:
        raise ValueError(
            f"model.tuning.cached: the features take about {needed / 1e9:.1f} GB, and {there} has {free / 1e9:.1f}; "
            "make room, scale the images by the `size` of their domains, or set model.tuning.cached=false"
        )


def _key(image: np.ndarray, made_by: str) -> str:
    return sha256(f"{made_by} {image.shape}".encode() + image.tobytes()).hexdigest()[:40]


def _digest(model: UniversalSegmenter, packing: Packing, train: TrainSettings) -> str:
    """All that the features of an image depend on beside its pixels."""
    device = model.mean.device.type
    bf16 = train.precision == "bf16" or (train.precision == "auto" and gains_from_bf16(model.mean.device))
    settings = model.settings.model_dump(mode="json", exclude={"weights", "tuning", "norm", "embedding"})
    digest = sha256(repr((settings, packing, train.crop, device, bf16, model.stems, torch.__version__)).encode())
    for part in _bytes_of(model):
        digest.update(part)
    return digest.hexdigest()


def _bytes_of(model: UniversalSegmenter) -> Iterator[bytes]:
    for values in (model.mean, model.std, *model.encoder.state_dict().values()):
        yield values.cpu().contiguous().numpy().tobytes()
