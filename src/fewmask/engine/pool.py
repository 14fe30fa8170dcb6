"""A pass over the pool: the networks of the last rounds score every image that is not wholly labelled.

    for each piece of the pool:                       pieces are divided over the processes; a done one is kept
        for each image:  logits of all members        networks × dropout draws × scales
                         pseudo-label and confidence  → <stem>.label.png, <stem>.confidence.png
                         scores → regions → its best candidates
        the piece's candidates                        → <piece>.npz, which says that the piece is done

Random draws for an image depend on its position alone, not on its neighbours in a batch or on the number of processes.

Shapes: B images of one size · M members · H×W pixels · C classes · R regions of an image · D feature channels.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fewmask import distributed, stopping
from fewmask.acquisition.regions import Regions, Spec, aggregate, dominant_class, embed, parse_regions, preselect
from fewmask.acquisition.scores import OfMean, known_scores, probabilities
from fewmask.acquisition.selection import Candidates
from fewmask.annotation.questions import Question
from fewmask.annotation.record import content_hash
from fewmask.config import AskSettings
from fewmask.data.batches import read_batches
from fewmask.data.domain import Domain
from fewmask.data.pseudo import PseudoFolder, quantise
from fewmask.engine.committee import Committee, Opinions, scoring_problems
from fewmask.engine.evaluation import Progress, as_array, same_size_batches
from fewmask.engine.pool_scores import PoolScores, concatenate_scores, is_done, load_piece, piece_path, save_piece
from fewmask.files import write_atomically
from fewmask.formats.bands import as_rgb
from fewmask.labels import NOT_LABELLED
from fewmask.paths import below
from fewmask.plurals import count
from fewmask.randomness import generator, torch_generator, torch_seed

PIECE = 16


class PoolItem(NamedTuple):
    """An image of the pool from the loader."""

    position: int
    stem: str
    image: Tensor
    """(H,W,3) uint8."""
    closed: Tensor | None
    """(H,W) bool: pixels that are answered, or were asked for; None where there are none."""
    regions: Regions | None
    """Superpixels. A grid is None, since making it again is faster than transferring it."""


@dataclass(frozen=True)
class ScoringRequest:
    """The purpose of a pass: the settings of a round, and the earlier questions about the domain."""

    settings: AskSettings
    number: int
    before: Sequence[Question] = ()


class Pieces(Dataset[list[list[PoolItem]]]):
    """The pieces of the pool. Piece i holds the i-th 16 images, in batches of one size. Superpixels are computed once
    and cached."""

    def __init__(self, domain: Domain, batch_size: int, request: ScoringRequest | None, cache: Path) -> None:
        self.domain, self.batch_size, self.cache = domain, batch_size, cache
        position = {stem: i for i, stem in enumerate(domain.splits["train"])}
        self.pool = [(position[stem], stem) for stem in domain.unlabelled]
        self.before: dict[str, list[Question]] = {}
        for question in () if request is None else request.before:
            self.before.setdefault(question.stem, []).append(question)
        spec = None if request is None else parse_regions(request.settings.regions)
        self.cut = spec if spec and spec.kind == "superpixels" else None

    def __len__(self) -> int:
        return -(-len(self.pool) // PIECE)

    def stems(self, index: int) -> list[str]:
        return [stem for _, stem in self._of(index)]

    def _of(self, index: int) -> list[tuple[int, str]]:
        return self.pool[index * PIECE : (index + 1) * PIECE]

    def images(self, pieces: Sequence[int]) -> int:
        return sum(len(self._of(i)) for i in pieces)

    def __getitem__(self, index: int) -> list[list[PoolItem]]:
        cv2.setNumThreads(0)
        images = (self._load_item(*item) for item in self._of(index))
        return list(same_size_batches(images, self.batch_size, size=lambda item: item.image.shape))

    def _load_item(self, position: int, stem: str) -> PoolItem:
        image, closed = self.domain.image(stem), None
        if stem in self.domain.partial or stem in self.before:
            closed = asked_pixels(self.before.get(stem, ()), image.shape[:2])
        if stem in self.domain.partial:
            closed |= self.domain.mask(stem) != NOT_LABELLED
        regions = None if self.cut is None else tile(self.domain, stem, image, self.cut, self.cache)
        return PoolItem(
            position, stem, torch.from_numpy(image), None if closed is None else torch.from_numpy(closed), regions
        )


def tile(domain: Domain, stem: str, image: np.ndarray, spec: Spec, cache: Path) -> Regions:
    """The regions of an image. Superpixels are read from the cache, or computed and stored in it.

    Raises ValueError with the file's name for a damaged file, and for a file whose image has changed.
    """
    if spec.kind != "superpixels":
        return spec.tile(as_rgb(image))
    content = content_hash(image)
    path = below(cache, domain.name, stem, ending=f".{str(spec).replace(':', '-')}.npz")
    if path.exists():
        try:
            return Regions.from_bytes(path.read_bytes(), content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    regions = spec.tile(as_rgb(image))
    write_atomically(path, lambda file: file.write(regions.to_bytes(content)))
    return regions


def asked_pixels(before: Sequence[Question], size: tuple[int, int]) -> np.ndarray:
    """The pixels (H,W) bool of an image that earlier questions were about, for any kind of regions.

    Skipped and partly answered questions count too.
    """
    mask = np.zeros(size, dtype=bool)
    for question in before:
        question.window(mask)[question.inside] = True
    return mask


def score_pool(
    committee: Committee,
    domain: Domain,
    folder: Path,
    *,
    cache: Path,
    request: ScoringRequest | None = None,
    pseudo: PseudoFolder | None = None,
    seed: int = 0,
    batch_size: int = 4,
    workers: int = 2,
    progress: Progress | None = None,
) -> PoolScores | None:
    """Score the domain's pool, or resume a pass that was stopped. Returns the scores of the whole pool, or None without
    a `request` and for an empty pool.

    `folder` keeps the pieces that are done. Raises ValueError for a score that the committee cannot compute, and with
    the image's name for logits that are not finite. Raises RuntimeError with a fix where the memory is not enough, and
    `stopping.Stopped` after Ctrl-C or SIGTERM, when a piece is done.
    """
    if request is not None:
        branches = all(member.difficulty for member in committee.members)
        if problems := scoring_problems(committee.settings, request.settings, len(committee.members), branches):
            raise ValueError("\n".join(problems))
    # With dropout every image has its own draws, and so its own batch.
    pieces = Pieces(domain, 1 if committee.settings.dropout else batch_size, request, cache)
    own_pieces = range(distributed.rank(), len(pieces), distributed.world())
    remaining = [i for i in own_pieces if not is_done(piece_path(folder, i), pieces.stems(i))]
    total = pieces.images(own_pieces)
    done, began = total - pieces.images(remaining), time.monotonic()
    with ThreadPoolExecutor(max(workers, 1)) as writers:
        for index, batches in zip(remaining, read_batches(pieces, remaining, workers, ahead=1), strict=True):
            scores, written = [], []
            for batch in batches:
                for item, opinions in _opinions(committee, domain, batch, seed):
                    mean = None if opinions is None else probabilities(opinions.logits[:, 0])
                    predicted, confidence = _predicted(domain, item, mean)
                    if pseudo is not None:
                        prediction = as_array(predicted), confidence.cpu().numpy()
                        written.append(writers.submit(_write, pseudo, item.stem, *prediction))
                    if request is not None:
                        score = _score(domain, item, opinions, mean, request, seed)
                        scores.append(_scores_of(domain, item, opinions, predicted, score, request, seed))
                done += len(batch)
                if progress:
                    progress(done, total)
            for write in written:
                write.result()
            ended = time.monotonic()
            save_piece(piece_path(folder, index), pieces.stems(index), scores, ended - began)
            began = ended
            if stopping.stop_requested() and index != remaining[-1]:
                raise stopping.Stopped(
                    f"{folder}: stopped after image {done} of {total} of {domain.name}, up to which scores are saved; "
                    "the same command goes on with the next"
                )
    distributed.barrier()
    if request is None or not len(pieces):
        return None
    return concatenate_scores([load_piece(piece_path(folder, i)) for i in range(len(pieces))])


def _opinions(
    committee: Committee, domain: Domain, batch: Sequence[PoolItem], seed: int
) -> Iterator[tuple[PoolItem, Opinions | None]]:
    """Each image of a batch with the members' outputs for it (B = 1); None if there is no trained network yet."""
    if not committee.members:
        yield from ((item, None) for item in batch)
        return
    image = torch.stack([item.image for item in batch]).permute(0, 3, 1, 2)
    try:
        answers = committee(image, domain.name, torch_seed(seed, "pool", row=batch[0].position))
    except torch.OutOfMemoryError as error:
        raise RuntimeError(f"{domain.name}: {_too_large(image, committee.settings.scales)} ({error})") from error
    for i, item in enumerate(batch):
        yield item, answers.of_image(i)


def _too_large(image: Tensor, scales: Sequence[float]) -> str:
    """The message for images (B,3,H,W) whose prediction runs out of memory."""
    B, _, H, W = image.shape
    fix = (
        "lower campaign.pool.batch_size, and the same command goes on"
        if B > 1
        else "begin another campaign with smaller campaign.pool.scales, or go on where there is more memory"
    )
    return (
        f"out of memory scoring {count(B, 'image')} of {H}×{W} at scales {', '.join(f'{s:g}' for s in scales)}; {fix}"
    )


def _predicted(domain: Domain, item: PoolItem, mean: Tensor | None) -> tuple[Tensor, Tensor]:
    """The most likely class (H,W) by the mean softmax (C,H,W), 254 without one, and its probability (H,W)."""
    if mean is None:
        size = item.image.shape[:2]
        return torch.full(size, NOT_LABELLED), torch.zeros(size)
    confidence, label = mean.max(0)
    return label, _finite(confidence, domain, item)


def _score(
    domain: Domain, item: PoolItem, opinions: Opinions | None, mean: Tensor | None, request: ScoringRequest, seed: int
) -> Tensor:
    """The score (H,W) of every pixel; mean (C,H,W) is the opinions' mean softmax."""
    scorer, size = known_scores()[request.settings.score], item.image.shape[:2]
    if mean is not None and isinstance(scorer.score, OfMean):
        return _finite(scorer.score.of(mean), domain, item)
    read = torch.zeros(1, 1, 1, *size) if opinions is None else opinions.logits
    if opinions is not None and scorer.reads == "difficulty":
        assert opinions.difficulty is not None
        read = opinions.difficulty
    rng = torch_generator(seed, "ask", request.number, 1 + item.position) if scorer.needs_rng else None
    return _finite(scorer(read, rng)[0], domain, item)


def _finite(values: Tensor, domain: Domain, item: PoolItem) -> Tensor:
    if not bool(values.isfinite().all()):
        raise ValueError(
            f"{domain.name}: {domain.source.where(item.stem)}: the network's answer is not finite; check the training "
            "run of the network, or set train.precision=fp32"
        )
    return values


def _write(pseudo: PseudoFolder, stem: str, label: np.ndarray, confidence: np.ndarray) -> None:
    """Write the pseudo-labels of an image. This runs in a thread of its own, which must not call torch: torch would
    start a second team of threads for it, which would compete with the first for the cores."""
    pseudo.write(stem, label, quantise(confidence))


def _scores_of(
    domain: Domain,
    item: PoolItem,
    opinions: Opinions | None,
    predicted: Tensor,
    score: Tensor,
    request: ScoringRequest,
    seed: int,
) -> PoolScores:
    """The best regions of one image, with their open pixels as `cost`, and its covered regions. predicted and score are
    (H,W)."""
    settings, classes = request.settings, domain.space.num_classes
    regions = item.regions or parse_regions(settings.regions).tile(as_rgb(item.image.numpy()))
    unavailable = _unavailable(item, regions, request, score.device)
    rng = generator(seed, "ask", request.number, 2**32 + item.position)
    if regions.spec == "points":
        chosen = preselect(score, settings.candidates, settings.top, rng, unavailable)
        scores = score.reshape(-1).cpu().numpy()
        values, open_ = scores[chosen], np.ones(len(chosen))
        scores = scores if unavailable is None else scores[~unavailable.reshape(-1).cpu().numpy()]
        group = predicted.reshape(-1).cpu().numpy()[chosen]
        group = np.where(group < classes, group, -1)
    else:
        aggregated = aggregate(score, regions, unavailable, known_scores()[settings.score].by, settings.answered)
        chosen = rng.permutation(np.flatnonzero(aggregated.open))  # ties by chance
        chosen = np.sort(chosen[np.argsort(-aggregated.score[chosen], kind="stable")][: settings.candidates])
        values, open_ = aggregated.score[chosen], aggregated.open[chosen]
        scores = aggregated.score[aggregated.open > 0]
        group = dominant_class(predicted, regions, classes)[chosen]
    candidates = Candidates(
        image=np.full(len(chosen), item.position, np.int32),
        region=chosen.astype(np.int32),
        score=values.astype(np.float32),
        cost=open_.astype(np.float64),
        group=group.astype(np.int16),
    )
    result = PoolScores(candidates, None, float(scores.sum(dtype=np.float64)), len(scores))
    if settings.balance != "diverse" or opinions is None:
        return result
    features, closed = opinions.features[0], _closed(item, regions)
    cell = opinions.cell
    embedding, covered = (embed(features, regions, which, cell).astype(np.float16) for which in (chosen, closed))
    # Several points may lie in one cell.
    return result._replace(candidates=replace(candidates, embedding=embedding), covered=np.unique(covered, axis=0))


def _closed(item: PoolItem, regions: Regions) -> np.ndarray:
    """The regions with a pixel that was answered or asked for, (A,) int32 in ascending order."""
    return np.unique(regions.map[item.closed.numpy()]) if item.closed is not None else np.empty(0, np.int32)


def _unavailable(item: PoolItem, regions: Regions, request: ScoringRequest, device: torch.device) -> Tensor | None:
    """Pixels (H,W) bool that may not be asked for: closed ones, and those at the border if it is excluded."""
    unavailable = item.closed
    if not request.settings.border:
        border = torch.from_numpy(regions.border[regions.map])
        unavailable = border if unavailable is None else unavailable | border
    return None if unavailable is None else unavailable.to(device)
