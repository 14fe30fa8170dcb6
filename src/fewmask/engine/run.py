"""The start and the resumption of a run: its folder, its configuration, its datasets, its network."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from fewmask import config as configuration
from fewmask import distributed
from fewmask.config import Config, Full, ModelSettings
from fewmask.data.domain import Domain
from fewmask.data.domains import load_domains as load_domains
from fewmask.engine.checkpoint import save_weights
from fewmask.files import remove_unfinished, write_text
from fewmask.models.ensemble import Ensemble
from fewmask.models.saved import load_model as load_model
from fewmask.models.universal import UniversalSegmenter
from fewmask.paths import AnyPath
from fewmask.runs import Description, Normalisation, RunFolder, differences, essence, only_roots

PACKAGES = ("fewmask", "torch", "timm", "segmentation-models-pytorch", "opencv-python-headless", "numpy")


def open_run(folder: Path, config: Config, other: bool = False) -> RunFolder:
    """A folder for this configuration: a new one, or that of the same run, which is resumed. With `other` the caller
    has checked that the run may be resumed with other settings.

    Raises ValueError for a folder that holds anything else, or a run of another configuration. `begin_run` is the first
    to write to a new folder, so that settings which do not fit leave no folder behind.
    """
    run = RunFolder(folder)
    if run.config.exists():
        existing = config if other else run.load_config()
        different = differences(essence(existing), essence(config))
        if different:
            data = f". If the data has moved, write its new `root` into {run.config}" if only_roots(different) else ""
            raise ValueError(
                f"{folder}: holds a run of another configuration ({'; '.join(different)}); give another --out, or the "
                f"same settings to go on with it{data}"
            )
    elif folder.exists() and (not folder.is_dir() or run.holds_something):
        raise ValueError(f"{folder}: not empty and not a run; give another --out")
    return run


def begin_run(run: RunFolder, config: Config, other: bool = False) -> AbstractContextManager[None]:
    """Inside this context the folder is a run of this configuration, and only these processes write to it. The first
    process holds it, after unfinished files of a killed run were removed.

    Raises ValueError where another process holds the folder, or has changed it since `open_run`.
    """
    return distributed.enter_in_first(_begun(run, config, other))


@contextmanager
def _begun(run: RunFolder, config: Config, other: bool) -> Iterator[None]:
    with run.held():
        open_run(run.folder, config, other)
        remove_unfinished(run.folder)
        if not run.config.exists():
            write_text(run.config, configuration.dump(config))
        yield


def load_config(folder: AnyPath) -> Config:
    """The resolved configuration of a run. Raises ValueError when the folder holds none."""
    return RunFolder(Path(folder)).load_config()


def build_network(settings: ModelSettings, domains: Mapping[str, Domain], seed: int) -> UniversalSegmenter:
    """A new network for these domains. Raises ValueError as `UniversalSegmenter` does."""
    inputs = {name: domain.input for name, domain in domains.items()}
    model = UniversalSegmenter(settings, {name: domain.space for name, domain in domains.items()}, seed, inputs)
    model.sizes = {name: domain.size for name, domain in domains.items()}
    return model


def save_model(run: RunFolder, model: UniversalSegmenter) -> Description:
    """Write `model.safetensors` and `model.json`. Prediction needs no other file."""
    description = describe(model, save_weights(run.weights, model.state_dict()))
    run.write_record(run.model, description)
    return description


def describe(model: UniversalSegmenter, digest: str) -> Description:
    """Label spaces, architecture, normalisation, and the SHA-256 of the weights."""
    return Description(
        domains={name: space.to_dict() for name, space in model.spaces.items()},
        sizes=dict(model.sizes),
        # The run's weights replace the pretrained ones, and LoRA is merged into them.
        model=model.settings.model_copy(update={"weights": None, "tuning": Full()}),
        **_where_not_usual(model),
        normalisation=Normalisation(
            mean=model.mean.flatten().tolist(), std=model.std.flatten().tolist(), range=(0, 255)
        ),
        versions=versions(),
        weights=digest,
    )


def _where_not_usual(model: UniversalSegmenter) -> dict[str, Any]:
    """The fields of a description that are left out if they have their usual values."""
    unusual: dict[str, Any] = {"members": model.members} if isinstance(model, Ensemble) else {}
    return unusual if all(one.plain for one in model.inputs.values()) else {**unusual, "inputs": dict(model.inputs)}


def versions() -> dict[str, str]:
    """The versions of the packages that a result depends on."""
    by_package = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            by_package[package] = version(package)
        except PackageNotFoundError:
            by_package[package] = "absent"
    return by_package


def hardware(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"device": device.type, "name": name, "threads": torch.get_num_threads()}


def came_to(run: RunFolder) -> dict[str, Any]:
    """The summary that the first process wrote, in all processes. The others may not see the first one's disk."""
    summary: dict[str, Any] = distributed.call_in_first(lambda: run.read_summary().to_dict())
    return summary
