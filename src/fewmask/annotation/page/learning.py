"""Guesses that learn while people answer: the network's head is fitted again to what was just answered.

Its features stay as they are and are kept in the memory, so that a fit is a logistic regression that takes less than a
second. It begins at the network's own head and is held to it, it sees a sample of what was labelled before, so that
nothing is forgotten, and what was answered last counts the most: the next question is about the same image. Nothing of
it is written down, and training never hears of it.

Shapes: h×w pixels of a region's box · N cells · C channels · K classes.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from threading import Lock

import numpy as np
from scipy.optimize import minimize

from fewmask.annotation.page.ahead import Ahead, Key, Read
from fewmask.annotation.page.features import Features, at_pixels, cells_around
from fewmask.annotation.questions import Question
from fewmask.data.domain import Domain
from fewmask.labels import Mask

CELLS = 5000
"""Answered cells that a fit sees, the newest."""
CELLS_OF_ANSWER = 100
BEFORE, CELLS_OF_IMAGE, IMAGES = 2000, 250, 8
"""Cells of what was labelled before that a fit sees beside them, and how many come from each of how many images."""
ANSWERS = 1000
"""That are kept."""
HALF_LIFE = 1000
"""Answered cells after which an older one counts half as much."""
HOLD = 0.02
"""How strongly the head is held to the network's own; see `fit`."""
STEPS = 40


@dataclass(frozen=True, eq=False)
class Head:
    """A 1×1 convolution: logits = cells · weight + bias."""

    weight: np.ndarray
    """(C,K) float32."""
    bias: np.ndarray
    """(K,) float32."""


@dataclass(frozen=True, eq=False)
class Cells:
    values: np.ndarray
    """(N,C) float16."""
    label: np.ndarray
    """(N,) int64 in 0 … K−1."""

    @staticmethod
    def joined(parts: list[Cells]) -> Cells:
        return Cells(np.concatenate([p.values for p in parts]), np.concatenate([p.label for p in parts]))

    def last(self, count: int) -> Cells:
        return Cells(self.values[-count:], self.label[-count:])


def cells_of(features: Features, box: tuple[int, int, int, int], values: Mask, classes: int, most: int) -> Cells:
    """Cells below pixels of a box that have a class, spread evenly over them; `values` are those of the box (h,w)."""
    rows, columns = np.nonzero(values < classes)
    chosen = _spread(len(rows), most)
    rows, columns = rows[chosen], columns[chosen]
    limit = np.array(features.values.shape[:2]) - 1
    y = np.minimum((rows + box[0]) // features.stride, limit[0])
    x = np.minimum((columns + box[1]) // features.stride, limit[1])
    return Cells(features.values[y, x], values[rows, columns].astype(np.int64))


def fit(head: Head, answered: Cells, before: Cells) -> Head:
    """The head after it has seen cells that were answered, the oldest first, beside some that were labelled before.

    It minimises the cross-entropy of the answered, in which the newest count the most, and of the others, half of each,
    plus `HOLD` times the squared distance to the network's own head, in units of each channel's spread.
    """
    parts = [part for part in (answered, before) if len(part.label)]
    both = Cells.joined(parts)
    x = both.values.astype(np.float32)
    mean, spread = x.mean(0), x.std(0) + 1e-3
    start = x @ head.weight + head.bias
    x = (x - mean) / spread
    age = np.arange(len(answered.label))[::-1]
    recent = 0.5 ** (age / HALF_LIFE)
    weights = [recent / recent.sum(), np.full(len(before.label), 1 / max(len(before.label), 1))]
    weight = np.concatenate([w for w in weights if len(w)]).astype(np.float32) / len(parts)
    rows, (channels, classes) = np.arange(len(x)), head.weight.shape

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        change = flat.astype(np.float32).reshape(channels + 1, classes)
        logits = start + x @ change[:-1] + change[-1]
        logits -= logits.max(1, keepdims=True)
        probability = np.exp(logits)
        total = probability.sum(1, keepdims=True)
        found = float((weight * (np.log(total[:, 0]) - logits[rows, both.label])).sum(dtype=np.float64))
        slope = probability / total
        slope[rows, both.label] -= 1
        slope *= weight[:, None]
        gradient = np.concatenate([x.T @ slope, slope.sum(0, keepdims=True)]) + 2 * HOLD * change
        return found + HOLD * float((change**2).sum(dtype=np.float64)), gradient.astype(np.float64).ravel()

    best = minimize(loss, np.zeros((channels + 1) * classes), jac=True, method="L-BFGS-B", options={"maxiter": STEPS})
    change = best.x.astype(np.float32).reshape(channels + 1, classes)
    slope = change[:-1] / spread[:, None]
    return Head(head.weight + slope, head.bias + change[-1] - mean @ slope)


def expected(head: Head, features: Features, box: tuple[int, int, int, int]) -> tuple[Mask, np.ndarray]:
    """What a head says of a box: the most likely class (h,w) uint8 and its probability (h,w) float32."""
    cells, origin = cells_around(features, box)
    logits = cells.astype(np.float32) @ head.weight + head.bias
    size = box[2] - box[0], box[3] - box[1]
    most, total, label = np.full(size, -np.inf, np.float32), np.zeros(size, np.float32), np.zeros(size, np.uint8)
    # One class after the other: those of a large region at once would take gigabytes.
    for k in range(logits.shape[2]):
        of = at_pixels(np.ascontiguousarray(logits[..., k]), origin, features.stride, features.stride, box)
        label[of > most] = k
        larger = np.maximum(most, of)
        total = total * np.exp(most - larger) + np.exp(of - larger)
        most = larger
    return label, 1 / total


@dataclass
class _Domain:
    """What is known of one domain."""

    answers: OrderedDict[int, Cells] = field(default_factory=OrderedDict)
    """By question, the newest last."""
    before: dict[Key, Cells] = field(default_factory=dict)
    """Of labelled images, as far as they were looked at."""
    head: Head | None = None


@dataclass(frozen=True)
class Labelled:
    """An image that was labelled before the round began."""

    stem: str
    read: Read
    mask: Callable[[], Mask]
    """(H,W) uint8."""


def labelled(domain: Domain) -> list[Labelled]:
    """The images of a domain that were labelled before, as far as a learner looks at them: spread over all of them."""
    stems = [domain.labelled[i] for i in _spread(len(domain.labelled), IMAGES)]
    return [Labelled(s, partial(domain.image, s), partial(domain.mask, s)) for s in stems]


@dataclass(frozen=True)
class _Heard:
    question: Question
    standing: Callable[[], Mask | None]
    read: Read


class Learner:
    """Hears answers, and refits heads in a thread of its own. Threads may call it at once."""

    def __init__(
        self,
        features: Ahead[Features],
        head: Callable[[str], Head],
        labelled: Callable[[str], list[Labelled]] = lambda _: [],
    ) -> None:
        """`head` is the network's own of a domain, `labelled` what of it was labelled before."""
        self._features, self._head, self._labelled = features, head, labelled
        self._worker = ThreadPoolExecutor(1, "learn")
        self._lock = Lock()
        self._heard: dict[int, _Heard] = {}
        self._domains: dict[str, _Domain] = {}
        self._closed = False
        self.version = 0
        """Counts the fits: guesses of an older one are out of date."""

    def prepare(self, key: Key, read: Read) -> None:
        """Have an image's features ready; returns at once."""
        self._features.begin(key, read)

    def hear(self, question: Question, standing: Callable[[], Mask | None], read: Read) -> None:
        """Something was said about a question; returns at once. `standing` then gives what all answers to it come to,
        (h,w), or None where there is none: one may have been taken back, or another person's may count beside it."""
        with self._lock:
            self._heard.pop(question.id, None)
            self._heard[question.id] = _Heard(question, standing, read)
            waiting = len(self._heard) > 1
        if not waiting:
            with suppress(RuntimeError):  # the page is being closed; the answer is on the disk
                self._worker.submit(self._learn)

    def expected(self, question: Question, read: Read) -> tuple[Mask, np.ndarray] | None:
        """The most likely class (h,w) uint8 and its probability (h,w) of a question's box; None where nothing was
        learned about its domain. Waits for the image's features."""
        with self._lock:
            known = self._domains.get(question.domain)
            head = known.head if known else None
        if head is None:
            return None
        return expected(head, self._features.of((question.domain, question.stem), read), question.box)

    def settle(self) -> None:
        """Wait until everything that was heard is learned."""
        self._worker.submit(lambda: None).result()

    def close(self) -> None:
        self._closed = True
        self._worker.shutdown(wait=False, cancel_futures=True)
        self._features.close()

    def _learn(self) -> None:
        with self._lock:
            heard, self._heard = list(self._heard.values()), {}
        for domain in dict.fromkeys(one.question.domain for one in heard):
            with self._guarded(f"the guesses of {domain}"):
                self._refit(domain, [one for one in heard if one.question.domain == domain])

    @contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        """Guesses learn from the rest where something fails, and answers do not depend on it."""
        try:
            yield
        except Exception:
            if not self._closed:
                logging.getLogger(__name__).exception("The guesses do not learn from %s", what)

    def _refit(self, domain: str, heard: list[_Heard]) -> None:
        own, known = self._head(domain), self._domains.setdefault(domain, _Domain())
        classes = len(own.bias)
        for one in heard:
            question = one.question
            known.answers.pop(question.id, None)
            with self._guarded(f"question {question.id} ({question})"):
                values = one.standing()
                if values is not None:
                    features = self._features.of((domain, question.stem), one.read)
                    known.answers[question.id] = cells_of(features, question.box, values, classes, CELLS_OF_ANSWER)
        while len(known.answers) > ANSWERS:
            known.answers.popitem(last=False)
        # A further labelled image with every fit: the first one need not wait for all of them.
        for image in self._labelled(domain):
            key = domain, image.stem
            if key not in known.before:
                known.before[key] = Cells(np.zeros((0, len(own.weight)), np.float16), np.zeros(0, np.int64))
                with self._guarded(f"{domain}/{image.stem}"):
                    mask, features = image.mask(), self._features.of(key, image.read)
                    known.before[key] = cells_of(features, (0, 0, *mask.shape), mask, classes, CELLS_OF_IMAGE)
                break
        answers = [cells for cells in known.answers.values() if len(cells.label)]
        head = None
        if answers:
            every = Cells.joined(answers)
            older = Cells(every.values[:-CELLS], every.label[:-CELLS])
            earlier = [*known.before.values(), older] if known.before else [older]
            head = fit(own, every.last(CELLS), _some(Cells.joined(earlier), BEFORE))
        with self._lock:
            known.head = head
            self.version += 1


def _some(cells: Cells, most: int) -> Cells:
    """At most so many of them, evenly."""
    chosen = _spread(len(cells.label), most)
    return Cells(cells.values[chosen], cells.label[chosen])


def _spread(count: int, most: int) -> np.ndarray:
    """At most so many places of `count`, evenly from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64))
