"""The oracle: an annotator simulated by the dataset's masks, and the only way to the ground truth of the pool.

Shapes: H×W pixels of an image · h×w pixels of a region's box.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from fewmask.acquisition.budget import CostModel
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Answer, Question
from fewmask.data.domain import Domain
from fewmask.labels import NOT_LABELLED, Mask

NAME = "oracle"


@dataclass
class Given:
    """What the oracle gave away, since it was made."""

    images: int = 0
    """Different images looked at."""
    regions: int = 0
    pixels: int = 0
    """Pixels that the answers decide; void is decided."""
    clicks: float = 0.0
    seconds: float = 0.0


class Oracle:
    """Answers from the masks of whole domains: those that training sees have them hidden.

    It gives no more than was paid for. Where the cost model pays for pixels the answer is the mask, outlines and all;
    where it pays for the region alone (superpixels by default) it is the region's most frequent value, once for all of
    its pixels. Void is answered as void, as a person would who finds no class there; 254 in a mask stays 254.
    """

    def __init__(self, domains: Mapping[str, Domain], cost: CostModel) -> None:
        self.given = Given()
        self._domains, self._cost = domains, cost
        self._opened: set[tuple[str, str]] = set()
        self._mask: tuple[tuple[str, str], Mask] | None = None  # questions come image by image

    def answer(self, question: Question, annotator: str = NAME) -> Answer:
        """The answer to a question; where its mask decides nothing, the question is skipped.

        Raises ValueError that names the image when it has no mask, or one of another size; and for a kind of region
        without a rate.
        """
        values, kind = question.crop(self._truth(question)), question.kind.partition(":")[0]
        pixels = np.array([question.inside.sum()])
        clicks, seconds = (float(self._cost.cost(kind, pixels, unit)[0]) for unit in ("clicks", "seconds"))
        known = values[values != NOT_LABELLED]
        if known.size and not self._cost.rates[kind].per_pixel:
            values = np.where(question.inside, np.bincount(known).argmax(), NOT_LABELLED).astype(np.uint8)
        decided = int((values != NOT_LABELLED).sum())
        self.given.regions += 1
        self.given.pixels += decided
        self.given.clicks += clicks
        self.given.seconds += seconds
        return Answer(
            question.id,
            annotator,
            token=f"{annotator} {question.id}",
            values=values if decided else None,
            kind="answer" if decided else "skip",
            clicks=clicks,
            seconds=seconds,
        )

    def _truth(self, question: Question) -> Mask:
        image = question.domain, question.stem
        if self._mask is None or self._mask[0] != image:
            self._mask = image, self._read(*image)
            self._opened.add(image)
            self.given.images = len(self._opened)
        return self._mask[1]

    def _read(self, name: str, stem: str) -> Mask:
        domain = self._domains[name]
        where = f"{name}: {domain.source.where(stem)}"
        if not domain.source.has_mask(stem):
            raise ValueError(
                f"{where}: asked of the oracle, but it has no mask; add one, or let people answer this domain"
            )
        mask = domain.mask(stem)
        (h, w), (height, width) = mask.shape, domain.image(stem).shape[:2]
        if (h, w) != (height, width):
            raise ValueError(f"{where}: the image is {width}×{height} pixels, its mask {w}×{h}; make them equal")
        return mask


def answer_all(ledger: Ledger, oracle: Oracle, number: int | None = None) -> None:
    """Answer every open question of a round, or of all; each image's answers in a transaction of their own.

    Killed and called again it goes on: what is answered is not asked of the oracle again.
    """
    questions = sorted(ledger.questions(number, open_only=True), key=lambda q: (q.domain, q.stem, q.id))
    for _, asked in groupby(questions, key=lambda q: (q.domain, q.stem)):
        ledger.answer([oracle.answer(question) for question in asked])
