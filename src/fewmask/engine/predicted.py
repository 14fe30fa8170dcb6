"""The folder of a prediction: the network and settings of its files, and the images that are done.

`prediction.json` describes the prediction. `predicted.jsonl` gets a line for each image when its files are complete. So
a stopped prediction resumes with the other images and still counts all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from fewmask.config.scale import Scale
from fewmask.data.volumes import file_of
from fewmask.engine.image_files import Item
from fewmask.files import hold, write_atomically, write_text
from fewmask.models.universal import UniversalSegmenter

RECORD, LINES, LOCK = "prediction.json", "predicted.jsonl", ".prediction.lock"


class Prediction(BaseModel):
    """The settings that determine the files of a prediction."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: str
    """SHA-256 of the network, see `fingerprint`."""
    domain: str
    sizes: dict[str, Scale]
    precision: str
    overlays: bool
    opacity: float
    images: str | tuple[str, ...]
    """The given folder or files."""
    upright: bool = False
    """Whether images were turned by their orientation tags."""
    forms: tuple[str, ...] = ()
    """The further forms that were written of this prediction."""


class Predicted(BaseModel):
    """An image whose files are complete."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str
    digest: str
    """BLAKE2b of the image's file."""
    domain: str
    """The domain of the classes in its mask."""
    pixels: tuple[int, ...]
    """The number of pixels of each class."""
    remarks: tuple[str, ...] = ()
    """Remarks on the image's pixels, for the user."""
    excess: dict[str, float] | None = None
    """The excess of each domain, with the domain "auto": see `generalise.Choice`."""


def fingerprint(model: UniversalSegmenter) -> str:
    """SHA-256 of a network's weights, statistics, label spaces and kinds of input."""
    digest = hashlib.sha256(repr([(n, s.to_dict()) for n, s in model.spaces.items()]).encode())
    if not all(one.plain for one in model.inputs.values()):
        digest.update(repr(model.inputs).encode())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().float().numpy().data)
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    """BLAKE2b of the file that holds an image. That of a volume is computed once for all of its slices."""
    file = file_of(path)
    if file == path:
        return _digest(file)
    state = file.stat()
    return _digest_of_volume(file, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4)
def _digest_of_volume(path: Path, changed: int, size: int) -> str:
    return _digest(path)


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); fix the path or its permissions") from None


def check_output(out: Path, prediction: Prediction) -> None:
    """Raises ValueError for a folder that holds anything but this prediction."""
    record = out / RECORD
    if not record.exists():
        if out.exists() and (not out.is_dir() or any(path.name != LOCK for path in out.iterdir())):
            raise ValueError(f"{out}: exists and is neither a prediction nor an empty folder; give another --out")
        return
    try:
        existing = Prediction.model_validate_json(record.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{record}: damaged ({error.error_count()} faults); give another --out") from None
    decisive = Prediction.model_fields.keys() - {"forms"}
    different = [name for name in sorted(decisive) if getattr(existing, name) != getattr(prediction, name)]
    if different:
        descriptions = {"network": "another network", "images": f"other images ({_short(existing.images)})"}
        changes = ", ".join(descriptions.get(name, f"{name} {getattr(existing, name)!r}") for name in different)
        raise ValueError(f"{out}: holds another prediction: {changes}; give another --out, or --overwrite")


def note_form(out: Path, form: str) -> tuple[str, ...]:
    """Record that a form of this prediction was written. Returns all such forms."""
    record = Prediction.model_validate_json((out / RECORD).read_bytes())
    if form not in record.forms:
        record = record.model_copy(update={"forms": (*record.forms, form)})
        write_text(out / RECORD, record.model_dump_json(indent=2) + "\n")
    return record.forms


@contextmanager
def hold_output(out: Path, prediction: Prediction, overwrite: bool = False) -> Iterator[None]:
    """Inside this context the folder belongs to this prediction, and only this process writes to it. Raises ValueError
    as `check_output`.

    `overwrite`: the files of another prediction in the folder are overwritten. No file is removed.
    """
    if not overwrite or not (out / RECORD).exists():
        check_output(out, prediction)
    with hold(out / LOCK, "is being written", "wait for its end, or give another --out"):
        if overwrite and (out / RECORD).exists():
            write_text(out / LINES, "")
            write_text(out / RECORD, prediction.model_dump_json(indent=2) + "\n")
        check_output(out, prediction)
        if not (out / RECORD).exists():
            write_text(out / RECORD, prediction.model_dump_json(indent=2) + "\n")
        yield


def read_predicted(out: Path, items: Sequence[Item]) -> dict[str, Predicted]:
    """The images that are done, by name. Raises ValueError for a damaged file, and for an image that has changed."""
    path = out / LINES
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    if lines.pop():  # the process was killed while it wrote a line
        complete = b"".join(line + b"\n" for line in lines)
        write_atomically(path, lambda file: file.write(complete))
    try:
        records = [Predicted.model_validate_json(line) for line in lines]
    except ValidationError as error:
        raise ValueError(f"{path}: damaged ({error.error_count()} faults); predict into another --out") from None
    done = {line.image: line for line in records}
    changed = [i for i in items if (line := done.get(i.name.as_posix())) and line.digest != digest_of(i.path)]
    if changed:
        raise ValueError(
            f"{changed[0].path}: has changed since {out} got its prediction "
            f"({len(changed)} of {len(items)} images have changed); give another --out, or --overwrite"
        )
    return done


def append_predicted(out: Path, line: Predicted) -> None:
    with open(out / LINES, "a", encoding="utf-8") as file:
        file.write(line.model_dump_json(exclude_none=True) + "\n")


def _short(images: str | Sequence[str]) -> str:
    return images if isinstance(images, str) else f"{len(images)} files"
