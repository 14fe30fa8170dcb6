"""What a run's folder tells of its end, by its files alone: a campaign's counts all its rounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
    """`seconds` and `steps` of all trainings behind a run's network, and the largest `memory_mib`, null if unknown."""
    found = trainings(folder)
    memory = [m for one in found if (m := one.get("memory_mib")) is not None]
    return {
        "seconds": sum(one["seconds"] for one in found),
        "steps": sum(one["steps"] for one in found),
        "memory_mib": max(memory, default=None),
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: gone; what a campaign took is that of all its rounds, so keep their files") from None
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); remove it and go on, or train the run again") from None
    return found
