"""The prototypes of a run's classes. They are computed once from its labelled images and kept in
`prototypes.safetensors`.

Shapes: B images · C feature channels · C_k classes of domain k · N cells · h×w feature cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fewmask.config import Precision
from fewmask.data.batches import read_batches
from fewmask.data.domain import Domain
from fewmask.engine.checkpoint import load_weights, save_weights
from fewmask.engine.device import autocast
from fewmask.engine.evaluation import LabelledBatches
from fewmask.engine.run import load_config, load_model
from fewmask.models.fusion import Fused, Prototypes, distance, shares, similarity
from fewmask.models.universal import UniversalSegmenter, at_stride
from fewmask.paths import AnyPath
from fewmask.runs import RunFolder

IMAGES = 200
"""The largest number of labelled images of a domain that are used. If there are more, evenly spaced ones are taken."""
SMALLEST_SPREAD = 0.01
VALUES = ("origin", "usual", "typical", "spread")


@torch.inference_mode()
def make_prototypes(
    model: UniversalSegmenter, domains: Mapping[str, Domain], *, workers: int = 2, precision: Precision = "auto"
) -> Prototypes:
    """Prototypes of the classes of all domains that have labelled pixels, in two passes over their images: one for the
    means, one for the images' distances from them. Raises ValueError when there is no labelled pixel."""
    labelled_domains = {name: domain for name, domain in domains.items() if domain.labelled}
    was_training = model.training
    model.eval()
    means: dict[str, Tensor] = {}
    for name, domain in labelled_domains.items():
        classes = domain.space.num_classes
        total = torch.zeros(classes + 1, model.channels + 1, dtype=torch.float64)
        for features, label in _labelled(model, domain, workers, precision):
            cells = F.pad(features.float().permute(0, 2, 3, 1).flatten(0, 2), (0, 1), value=1.0)
            row = label.flatten().long().clamp_max(classes)  # 254 and 255 go to the last row, which is dropped
            sums = torch.zeros(total.shape, device=cells.device).index_add_(0, row, cells)
            total += sums.cpu()
        if total[:-1, -1].any():
            means[name] = total[:-1, :-1] / total[:-1, -1:]  # NaN for a class without a pixel
    if not means:
        raise ValueError(f"no labelled pixels in {', '.join(domains)}; prototypes are made from them")
    origin = torch.cat(list(means.values())).nanmean(0)
    vectors = {name: F.normalize(mean - origin, dim=1).nan_to_num(0.0).float() for name, mean in means.items()}
    device = model.mean.device
    every, centre = torch.cat(list(vectors.values())).to(device), origin.float().to(device)
    usual, distances = [], []
    for name in vectors:
        batches = _labelled(model, labelled_domains[name], workers, precision)
        image_shares = torch.cat([shares(similarity(features, every, centre)) for features, _ in batches]).cpu()
        usual.append(image_shares.mean(0))
        distances.append(distance(image_shares, usual[-1][None])[:, 0])
    model.train(was_training)
    spread = torch.cat([d - d.mean() for d in distances]).square().mean().sqrt()
    typical = torch.stack([d.mean() for d in distances])
    return Prototypes(vectors, origin.float(), torch.stack(usual), typical, spread.clamp_min(SMALLEST_SPREAD))


def _labelled(
    model: UniversalSegmenter, domain: Domain, workers: int, precision: Precision
) -> Iterator[tuple[Tensor, Tensor]]:
    """Features (B,C,h,w) of labelled images and the labels (B,h,w) of their cells, on the model's device."""
    stems = domain.labelled[:: -(-len(domain.labelled) // IMAGES)]
    batches = LabelledBatches(domain, stems, batch_size=4)
    device = model.mean.device
    for image, label in chain.from_iterable(read_batches(batches, range(len(batches)), workers)):
        with autocast(device, precision):
            features = model.encode(image.to(device).permute(0, 3, 1, 2), domain.name)
        yield features, at_stride(label.to(device), model.stride, model.multiple)


def save_prototypes(folder: Path, prototypes: Prototypes) -> None:
    """Write the prototypes beside the trained network."""
    tensors = {f"vectors.{name}": vectors for name, vectors in prototypes.vectors.items()}
    save_weights(RunFolder(folder).prototypes, {**tensors, **{name: getattr(prototypes, name) for name in VALUES}})


def load_prototypes(folder: Path, model: UniversalSegmenter) -> Prototypes:
    """The prototypes of a finished run. Raises ValueError where the file is missing or differs from what the run
    wrote."""
    run = RunFolder(folder)
    path = run.prototypes
    tensors = load_weights(path, run.digest_of(path))
    names = [name for name in model.spaces if f"vectors.{name}" in tensors]
    return Prototypes({name: tensors[f"vectors.{name}"] for name in names}, **{name: tensors[name] for name in VALUES})


def load_fused(folder: AnyPath, device: torch.device | str = "cpu") -> Fused:
    """The trained network of a run, for `fused` and `auto` predictions, in eval mode.

    Raises ValueError for a run of one domain, which has nothing to fuse or to choose.
    """
    folder = Path(folder)
    model, config = load_model(folder, device), load_config(folder)
    if len(model.domains) == 1:
        raise ValueError(f"{folder}: the run has one domain, {model.domains[0]}; there is nothing to choose from")
    return Fused(model, load_prototypes(folder, model), config.synonyms).eval()
