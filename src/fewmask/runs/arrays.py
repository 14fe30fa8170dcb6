"""Writing and reading a run's files of arrays (`.npz`), with a format number and one kind of error."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fewmask.files import write_atomically
from fewmask.runs.reading import FORMAT, check_format, error_summary

# zipfile and numpy raise these for files that are cut, changed, or have a wrong header.
DAMAGED = (
    *(ValueError, KeyError, TypeError, IndexError, EOFError, OverflowError, RecursionError, MemoryError),
    *(NotImplementedError, RuntimeError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], compressed: bool = False) -> None:
    save = np.savez_compressed if compressed else np.savez
    all_arrays = {"format": np.array(FORMAT), **arrays}
    write_atomically(path, lambda file: save(file, **all_arrays))  # type: ignore[arg-type]


def read_arrays(
    path: Path, fix: str, needed: Mapping[str, int] | None = None, others: bool = True
) -> dict[str, np.ndarray]:
    """All arrays of a file. Raises ValueError for a missing, damaged or foreign file, and for a newer format.

    `needed` maps the names of required arrays to their numbers of dimensions. `others` says to read all other arrays
    too.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            names = [name for name in stored.files if others or name == "format" or name in (needed or ())]
            arrays = {name: stored[name] for name in names}
    except FileNotFoundError:
        raise ValueError(f"{path}: missing; {fix}") from None
    except DAMAGED as error:
        raise ValueError(f"{path}: damaged ({error_summary(error)}); {fix}") from None
    except OSError as error:  # for a file that is no archive, numpy raises it without an error number
        reason = f"cannot be read ({error.strerror})" if error.strerror else f"damaged ({error_summary(error)})"
        raise ValueError(f"{path}: {reason}; {fix}") from None
    number = arrays.pop("format", np.array(""))
    check_format(number.item() if number.ndim == 0 else None, path, fix)
    for name, dimensions in (needed or {}).items():
        if name not in arrays or arrays[name].ndim != dimensions:
            raise ValueError(f"{path}: damaged (no array {name!r} of {dimensions} dimensions); {fix}")
    return arrays
