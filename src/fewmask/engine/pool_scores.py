"""The scores of a pass over the pool, and their files: one for each piece of the pool that is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fewmask.acquisition.selection import Candidates, concatenate
from fewmask.runs.arrays import read_arrays, write_arrays

_FIX = "remove it and go on with the same `fewmask campaign` command, which scores these images again"
# The arrays and their numbers of dimensions, in every piece, and in the pieces of a pass with a request.
_EVERY = {"stems": 1, "seconds": 0}
_ASKED = {"image": 1, "region": 1, "score": 1, "cost": 1, "group": 1, "scores": 1}


class PoolScores(NamedTuple):
    """The candidates of a pass, from which questions are chosen."""

    candidates: Candidates
    covered: np.ndarray | None = None
    """With `balance: diverse` the embeddings (A,D) float16 of regions with an answered or asked pixel. New questions
    keep away from these too."""
    score_sum: float = 0.0
    score_count: int = 0
    """The sum and the count are over all regions that may be asked for. They include regions that are no candidates
    because their image has better ones."""


def scored_stems(folder: Path) -> frozenset[str]:
    """The images of the pieces in `folder`."""
    return frozenset(stem for path in folder.glob("*.npz") for stem in _stems(path))


def scoring_seconds(folder: Path) -> float:
    """The seconds that the pieces in `folder` took, summed over processes."""
    return sum(float(read_arrays(path, _FIX, _EVERY, others=False)["seconds"]) for path in folder.glob("*.npz"))


def piece_path(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.npz"


def is_done(path: Path, stems: Sequence[str]) -> bool:
    """Whether the file of a piece exists. Raises ValueError when it is about other images."""
    if path.exists() and _stems(path) != list(stems):
        raise ValueError(
            f"{path}: scores of other images than the pool has now; images were added or removed since the pass began; "
            f"restore them, or remove {path.parent} and run the command again"
        )
    return path.exists()


def _stems(path: Path) -> list[str]:
    """The images of a piece."""
    stems: list[str] = read_arrays(path, _FIX, _EVERY, others=False)["stems"].tolist()
    return stems


def save_piece(path: Path, stems: Sequence[str], parts: Sequence[PoolScores], seconds: float) -> None:
    joined = concatenate_scores(parts) if parts else None  # there may be none of them
    arrays = {} if joined is None else {f.name: getattr(joined.candidates, f.name) for f in fields(Candidates)}
    if joined is not None:
        arrays |= {"covered": joined.covered, "scores": np.array([joined.score_sum, joined.score_count])}
    given = {name: values for name, values in arrays.items() if values is not None}
    write_arrays(path, given | {"stems": np.array(stems), "seconds": np.array(seconds)})


def load_piece(path: Path) -> PoolScores:
    arrays = read_arrays(path, _FIX, {**_EVERY, **_ASKED})
    columns = {name: arrays[name] for f in fields(Candidates) if (name := f.name) in arrays}
    if len({len(values) for values in columns.values()}) != 1 or arrays["scores"].shape != (2,):
        raise ValueError(f"{path}: damaged (its arrays are of different lengths); {_FIX}")
    return PoolScores(
        Candidates(**columns), arrays.get("covered"), float(arrays["scores"][0]), int(arrays["scores"][1])
    )


def concatenate_scores(parts: Sequence[PoolScores]) -> PoolScores:
    """Concatenate the scores of several images or pieces. All of them have `covered`, or none has."""
    covered = [part.covered for part in parts if part.covered is not None]
    return PoolScores(
        concatenate([part.candidates for part in parts]),
        np.concatenate(covered) if covered else None,
        sum(part.score_sum for part in parts),
        sum(part.score_count for part in parts),
    )
