"""What happened in a run, line by line: `metrics.jsonl`, and TensorBoard where it is wanted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewmask.files import write_text


class Log:
    """Appends lines, each a mapping with a `step`, to a file and to TensorBoard."""

    def __init__(self, path: Path, tensorboard: bool = False) -> None:
        """Raises ValueError when TensorBoard is wanted and not installed."""
        self.path = path
        self._writer: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                mend = 'pip install "fewmask[tensorboard]", or leave it out'
                raise ValueError(f"train.tensorboard: it is not installed; {mend}") from None
            self._writer = SummaryWriter(str(path.parent / "tensorboard"))

    def write(self, line: Mapping[str, Any]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._writer is not None:
            for name, value in line.items():
                if isinstance(value, int | float) and name != "step":
                    self._writer.add_scalar(name, value, line["step"])
            self._writer.flush()

    def keep(self, step: int) -> None:
        """Cut what a killed run had logged after the step that it resumes from, so that no step is logged twice."""
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            write_text(self.path, "".join(line + "\n" for line in lines if _step_of(line) <= step))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):  # the half line of a kill in the middle of a write
        return float("inf")
