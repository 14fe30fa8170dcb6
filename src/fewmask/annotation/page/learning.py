"""Guesses that learn while people answer: the network's last layer (head) is fitted again to the new answers.

The features stay the same and are kept in memory, so that a fit is a logistic regression of less than a second. The fit
starts at the network's own head and is regularised towards it. A sample of earlier labels keeps it from forgetting. The
newest answers count the most, because the next question is about the same image. The fitted heads are never saved, and
training does not use them.

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
from fewmask.annotation.page.features import Features
from fewmask.annotation.page.head import Expected, Head, expected
from fewmask.annotation.questions import Question
from fewmask.data.domain import Domain
from fewmask.labels import Mask

CELLS = 5000
"""The number of the newest answered cells that a fit uses."""
CELLS_OF_ANSWER = 100
BEFORE, CELLS_OF_IMAGE, IMAGES = 2000, 250, 8
"""The number of earlier labelled cells that a fit uses, the number from each image, and the number of images."""
ANSWERS = 1000
"""The number of answers that are kept."""
HALF_LIFE = 1000
"""The number of answered cells after which an older cell counts half as much."""
HOLD = 0.02
"""The strength of the regularisation towards the network's own head; see `fit`."""
STEPS = 40


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
    """At most `most` cells below pixels of a box that have a class, spread evenly. `values` (h,w) are the box's."""
    rows, columns = np.nonzero(values < classes)
    chosen = _spread(len(rows), most)
    rows, columns = rows[chosen], columns[chosen]
    limit = np.array(features.values.shape[:2]) - 1
    y = np.minimum((rows + box[0]) // features.stride, limit[0])
    x = np.minimum((columns + box[1]) // features.stride, limit[1])
    return Cells(features.values[y, x], values[rows, columns].astype(np.int64))


def fit(head: Head, answered: Cells, earlier: Cells) -> Head:
    """Fit a head to answered cells, the oldest first, and to a sample of earlier labelled cells.

    The fit minimises the mean of two cross-entropies plus `HOLD` times the squared distance to the network's own head.
    The first is that of the answered cells, of which the newest count the most; the second is that of the earlier ones.
    The distance is in units of each channel's standard deviation.
    """
    parts = [part for part in (answered, earlier) if len(part.label)]
    cells = Cells.joined(parts)
    x = cells.values.astype(np.float32)
    mean, spread = x.mean(0), x.std(0) + 1e-3
    start = x @ head.weight + head.bias
    x = (x - mean) / spread
    age = np.arange(len(answered.label))[::-1]
    recency = 0.5 ** (age / HALF_LIFE)
    weights = [recency / recency.sum(), np.full(len(earlier.label), 1 / max(len(earlier.label), 1))]
    weight = np.concatenate([w for w in weights if len(w)]).astype(np.float32) / len(parts)
    rows, (channels, classes) = np.arange(len(x)), head.weight.shape

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        change = flat.astype(np.float32).reshape(channels + 1, classes)
        logits = start + x @ change[:-1] + change[-1]
        logits -= logits.max(1, keepdims=True)
        probability = np.exp(logits)
        total = probability.sum(1, keepdims=True)
        cross_entropy = float((weight * (np.log(total[:, 0]) - logits[rows, cells.label])).sum(dtype=np.float64))
        slope = probability / total
        slope[rows, cells.label] -= 1
        slope *= weight[:, None]
        gradient = np.concatenate([x.T @ slope, slope.sum(0, keepdims=True)]) + 2 * HOLD * change
        return cross_entropy + HOLD * float((change**2).sum(dtype=np.float64)), gradient.astype(np.float64).ravel()

    best = minimize(loss, np.zeros((channels + 1) * classes), jac=True, method="L-BFGS-B", options={"maxiter": STEPS})
    change = best.x.astype(np.float32).reshape(channels + 1, classes)
    slope = change[:-1] / spread[:, None]
    return Head(head.weight + slope, head.bias + change[-1] - mean @ slope)


@dataclass
class _Domain:
    """The cells and the fitted head of one domain."""

    answers: OrderedDict[int, Cells] = field(default_factory=OrderedDict)
    """The answered cells by question, the newest last."""
    earlier: dict[Key, Cells] = field(default_factory=dict)
    """The cells of the earlier labelled images that were read so far."""
    head: Head | None = None


@dataclass(frozen=True)
class Labelled:
    """An image that was labelled before the round began."""

    stem: str
    read: Read
    mask: Callable[[], Mask]
    """(H,W) uint8."""


def labelled(domain: Domain) -> list[Labelled]:
    """The earlier labelled images of a domain that a learner uses, spread over all of them."""
    stems = [domain.labelled[i] for i in _spread(len(domain.labelled), IMAGES)]
    return [Labelled(s, partial(domain.image, s), partial(domain.mask, s)) for s in stems]


@dataclass(frozen=True)
class _AnsweredQuestion:
    question: Question
    standing: Callable[[], Mask | None]
    read: Read


class Learner:
    """Refits heads to answers in a separate thread. Threads may call it at once."""

    def __init__(
        self,
        features: Ahead[Features],
        head: Callable[[str], Head],
        labelled: Callable[[str], list[Labelled]] = lambda _: [],
    ) -> None:
        """`head` gives the network's own head of a domain, `labelled` its earlier labelled images."""
        self._features, self._head, self._labelled = features, head, labelled
        self._worker = ThreadPoolExecutor(1, "learn")
        self._lock = Lock()
        self._queue: dict[int, _AnsweredQuestion] = {}
        self._domains: dict[str, _Domain] = {}
        self._closed = False
        self.version = 0
        """The number of fits. Guesses of an older version are out of date."""

    def prepare(self, key: Key, read: Read) -> None:
        """Start to compute an image's features. Returns at once."""
        self._features.begin(key, read)

    def learn_from(self, question: Question, standing: Callable[[], Mask | None], read: Read) -> None:
        """Learn from a question whose answers have changed. Returns at once.

        `standing` gives the combined answers (h,w), or None where none stands. An answer may have been taken back, and
        other people's answers may count too.
        """
        with self._lock:
            self._queue.pop(question.id, None)
            self._queue[question.id] = _AnsweredQuestion(question, standing, read)
            waiting = len(self._queue) > 1
        if not waiting:
            with suppress(RuntimeError):  # the page is being closed; the answer is on the disk
                self._worker.submit(self._learn)

    def expected(self, question: Question, read: Read) -> Expected | None:
        """The prediction for a question's box by what was learned; None where nothing was learned about its domain.
        Waits for the image's features."""
        head = self._learned(question.domain)
        return None if head is None else self._predict(head, question, read)

    def likely(self, question: Question, read: Read) -> Expected:
        """As `expected`; where nothing was learned yet, by the network's own head."""
        return self._predict(self._learned(question.domain) or self._head(question.domain), question, read)

    def _learned(self, domain: str) -> Head | None:
        with self._lock:
            state = self._domains.get(domain)
            return state.head if state else None

    def _predict(self, head: Head, question: Question, read: Read) -> Expected:
        return expected(head, self._features.get((question.domain, question.stem), read), question.box, read())

    def settle(self) -> None:
        """Wait until all added questions are learned."""
        self._worker.submit(lambda: None).result()

    def close(self) -> None:
        self._closed = True
        self._worker.shutdown(wait=False, cancel_futures=True)
        self._features.close()

    def _learn(self) -> None:
        with self._lock:
            entries, self._queue = list(self._queue.values()), {}
        for domain in dict.fromkeys(entry.question.domain for entry in entries):
            with self._guarded(f"the guesses of {domain}"):
                self._refit(domain, [entry for entry in entries if entry.question.domain == domain])

    @contextmanager
    def _guarded(self, source: str) -> Iterator[None]:
        """Log an error, so that guesses learn from the other answers. Answers are saved in any case."""
        try:
            yield
        except Exception:
            if not self._closed:
                logging.getLogger(__name__).exception("The guesses do not learn from %s", source)

    def _refit(self, domain: str, entries: list[_AnsweredQuestion]) -> None:
        own_head, state = self._head(domain), self._domains.setdefault(domain, _Domain())
        classes = len(own_head.bias)
        for entry in entries:
            question = entry.question
            state.answers.pop(question.id, None)
            with self._guarded(f"question {question.id} ({question})"):
                values = entry.standing()
                if values is not None:
                    features = self._features.get((domain, question.stem), entry.read)
                    state.answers[question.id] = cells_of(features, question.box, values, classes, CELLS_OF_ANSWER)
        while len(state.answers) > ANSWERS:
            state.answers.popitem(last=False)
        # Each fit reads one more labelled image, so that the first fit does not wait for all of them.
        for image in self._labelled(domain):
            key = domain, image.stem
            if key not in state.earlier:
                state.earlier[key] = Cells(np.zeros((0, len(own_head.weight)), np.float16), np.zeros(0, np.int64))
                with self._guarded(f"{domain}/{image.stem}"):
                    mask, features = image.mask(), self._features.get(key, image.read)
                    state.earlier[key] = cells_of(features, (0, 0, *mask.shape), mask, classes, CELLS_OF_IMAGE)
                break
        answers = [cells for cells in state.answers.values() if len(cells.label)]
        head = None
        if answers:
            all_cells = Cells.joined(answers)
            older = Cells(all_cells.values[:-CELLS], all_cells.label[:-CELLS])
            earlier = [*state.earlier.values(), older] if state.earlier else [older]
            head = fit(own_head, all_cells.last(CELLS), _evenly_some(Cells.joined(earlier), BEFORE))
        with self._lock:
            state.head = head
            self.version += 1


def _evenly_some(cells: Cells, most: int) -> Cells:
    """At most `most` of the cells, spread evenly."""
    chosen = _spread(len(cells.label), most)
    return Cells(cells.values[chosen], cells.label[chosen])


def _spread(count: int, most: int) -> np.ndarray:
    """At most `most` indices of `count`, spread evenly from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64))
