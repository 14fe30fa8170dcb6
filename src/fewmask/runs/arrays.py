"""How files of arrays of a run (`.npz`) are written and read: with a format number, and with one kind of error."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fewmask.files import write_atomically
from fewmask.runs.reading import FORMAT, check_format, told

# What zipfile and numpy raise for damaged files: cut, changed, or with a header that claims what is not there.
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
    """All arrays of a file. Raises ValueError for a missing, damaged or foreign file and for one of a newer version.

    `needed` are names that must be there, with the number of dimensions of each; `others` says to read the rest too.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            wanted = [name for name in stored.files if others or name == "format" or name in (needed or ())]
            found = {name: stored[name] for name in wanted}
    except FileNotFoundError:
        raise ValueError(f"{path}: missing; {fix}") from None
    except DAMAGED as error:
        raise ValueError(f"{path}: damaged ({told(error)}); {fix}") from None
    except OSError as error:  # numpy raises it for a file that is no archive, without a number
        reason = f"cannot be read ({error.strerror})" if error.strerror else f"damaged ({told(error)})"
        raise ValueError(f"{path}: {reason}; {fix}") from None
    number = found.pop("format", np.array(""))
    check_format(number.item() if number.ndim == 0 else None, path, fix)
    for name, dimensions in (needed or {}).items():
        if name not in found or found[name].ndim != dimensions:
            raise ValueError(f"{path}: damaged (no array {name!r} of {dimensions} dimensions); {fix}")
    return found
