"""The oracle: an annotator that is simulated by the dataset's masks. Only the oracle reads the pool's ground truth.

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
    """The labels that the oracle has given since it was made."""

    images: int = 0
    """The number of different images whose masks were read."""
    regions: int = 0
    pixels: int = 0
    """The number of pixels that the answers decide. Void counts as decided."""
    clicks: float = 0.0
    seconds: float = 0.0


class Oracle:
    """Answers questions from the masks of whole domains, which are hidden from training.

    An answer contains what the cost model pays for. Where it pays for pixels, the answer is the mask. Where it pays for
    the region alone, as for superpixels by default, all pixels get the region's most frequent value. Void is answered
    as void, and 254 in a mask stays 254.
    """

    def __init__(self, domains: Mapping[str, Domain], cost: CostModel) -> None:
        self.given = Given()
        self._domains, self._cost = domains, cost
        self._opened: set[tuple[str, str]] = set()
        self._mask: tuple[tuple[str, str], Mask] | None = None  # questions come image by image

    def answer(self, question: Question, annotator: str = NAME) -> Answer:
        """The answer to a question, or a skip where the mask decides no pixel.

        Raises ValueError for an image without a mask or with a mask of another size, and for a kind of region without
        a rate.
        """
        values, kind = question.crop(self._truth(question)), question.kind.partition(":")[0]
        pixels = np.array([question.inside.sum()])
        clicks, seconds = (float(self._cost.cost(kind, pixels, unit)[0]) for unit in ("clicks", "seconds"))
        labelled = values[values != NOT_LABELLED]
        if labelled.size and not self._cost.rates[kind].per_pixel:
            values = np.where(question.inside, np.bincount(labelled).argmax(), NOT_LABELLED).astype(np.uint8)
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
    """Answer every open question of a round, or of all rounds, in one transaction for each image.

    After a kill, another call answers the questions that are still open.
    """
    questions = sorted(ledger.questions(number, open_only=True), key=lambda q: (q.domain, q.stem, q.id))
    for _, image_questions in groupby(questions, key=lambda q: (q.domain, q.stem)):
        ledger.answer([oracle.answer(question) for question in image_questions])
