"""The guesses: predictions of a trained network for the asked images, computed in the background and kept on the disk.

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
from fewmask.annotation.page.head import Head
from fewmask.data.domain import Domain
from fewmask.data.pseudo import PseudoFolder, quantise
from fewmask.files import Written
from fewmask.labels import Mask
from fewmask.paths import below

FOLDER = "guesses"
"""The folder of a run in which the guesses are kept."""

Read = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Predictor:
    """The functions of a trained network that the page uses."""

    version: str
    """The version of its weights, which is valid as the name of a folder."""
    predict: Callable[[str, np.ndarray], tuple[Mask, np.ndarray]]
    """Maps a domain's name and an image (H,W,3) uint8 to the most likely class (H,W) uint8 and its probability
    (H,W)."""
    encode: Callable[[str, np.ndarray], Features] | None = None
    """Maps a domain's name and an image (H,W,C) uint8 to the image's features, for smart select."""
    head: Callable[[str], Head] | None = None
    """Maps a domain's name to the head that makes classes from features."""


class Guesses:
    """The guesses by domain and stem. A separate thread computes one image at a time, once for each network."""

    def __init__(self, folder: Path, predictor: Predictor) -> None:
        """Removes the predictions of earlier networks from the folder."""
        self._root, self._predictor, self._written = below(folder, predictor.version), predictor, Written(folder)
        self._written.remove(n for n in self._written.names() if not n.startswith(f"{predictor.version}/"))
        self._worker = ThreadPoolExecutor(1, "guess")
        self._futures: dict[tuple[str, str], Future[None]] = {}
        self._lock = Lock()

    def get(self, domain: str, stem: str, read: Read) -> tuple[Mask, np.ndarray]:
        """The most likely class (H,W) uint8 and its confidence (H,W) uint8, of `data.pseudo.quantise`.

        Waits until the guess is computed from the image that `read` gives. Raises what the network raises.
        """
        files = self._files(domain)
        with self._lock:
            future = self._futures.get((domain, stem))
            if future is None or (future.done() and future.exception() is not None):
                future = self._futures[domain, stem] = self._worker.submit(self._compute, files, domain, stem, read)
        future.result()
        guess = files.read(stem)
        assert guess is not None
        return guess

    def stored(self, domain: str, stem: str) -> tuple[Mask, np.ndarray] | None:
        """The guess of `get` where it was computed; otherwise None."""
        files = self._files(domain)
        return files.read(stem) if files.has(stem) else None

    def _files(self, domain: str) -> PseudoFolder:
        return PseudoFolder(below(self._root, domain), written=self._written)

    def _compute(self, files: PseudoFolder, domain: str, stem: str, read: Read) -> None:
        if not files.has(stem):
            label, probability = self._predictor.predict(domain, read())
            files.write(stem, label, quantise(probability))

    def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class Guessed:
    """A domain's guesses in the place of its pseudo-labels, for annotation tools."""

    guesses: Guesses
    domain: Domain

    def read(self, stem: str) -> tuple[Mask, np.ndarray]:
        """See `Guesses.get`."""
        return self.guesses.get(self.domain.name, stem, lambda: self.domain.image(stem))
