"""Writes the answers as masks, which can be rebuilt from the ledger at any time, and makes domains that train on them.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fewmask.annotation.ledger import Ledger
from fewmask.data.domain import Domain, Source
from fewmask.data.parts import count_labelled
from fewmask.data.pictures import mask_png, write_mask
from fewmask.data.reading import read_mask
from fewmask.files import Written
from fewmask.labels import NOT_LABELLED, LabelSpace, Mask
from fewmask.paths import below


def write_labels(ledger: Ledger, domains: Mapping[str, Domain], folder: Path, up_to: int | None = None) -> None:
    """Write the answers up to the id `up_to` as the masks `folder/<domain>/<stem>.png`.

    The masks hold the dataset's own ids, so that they can be put among its labels. Only masks whose content differs are
    written. Masks of images without an answer are removed, so that `up_to` may also decrease. Raises ValueError when a
    dataset uses 254 and 255 as ids, when its classes changed, and for a foreign file in the place of a mask.

    A change that somebody made in a mask is lost when its answers change. A foreign file is never removed.
    """
    view = Written(folder, "named")
    noted, wanted = set(view.names()), set[str]()
    for name in ledger.classes():
        domain = domains[name]
        ledger.expect(domain)
        for stem in ledger.answered_stems(name, up_to):
            path, mask = _path(folder, name, stem), ledger.labels(name, stem, up_to)
            wanted.add(file := path.relative_to(folder).as_posix())
            # A file without a note that equals our mask bit for bit was written without one.
            if not _holds(path, mask, domain.space) or (file not in noted and _is_written(path, mask, domain.space)):
                with view.guard():
                    write_mask(path, mask, domain.space)
    view.remove(noted - wanted)


def answered_domain(domain: Domain, ledger: Ledger, folder: Path, up_to: int | None = None) -> Domain:
    """The domain with its answers as labels, read from the masks in `folder`.

    An image is labelled where answers decide a pixel of it. It is labelled in part unless every pixel is decided. An
    image that was labelled before keeps its mask, over which the answers are laid. The masks of all other images of
    train are out of reach. Call `write_labels` first with the same `up_to`. Raises ValueError when there are answers
    about images that are not in train.
    """
    answered = frozenset(ledger.answered_stems(domain.name, up_to))
    train = domain.splits["train"]
    lost = sorted(answered - set(train))
    if lost:
        raise ValueError(
            f"{ledger.path}: {domain.name}: answers about {', '.join(lost)}, which train does not have; put the images "
            "and the split back as they were, or begin a new run"
        )
    labelled = frozenset(domain.labelled)
    fractions = {
        stem: fraction
        for stem, fraction in _labelled_fractions(ledger, domain.name, up_to).items()
        if stem not in labelled
    }
    source = AnsweredSource(
        domain.source,
        below(folder, domain.name),
        domain.space,
        answered,
        both=answered & labelled,
        hidden=frozenset(train) - labelled - answered,
    )
    merged_fractions = {
        stem: count_labelled(source.mask(stem)).labelled_fraction for stem in domain.partial if stem in answered
    }
    fractions |= {stem: fraction for stem, fraction in {**domain.partial, **merged_fractions}.items() if fraction < 1}
    return replace(
        domain, source=source, labelled=tuple(s for s in train if s in labelled | answered), partial=fractions
    )


def _labelled_fractions(ledger: Ledger, domain: str, up_to: int | None) -> dict[str, float]:
    """The labelled fraction of each image whose answers decide some of its pixels, but not all. The answers are merged
    only where they are enough to decide every pixel. Elsewhere a pixel that several answers decide counts several
    times."""
    decided = Counter[str]()
    for question, values in ledger.decisions(domain, up_to=up_to):
        decided[question.stem] += int((values != NOT_LABELLED).sum())
    fractions = {}
    for stem, (height, width) in ledger.sizes(domain).items():
        fraction = decided[stem] / (height * width)
        if fraction >= 1:
            fraction = float((ledger.labels(domain, stem, up_to) != NOT_LABELLED).mean())
        if 0 < fraction < 1:
            fractions[stem] = fraction
    return fractions


@dataclass(frozen=True)
class AnsweredSource:
    """A source that reads the masks of `answered` images from `folder`, and hides the masks of `hidden` images.

    For images of `both`, the answers are laid over the source's own mask.
    """

    source: Source
    folder: Path
    space: LabelSpace
    answered: frozenset[str]
    both: frozenset[str]
    hidden: frozenset[str]

    def image(self, stem: str) -> np.ndarray:
        return self.source.image(stem)

    def mask(self, stem: str) -> Mask:
        if stem in self.hidden:
            raise ValueError(f"{self.where(stem)}: nobody has answered about it; its mask is hidden")
        if stem not in self.answered:
            return self.source.mask(stem)
        path = below(self.folder, stem, ending=".png")
        answers = self.space.encode(read_mask(path), path)
        return np.where(answers == NOT_LABELLED, self.source.mask(stem), answers) if stem in self.both else answers

    def has_mask(self, stem: str) -> bool:
        return stem in self.answered or (stem not in self.hidden and self.source.has_mask(stem))

    def where(self, stem: str) -> str:
        return self.source.where(stem)


def _path(folder: Path, domain: str, stem: str) -> Path:
    return below(folder, domain, stem, ending=".png")


def _holds(path: Path, mask: Mask, space: LabelSpace) -> bool:
    """Whether the file holds this mask. A damaged file does not."""
    try:
        return path.exists() and np.array_equal(space.encode(read_mask(path), path), mask)
    except ValueError:
        return False


def _is_written(path: Path, mask: Mask, space: LabelSpace) -> bool:
    return path.read_bytes() == mask_png(path, mask, space)
