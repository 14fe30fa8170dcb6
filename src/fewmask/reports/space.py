"""The feature space of the network: sampled cells, their t-SNE, and the similarity of classes.

All pictures use the same cells, so that they show the same pixels before and after a training.

Shapes: N cells · D channels · G classes of all domains · h×w cells of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fewmask.config import Precision
from fewmask.data.domain import Domain
from fewmask.engine.device import autocast
from fewmask.labels import NOT_LABELLED
from fewmask.models.universal import UniversalSegmenter, at_stride
from fewmask.randomness import generator

POINTS = 900  # points of a picture; more take longer and are harder to read
ITERATIONS = 600  # enough for t-SNE to converge with so few points
FEWEST = 10  # a picture with fewer cells has no meaning


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells sampled from every class, with their vectors in each network."""

    vectors: Sequence[np.ndarray]
    """By network: (N,D) fp32."""
    label: np.ndarray
    """(N,) in 0 … G−1, the classes of all domains in order."""


@torch.inference_mode()
def sample_cells(
    models: Sequence[UniversalSegmenter],
    domains: Mapping[str, Domain],
    stems: Mapping[str, Sequence[str]],
    embedding: bool,
    seed: int,
    precision: Precision = "auto",
    progress: Callable[[int], object] = lambda done: None,
) -> Cells:
    """Sample labelled cells of these images, about equally many for each class.

    With `embedding`, vectors are those of the embedding head E, which methods that align domains train. Otherwise they
    are features of F at the same stride.
    """
    classes = sum(domain.space.num_classes for domain in domains.values())
    most = max(POINTS // classes, FEWEST)
    first, row = 0, 0
    vectors: list[list[np.ndarray]] = [[] for _ in models]
    labels: list[np.ndarray] = []
    for name, domain in domains.items():
        of_image = max(2 * most // max(len(stems[name]), 1), 4)
        for stem in stems[name]:
            mask = torch.from_numpy(domain.mask(stem))[None]
            label = at_stride(mask, models[0].embedding_stride, models[0].multiple).flatten().numpy()
            rng = generator(seed, "report", row=row)
            cells = _draw(label, np.full(256, of_image), rng)
            image = torch.from_numpy(domain.image(stem))[None]
            for model, network_vectors in zip(models, vectors, strict=True):
                network_vectors.append(_cells(model, image, name, embedding, precision)[cells])
            labels.append(label[cells].astype(np.int64) + first)
            row += 1
            progress(1)
        first += domain.space.num_classes
    label = np.concatenate(labels) if labels else np.zeros(0, np.int64)
    kept = _draw(label, np.full(max(classes, 256), most), generator(seed, "report", step=1))
    return Cells(
        [np.concatenate(network_vectors)[kept] if network_vectors else np.zeros((0, 1)) for network_vectors in vectors],
        label[kept],
    )


def _draw(label: np.ndarray, most: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices of at most `most[c]` cells of each class c of label (N,). It ignores 254 and 255 in a mask."""
    order = rng.permutation(len(label))
    if label.dtype == np.uint8:
        order = order[label[order] < NOT_LABELLED]
    by_class = order[np.argsort(label[order], kind="stable")]
    _, start = np.unique(label[by_class], return_index=True)
    rank = np.arange(len(by_class)) - np.repeat(start, np.diff([*start, len(by_class)]))
    return np.sort(by_class[rank < most[label[by_class]]])


def _cells(model: UniversalSegmenter, image: Tensor, domain: str, embedding: bool, precision: Precision) -> np.ndarray:
    """Unit vectors (h·w,D) of an image (1,H,W,3) uint8."""
    device = model.mean.device
    with autocast(device, precision):
        features = model.encode(image.to(device).permute(0, 3, 1, 2), domain)
        embedded = model.embed(features) if embedding else model.embedding[0](features)
    flat = embedded[0].float().flatten(1).T
    return torch.nn.functional.normalize(flat, dim=1).cpu().numpy()


def tsne(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Positions (N,2) by t-SNE. van der Maaten and Hinton, JMLR 2008."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    # Initialisation by PCA preserves the large distances (Kobak and Berens, Nature Comm. 2019).
    method = TSNE(
        perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed % 2**32, max_iter=ITERATIONS
    )
    return method.fit_transform(np.ascontiguousarray(vectors, np.float32))


def class_similarity(cells: Cells, which: int, classes: int) -> np.ndarray:
    """Cosine similarity (G,G) of the classes' mean vectors, after subtracting the mean over all classes; NaN for a
    class without a cell."""
    vectors, label = cells.vectors[which].astype(np.float64), cells.label
    total = np.zeros((classes, vectors.shape[1]))
    np.add.at(total, label, vectors)
    counts = np.bincount(label, minlength=classes)
    means = np.where(counts[:, None] > 0, total / np.maximum(counts, 1)[:, None], np.nan)
    means = means - np.nanmean(means, axis=0)
    length = np.linalg.norm(means, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = means / length
    similarity: np.ndarray = np.clip(unit @ unit.T, -1, 1)
    return similarity
