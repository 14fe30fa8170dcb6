"""What a run's folder tells of its settings and of its end, by its files alone: a campaign's counts all its rounds."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

# Settings that may differ between a run and its continuation, or its seeds: they say where to compute, or what to tell,
# and not what comes out.
MOVABLE = (
    *(
        f"train.{key}"
        for key in ("device", "workers", "tensorboard", "log_every", "checkpoint_every", "checkpoint_minutes")
    ),
    "campaign.pool.batch_size",
    "campaign.target",
)
SUMMARY = "summary.json"
CAMPAIGN = "campaign.json"
LEDGER = "ledger.sqlite"


def finished(folder: Path) -> bool:
    """Whether a run has come to its end. A campaign that goes on has the summary of its latest round already."""
    if not (folder / SUMMARY).exists():
        return False
    if not (folder / CAMPAIGN).exists():
        return not (folder / LEDGER).exists()
    return bool(_read(folder / CAMPAIGN)["state"] == "done")


def trainings(folder: Path) -> list[dict[str, Any]]:
    """The summaries of the trainings behind a run's network: its own or, of a campaign, one for each round that there
    was. Raises ValueError where a round's is gone."""
    if not (folder / CAMPAIGN).exists():
        return [_read(folder / SUMMARY)]
    rounds = [entry["round"] for entry in _read(folder / CAMPAIGN)["history"]]
    return [_read(folder / "rounds" / f"{number:02d}" / SUMMARY) for number in rounds]


def took(folder: Path) -> dict[str, Any]:
    """`seconds` of all that came before a run's network, in a campaign looks at the pool too where they are known,
    `steps` of all its trainings and their largest `memory_mib`, null if unknown."""
    found = trainings(folder)
    memory = [m for one in found if (m := one.get("memory_mib")) is not None]
    history = _read(folder / CAMPAIGN)["history"] if (folder / CAMPAIGN).exists() else []
    return {
        "seconds": sum(one["seconds"] for one in found) + sum(e.get("look_seconds") or 0 for e in history),
        "steps": sum(one["steps"] for one in found),
        "memory_mib": max(memory, default=None),
    }


def labelled_pixels(folder: Path) -> dict[str, int] | None:
    """By domain, the pixels that a campaign's network was trained on; None of a run that is none."""
    history = _read(folder / CAMPAIGN)["history"] if (folder / CAMPAIGN).exists() else []
    found: dict[str, int] | None = history[-1].get("pixels") if history else None
    return found


def settings_of(folder: Path) -> dict[str, Any]:
    """By dotted key, what the seeds of one method have in common: no seed, no name, nothing of the machine."""
    found = flat(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
    return {key: value for key, value in found.items() if key not in ("seed", "name", *MOVABLE)}


def flat(data: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Nested settings by dotted key. Of a path its last name counts: the same data lies elsewhere on every machine."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{at}{key}.")
        else:
            found[f"{at}{key}"] = Path(value).name if isinstance(value, str) and os.path.isabs(value) else value
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: gone; what a campaign took is that of all its rounds, so keep their files") from None
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); remove it and go on, or train the run again") from None
    return found
