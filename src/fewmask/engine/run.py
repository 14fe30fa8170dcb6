"""The folder of a run, which explains itself: its configuration, what happened, what came out, and how to go on."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from fewmask import config as configuration
from fewmask import distributed
from fewmask.config import Config, Full
from fewmask.data.domain import Domain
from fewmask.data.layouts import load_domain
from fewmask.engine.checkpoint import save_weights
from fewmask.engine.counts import ImageCounts, write_counts
from fewmask.files import hold, is_unfinished, remove_unfinished, write_json, write_text
from fewmask.methods import read_config
from fewmask.models import saved
from fewmask.models.ensemble import Ensemble
from fewmask.models.saved import load_model as load_model
from fewmask.models.universal import UniversalSegmenter
from fewmask.outcome import MOVABLE
from fewmask.paths import below

PACKAGES = ("fewmask", "torch", "timm", "segmentation-models-pytorch", "opencv-python-headless", "numpy")
LOCK = ".run.lock"


@dataclass(frozen=True)
class Run:
    """Paths of a run's folder."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        return self.folder / "summary.json"

    @property
    def counts(self) -> Path:
        """What the summary's scores were computed from, image by image."""
        return self.folder / "scores.npz"

    @property
    def card(self) -> Path:
        return self.folder / "model-card.md"

    @property
    def weights(self) -> Path:
        return self.folder / saved.WEIGHTS

    @property
    def model(self) -> Path:
        return self.folder / saved.DESCRIPTION

    @property
    def state(self) -> Path:
        return self.folder / "state" / "last.pt"

    def kept(self, name: str) -> Path:
        """The weights of a further network of the method, see `Method.kept`."""
        return below(self.folder, name, ending=".safetensors")

    def phase(self, name: str) -> Path:
        """The network at the end of a phase that another one followed: what it was before, say, its alignment."""
        return below(self.folder / "phases", name, ending=".safetensors")

    def best(self, step: int) -> Path:
        """The weights of a step that validation found the best so far. The state says which step, and until it says
        another, this one's file stays."""
        return self.folder / "state" / f"best-{step:d}.safetensors"

    def held(self) -> AbstractContextManager[None]:
        """While inside, no other process writes the run. Raises ValueError that says which one does; readers never
        ask."""
        return hold(self.folder / LOCK, "is being written", "wait for its end, or give another --out")


def open_run(folder: Path, config: Config) -> Run:
    """A folder for this configuration: a new one, or the same run's, which goes on where it stopped.

    Raises ValueError for a folder that holds anything else, or a run of another configuration. A new one is first
    written to by `begin`, so that settings which turn out not to fit leave no folder behind.
    """
    run = Run(folder)
    if run.config.exists():
        there = read_config(run.config)
        different = _differences(essence(there), essence(config))
        if different:
            data = (
                f". Has the data moved? Then write its new `root` into {run.config}" if _only_roots(different) else ""
            )
            raise ValueError(
                f"{folder}: holds a run of another configuration ({'; '.join(different)}); give another --out, or the "
                f"same settings to go on with it{data}"
            )
    elif folder.exists() and (not folder.is_dir() or _holds_something(folder)):
        raise ValueError(f"{folder}: not empty and not a run; give another --out")
    return run


def begin(run: Run, config: Config) -> AbstractContextManager[None]:
    """While inside, the folder is a run of this configuration that these processes alone write: without what a kill
    left unfinished in it, and held by the first of them.

    Raises ValueError where another process holds it, or has made something else of it since `open_run`.
    """
    return distributed.entered_by_first(_begun(run, config))


@contextmanager
def _begun(run: Run, config: Config) -> Iterator[None]:
    with run.held():
        open_run(run.folder, config)
        remove_unfinished(run.folder)
        if not run.config.exists():
            write_text(run.config, configuration.dump(config))
        yield


def load_config(folder: Path) -> Config:
    """The resolved configuration of a run. Raises ValueError when the folder holds none."""
    path = Run(folder).config
    if not path.exists():
        raise ValueError(f"{folder}: not a run (no config.yaml); give a folder of `fewmask train` or `campaign`")
    try:
        return read_config(path)
    except ValueError as error:
        raise ValueError(f"{error}\n  A run wrote this file; was it another version of fewmask, use that one") from None


def load_summary(run: Run) -> dict[str, Any]:
    """What a finished run came to. Raises ValueError for a damaged file."""
    try:
        return json.loads(run.summary.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{run.summary}: damaged ({error}); remove it and go on, or train the run again") from None


def trained_domains(folder: Path) -> tuple[str, ...]:
    """The domains whose heads a finished run trained. Raises ValueError for a run without a summary."""
    run = Run(folder)
    if not run.summary.exists():
        raise ValueError(f"{folder}: not finished (no summary.json); train it to its end")
    summary = load_summary(run)
    return tuple(summary.get("trained", summary["domains"]))  # older runs wrote down only what they scored


def load_domains(config: Config) -> dict[str, Domain]:
    """The domains of a configuration with their labelled images chosen by its seed. All faults are raised at once."""
    domains, problems = {}, []
    for name, settings in config.domains.items():
        try:
            domains[name] = load_domain(name, settings).with_labelled(config.labelled.images, config.seed)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    return domains


def save_model(run: Run, model: UniversalSegmenter) -> None:
    """`model.safetensors` and `model.json`, which are all that prediction needs."""
    save_weights(run.weights, model.state_dict())
    write_json(run.model, describe(model))


def describe(model: UniversalSegmenter) -> dict[str, Any]:
    """Label spaces, architecture and normalisation as plain data."""
    # The run's own weights replace the pretrained ones, and LoRA is merged into them.
    settings = model.settings.model_copy(update={"weights": None, "tuning": Full()})
    return {
        "domains": {name: space.to_dict() for name, space in model.spaces.items()},
        "model": settings.model_dump(mode="json"),
        **({"members": model.members} if isinstance(model, Ensemble) else {}),
        "normalisation": {
            "mean": model.mean.flatten().tolist(),
            "std": model.std.flatten().tolist(),
            "range": [0, 255],
        },
        "versions": versions(),
    }


def record_evaluation(folder: Path, split: str, result: Mapping[str, Any]) -> None:
    """Note in the run's folder that a split was looked at and what was seen: how often test was, stays known."""
    with open(Run(folder).folder / "evaluations.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"split": split, **result}) + "\n")


def record_counts(folder: Path, result: Mapping[str, Any], counts: Mapping[str, ImageCounts]) -> None:
    """Give a run without `scores.npz`, from before there was one, what was counted in each image, if it is what the
    run's summary says."""
    run = Run(folder)
    if run.summary.exists() and not run.counts.exists():
        summary = json.loads(run.summary.read_text(encoding="utf-8"))
        if summary["domains"] == result["domains"]:
            write_counts(run.counts, counts)


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def hardware(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"device": device.type, "name": name, "threads": torch.get_num_threads()}


def _holds_something(folder: Path) -> bool:
    """Whether there is more in a folder than what a run leaves that is killed before it has begun."""
    return any(path.name != LOCK and not is_unfinished(path) for path in folder.iterdir())


def essence(config: Config) -> dict[str, Any]:
    """A configuration as plain data, without what may differ between a run and its continuation."""
    data = config.model_dump(mode="json", serialize_as_any=True)
    for key in MOVABLE:
        *rooms, name = key.split(".")
        at: dict[str, Any] | None = data
        for room in rooms:
            at = at and at[room]  # not every run is a campaign
        if at:
            del at[name]
    return data


def _only_roots(different: Sequence[str]) -> bool:
    return all(difference.partition(":")[0].endswith(".root") for difference in different)


def _differences(a: Mapping[str, Any], b: Mapping[str, Any], at: str = "") -> list[str]:
    found = []
    for key in [*a, *(k for k in b if k not in a)]:
        one, other = a.get(key), b.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += _differences(one, other, f"{at}{key}.")
        elif one != other:
            found.append(f"{at}{key}: {one!r} there, {other!r} here")
    return found
