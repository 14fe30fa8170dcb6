"""What a run's folder tells of its end, by its files alone."""

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


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); remove it and go on, or train the run again") from None
    return found
