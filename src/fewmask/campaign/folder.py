"""The folder of a campaign."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fewmask.engine.run import Run


@dataclass(frozen=True)
class Campaign:
    """Paths of a campaign's folder, which is a run's folder too: it holds the last round's model."""

    folder: Path

    def check(self) -> Self:
        """Raises ValueError where the folder holds a training that is no campaign's."""
        run = Run(self.folder)
        if not self.ledger.exists() and (run.summary.exists() or run.state.parent.exists()):
            raise ValueError(f"{self.folder}: holds a run of `fewmask train`, which asks nothing; give another --out")
        return self

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.sqlite"

    @property
    def labels(self) -> Path:
        """The answers as masks, by domain; a view of the ledger."""
        return self.folder / "labels"

    @property
    def superpixels(self) -> Path:
        return self.folder / "superpixels"

    @property
    def summary(self) -> Path:
        return self.folder / "campaign.json"

    def round(self, number: int) -> Run:
        return Run(self.folder / "rounds" / f"{number:02d}")

    def record(self, number: int) -> Path:
        """What a round knew when its training began."""
        return self.folder / "rounds" / f"{number:02d}.json"

    def pool(self, number: int) -> Path:
        """What was seen of the pool before a round."""
        return self.folder / "pool" / f"{number:02d}"

    def budget(self, number: int) -> Path:
        """What a round might have asked for in all."""
        return self.pool(number) / "budget.json"
