"""One pass over the pool: what the networks of the last rounds say of every image that is not wholly labelled.

    for each piece of the pool:                       pieces are shared out over the processes; a done one is kept
        for each image:  logits of all members        networks × dropout draws × scales
                         pseudo-label and confidence  → <stem>.label.png, <stem>.confidence.png
                         scores → regions → its best candidates
        the piece's candidates                        → <piece>.npz, which says that the piece is done

What is drawn by chance is drawn for each image by its position, so that no image depends on its neighbours in a batch
or on the number of processes.

Shapes: B images of one size · M members · H×W pixels · C classes · R regions of an image · D feature channels.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fewmask import distributed, stopping
from fewmask.acquisition.regions import Regions, Spec, aggregate, dominant_class, embed, parse, preselect
from fewmask.acquisition.scores import SCORES, OfMean, probabilities
from fewmask.acquisition.select import Candidates, concatenate
from fewmask.annotation.facts import Question
from fewmask.annotation.record import content_hash
from fewmask.config import AskSettings
from fewmask.data.batches import read
from fewmask.data.domain import Domain
from fewmask.data.pseudo import PseudoFolder, quantise
from fewmask.engine.committee import Committee, Opinions, faults
from fewmask.engine.evaluate import Progress, as_array, same_size_batches
from fewmask.files import write_atomically
from fewmask.labels import NOT_LABELLED
from fewmask.paths import below
from fewmask.randomness import generator, torch_generator, torch_seed
from fewmask.runs.arrays import read_arrays, write_arrays

PIECE = 16


class Seen(NamedTuple):
    """An image of the pool as the loader hands it over."""

    position: int
    stem: str
    image: Tensor
    """(H,W,3) uint8."""
    closed: Tensor | None
    """(H,W) bool: pixels that are answered, or were asked for; None where there are none."""
    regions: Regions | None
    """Superpixels; a grid is made where it is needed, faster than it is handed over."""


@dataclass(frozen=True)
class Asked:
    """What the pass is to score for: a round's settings, and what was asked of the domain before."""

    settings: AskSettings
    number: int
    before: Sequence[Question] = ()


class Found(NamedTuple):
    """What a pass found to choose questions from."""

    candidates: Candidates
    covered: np.ndarray | None = None
    """With `balance: diverse` the embeddings (A,D) float16 of regions that hold an answered or asked pixel: questions
    far from each other are to be far from these too."""
    score_sum: float = 0.0
    score_count: int = 0
    """Of all regions that may be asked, with those that are no candidates because their image has better ones."""


class Pieces(Dataset[list[list[Seen]]]):
    """Piece i: the i-th 16 images of the pool, in batches of one size. Superpixels are computed here once and kept."""

    def __init__(self, domain: Domain, batch_size: int, ask: Asked | None, cache: Path) -> None:
        self.domain, self.batch_size, self.cache = domain, batch_size, cache
        position = {stem: i for i, stem in enumerate(domain.splits["train"])}
        self.pool = [(position[stem], stem) for stem in domain.unlabelled]
        self.before: dict[str, list[Question]] = {}
        for question in () if ask is None else ask.before:
            self.before.setdefault(question.stem, []).append(question)
        spec = None if ask is None else parse(ask.settings.regions)
        self.cut = spec if spec and spec.kind == "superpixels" else None

    def __len__(self) -> int:
        return -(-len(self.pool) // PIECE)

    def stems(self, index: int) -> list[str]:
        return [stem for _, stem in self._of(index)]

    def _of(self, index: int) -> list[tuple[int, str]]:
        return self.pool[index * PIECE : (index + 1) * PIECE]

    def images(self, pieces: Sequence[int]) -> int:
        return sum(len(self._of(i)) for i in pieces)

    def __getitem__(self, index: int) -> list[list[Seen]]:
        cv2.setNumThreads(0)
        images = (self._see(*item) for item in self._of(index))
        return list(same_size_batches(images, self.batch_size, size=lambda seen: seen.image.shape))

    def _see(self, position: int, stem: str) -> Seen:
        image, closed = self.domain.image(stem), None
        if stem in self.domain.partial or stem in self.before:
            closed = asked_pixels(self.before.get(stem, ()), image.shape[:2])
        if stem in self.domain.partial:
            closed |= self.domain.mask(stem) != NOT_LABELLED
        regions = None if self.cut is None else tile(self.domain, stem, image, self.cut, self.cache)
        return Seen(
            position, stem, torch.from_numpy(image), None if closed is None else torch.from_numpy(closed), regions
        )


def tile(domain: Domain, stem: str, image: np.ndarray, spec: Spec, cache: Path) -> Regions:
    """The regions of an image; superpixels are read from the cache, or computed and put there.

    Raises ValueError with the file's name for a damaged one, or one of other pixels than the image has now.
    """
    if spec.kind != "superpixels":
        return spec.tile(image)
    content = content_hash(image)
    path = below(cache, domain.name, stem, ending=f".{str(spec).replace(':', '-')}.npz")
    if path.exists():
        try:
            return Regions.from_bytes(path.read_bytes(), content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    regions = spec.tile(image)
    write_atomically(path, lambda file: file.write(regions.to_bytes(content)))
    return regions


def asked_pixels(before: Sequence[Question], size: tuple[int, int]) -> np.ndarray:
    """The pixels (H,W) bool of an image that questions about it were about, however it was cut into regions then.

    What was skipped, or answered in part, was asked too.
    """
    asked = np.zeros(size, dtype=bool)
    for question in before:
        question.window(asked)[question.inside] = True
    return asked


def score_pool(
    committee: Committee,
    domain: Domain,
    folder: Path,
    *,
    cache: Path,
    ask: Asked | None = None,
    pseudo: PseudoFolder | None = None,
    seed: int = 0,
    batch_size: int = 4,
    workers: int = 2,
    progress: Progress | None = None,
) -> Found | None:
    """Look at the domain's pool, or go on with that; returns what is found in all of it, or None without `ask` and
    where the pool is empty.

    `folder` keeps the pieces that are done. Raises ValueError for a score that the committee cannot give, and with the
    image's name for logits that are not finite; RuntimeError that says what to lower where memory runs out; and
    `stopping.Stopped` after Ctrl-C or SIGTERM, when a piece is done.
    """
    if ask is not None:
        branches = all(member.difficulty for member in committee.members)
        if wrong := faults(committee.settings, ask.settings, len(committee.members), branches):
            raise ValueError("\n".join(wrong))
    # With dropout every image is drawn for by itself.
    pieces = Pieces(domain, 1 if committee.settings.dropout else batch_size, ask, cache)
    own = range(distributed.rank(), len(pieces), distributed.world())
    left = [i for i in own if not _is_done(_piece(folder, i), pieces.stems(i))]
    total = pieces.images(own)
    done, began = total - pieces.images(left), time.monotonic()
    with ThreadPoolExecutor(max(workers, 1)) as writers:
        for index, batches in zip(left, read(pieces, left, workers, ahead=1), strict=True):
            found, written = [], []
            for batch in batches:
                for seen, opinions in _opinions(committee, domain, batch, seed):
                    mean = None if opinions is None else probabilities(opinions.logits[:, 0])
                    predicted, confidence = _predicted(domain, seen, mean)
                    if pseudo is not None:
                        said = as_array(predicted), confidence.cpu().numpy()
                        written.append(writers.submit(_write, pseudo, seen.stem, *said))
                    if ask is not None:
                        score = _score(domain, seen, opinions, mean, ask, seed)
                        found.append(_found(domain, seen, opinions, predicted, score, ask, seed))
                done += len(batch)
                if progress:
                    progress(done, total)
            for write in written:
                write.result()
            ended = time.monotonic()
            _save(_piece(folder, index), pieces.stems(index), found, ended - began)
            began = ended
            if stopping.asked() and index != left[-1]:
                raise stopping.Stopped(
                    f"{folder}: stopped after image {done} of {total} of {domain.name}, up to which the look is saved; "
                    "the same command goes on with the next"
                )
    distributed.barrier()
    if ask is None or not len(pieces):
        return None
    return _together([_load(_piece(folder, i)) for i in range(len(pieces))])


def scored_stems(folder: Path) -> frozenset[str]:
    """The images that the pieces in `folder` are of."""
    return frozenset(stem for path in folder.glob("*.npz") for stem in _stems(path))


def scoring_seconds(folder: Path) -> float:
    """What the pieces in `folder` took, added up over processes."""
    return sum(float(read_arrays(path, _FIX, _EVERY, others=False)["seconds"]) for path in folder.glob("*.npz"))


def _opinions(
    committee: Committee, domain: Domain, batch: Sequence[Seen], seed: int
) -> Iterator[tuple[Seen, Opinions | None]]:
    """Each image of a batch with what is said of it (B = 1); None where no network has learnt anything yet."""
    if not committee.members:
        yield from ((seen, None) for seen in batch)
        return
    image = torch.stack([seen.image for seen in batch]).permute(0, 3, 1, 2)
    try:
        said = committee(image, domain.name, torch_seed(seed, "pool", row=batch[0].position))
    except torch.OutOfMemoryError as error:
        raise RuntimeError(f"{domain.name}: {_too_large(image, committee.settings.scales)} ({error})") from error
    for i, seen in enumerate(batch):
        yield seen, said.of(i)


def _too_large(image: Tensor, scales: Sequence[float]) -> str:
    """What to do where a look at images (B,3,H,W) runs out of memory."""
    B, _, H, W = image.shape
    mend = (
        "lower campaign.pool.batch_size, and the same command goes on"
        if B > 1
        else "begin another campaign with smaller campaign.pool.scales, or go on where there is more memory"
    )
    return f"out of memory in the look at {B} × {H}×{W} at scales {', '.join(f'{s:g}' for s in scales)}; {mend}"


def _predicted(domain: Domain, seen: Seen, mean: Tensor | None) -> tuple[Tensor, Tensor]:
    """The most likely class (H,W) by the mean softmax (C,H,W), 254 without one, and its probability (H,W)."""
    if mean is None:
        size = seen.image.shape[:2]
        return torch.full(size, NOT_LABELLED), torch.zeros(size)
    confidence, label = mean.max(0)
    return label, _finite(confidence, domain, seen)


def _score(domain: Domain, seen: Seen, opinions: Opinions | None, mean: Tensor | None, ask: Asked, seed: int) -> Tensor:
    """The score (H,W) of every pixel; mean (C,H,W) is the opinions' mean softmax."""
    scorer, size = SCORES[ask.settings.score], seen.image.shape[:2]
    if mean is not None and isinstance(scorer.score, OfMean):
        return _finite(scorer.score.of(mean), domain, seen)
    read = torch.zeros(1, 1, 1, *size) if opinions is None else opinions.logits
    if opinions is not None and scorer.reads == "difficulty":
        assert opinions.difficulty is not None
        read = opinions.difficulty
    rng = torch_generator(seed, "ask", ask.number, 1 + seen.position) if scorer.needs_rng else None
    return _finite(scorer(read, rng)[0], domain, seen)


def _finite(values: Tensor, domain: Domain, seen: Seen) -> Tensor:
    if not bool(values.isfinite().all()):
        raise ValueError(
            f"{domain.name}: {domain.source.where(seen.stem)}: the network's answer is not finite; look at the "
            "training run that it comes from, or set train.precision=fp32"
        )
    return values


def _write(pseudo: PseudoFolder, stem: str, label: np.ndarray, confidence: np.ndarray) -> None:
    """In a thread of its own, which must not call torch: it would start a second team of threads for its operations,
    which wait for more of them on the cores of the first."""
    pseudo.write(stem, label, quantise(confidence))


def _found(
    domain: Domain, seen: Seen, opinions: Opinions | None, predicted: Tensor, score: Tensor, ask: Asked, seed: int
) -> Found:
    """The best regions of one image, `cost` their open pixels, and what is covered of it; predicted and score (H,W)."""
    settings, classes = ask.settings, domain.space.num_classes
    regions = seen.regions or parse(settings.regions).tile(seen.image.numpy())
    shut = _shut(seen, regions, ask, score.device)
    rng = generator(seed, "ask", ask.number, 2**32 + seen.position)
    if regions.spec == "points":
        chosen = preselect(score, settings.candidates, settings.top, rng, shut)
        scores = score.reshape(-1).cpu().numpy()
        values, open_ = scores[chosen], np.ones(len(chosen))
        scores = scores if shut is None else scores[~shut.reshape(-1).cpu().numpy()]
        group = predicted.reshape(-1).cpu().numpy()[chosen]
        group = np.where(group < classes, group, -1)
    else:
        found = aggregate(score, regions, shut, SCORES[settings.score].by, settings.answered)
        chosen = rng.permutation(np.flatnonzero(found.open))  # ties by chance
        chosen = np.sort(chosen[np.argsort(-found.score[chosen], kind="stable")][: settings.candidates])
        values, open_ = found.score[chosen], found.open[chosen]
        scores = found.score[found.open > 0]
        group = dominant_class(predicted, regions, classes)[chosen]
    made = Candidates(
        image=np.full(len(chosen), seen.position, np.int32),
        region=chosen.astype(np.int32),
        score=values.astype(np.float32),
        cost=open_.astype(np.float64),
        group=group.astype(np.int16),
    )
    said = Found(made, None, float(scores.sum(dtype=np.float64)), len(scores))
    if settings.balance != "diverse" or opinions is None:
        return said
    features, closed = opinions.features[0], _closed(seen, regions)
    cell = opinions.cell
    embedding, covered = (embed(features, regions, which, cell).astype(np.float16) for which in (chosen, closed))
    # Points share the cells they lie in.
    return said._replace(candidates=replace(made, embedding=embedding), covered=np.unique(covered, axis=0))


def _closed(seen: Seen, regions: Regions) -> np.ndarray:
    """The regions with a pixel that is answered or was asked for, (A,) int32 in ascending order."""
    return np.unique(regions.map[seen.closed.numpy()]) if seen.closed is not None else np.empty(0, np.int32)


def _shut(seen: Seen, regions: Regions, ask: Asked, device: torch.device) -> Tensor | None:
    """Pixels (H,W) bool that may not be asked for: closed, or at the border where that is excluded."""
    shut = seen.closed
    if not ask.settings.border:
        border = torch.from_numpy(regions.border[regions.map])
        shut = border if shut is None else shut | border
    return None if shut is None else shut.to(device)


# ── Pieces on disk ───────────────────────────────────────────────────────────────────────────────────────────────────


_FIX = "remove it and go on with the same `fewmask campaign` command, which looks again"
# Of every piece, and of those of a pass that was to ask: the arrays, and their dimensions.
_EVERY = {"stems": 1, "seconds": 0}
_ASKED = {"image": 1, "region": 1, "score": 1, "cost": 1, "group": 1, "scores": 1}


def _piece(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.npz"


def _is_done(path: Path, stems: Sequence[str]) -> bool:
    """Whether the piece is there. Raises ValueError when it is one of other images."""
    if path.exists() and _stems(path) != list(stems):
        raise ValueError(
            f"{path}: a look at other images than the pool has now, which were added or removed since it began; put "
            f"them back, or remove {path.parent} and look again"
        )
    return path.exists()


def _stems(path: Path) -> list[str]:
    """The images of a piece."""
    stems: list[str] = read_arrays(path, _FIX, _EVERY, others=False)["stems"].tolist()
    return stems


def _save(path: Path, stems: Sequence[str], found: Sequence[Found], seconds: float) -> None:
    joined = _together(found) if found else None  # there may be none of them
    arrays = {} if joined is None else {f.name: getattr(joined.candidates, f.name) for f in fields(Candidates)}
    if joined is not None:
        arrays |= {"covered": joined.covered, "scores": np.array([joined.score_sum, joined.score_count])}
    known = {name: values for name, values in arrays.items() if values is not None}
    write_arrays(path, known | {"stems": np.array(stems), "seconds": np.array(seconds)})


def _load(path: Path) -> Found:
    arrays = read_arrays(path, _FIX, {**_EVERY, **_ASKED})
    known = {name: arrays[name] for f in fields(Candidates) if (name := f.name) in arrays}
    if len({len(values) for values in known.values()}) != 1 or arrays["scores"].shape != (2,):
        raise ValueError(f"{path}: damaged (its arrays are of different lengths); {_FIX}")
    return Found(Candidates(**known), arrays.get("covered"), float(arrays["scores"][0]), int(arrays["scores"][1]))


def _together(found: Sequence[Found]) -> Found:
    """What was found in several images or pieces in one; all with what is covered, or none."""
    covered = [one.covered for one in found if one.covered is not None]
    return Found(
        concatenate([one.candidates for one in found]),
        np.concatenate(covered) if covered else None,
        sum(one.score_sum for one in found),
        sum(one.score_count for one in found),
    )
