"""Predictions of a trained network for the images that are asked about. They are computed beside the page and kept on
the disk.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np

from fewmask.annotation.page.features import Features
from fewmask.annotation.page.learning import Head
from fewmask.data.domain import Domain
from fewmask.data.pseudo import PseudoFolder, quantise
from fewmask.files import Written
from fewmask.labels import Mask
from fewmask.paths import below

FOLDER = "guesses"
"""Of a run, where they are kept."""

Read = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Predictor:
    """A trained network, as far as the page knows it."""

    version: str
    """Of its weights; a name for a folder."""
    predict: Callable[[str, np.ndarray], tuple[Mask, np.ndarray]]
    """The name of a domain and an image (H,W,3) uint8 → the most likely class (H,W) uint8, its probability (H,W)."""
    encode: Callable[[np.ndarray], Features] | None = None
    """An image (H,W,3) uint8 → what the network makes of it, for smart select."""
    head: Callable[[str], Head] | None = None
    """The name of a domain → what makes classes of that."""


class Guesses:
    """Guesses by domain and stem. One image is computed at a time, in a thread of its own; each once a network."""

    def __init__(self, folder: Path, predictor: Predictor) -> None:
        """Removes from the folder the predictions of earlier networks that were written here."""
        self._root, self._predictor, self._written = below(folder, predictor.version), predictor, Written(folder)
        self._written.remove(n for n in self._written.names() if not n.startswith(f"{predictor.version}/"))
        self._worker = ThreadPoolExecutor(1, "guess")
        self._begun: dict[tuple[str, str], Future[None]] = {}
        self._lock = Lock()

    def of(self, domain: str, stem: str, read: Read) -> tuple[Mask, np.ndarray]:
        """The most likely class (H,W) uint8 and its confidence (H,W) uint8, of `data.pseudo.quantise`.

        Waits until it is computed; `read` gives the image where that has to be done. Raises what the network raises.
        """
        files = PseudoFolder(below(self._root, domain), written=self._written)
        with self._lock:
            begun = self._begun.get((domain, stem))
            if begun is None or (begun.done() and begun.exception() is not None):
                begun = self._begun[domain, stem] = self._worker.submit(self._compute, files, domain, stem, read)
        begun.result()
        guess = files.read(stem)
        assert guess is not None
        return guess

    def _compute(self, files: PseudoFolder, domain: str, stem: str, read: Read) -> None:
        if not files.has(stem):
            label, probability = self._predictor.predict(domain, read())
            files.write(stem, label, quantise(probability))

    def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class Guessed:
    """A domain's guesses as its pseudo-labels: what tools are told that the network expects."""

    guesses: Guesses
    domain: Domain

    def read(self, stem: str) -> tuple[Mask, np.ndarray]:
        """See `Guesses.of`."""
        return self.guesses.of(self.domain.name, stem, lambda: self.domain.image(stem))
