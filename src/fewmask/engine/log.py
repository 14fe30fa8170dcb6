"""The log of a run: the lines of `metrics.jsonl`, and TensorBoard if it is configured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewmask.runs import metrics


class Log:
    """Appends lines, each a mapping with a `step`, to a file and to TensorBoard."""

    def __init__(self, path: Path, tensorboard: bool = False) -> None:
        """Raises ValueError when TensorBoard is configured and not installed."""
        self.path = path
        self._writer: Any = None
        self._board: Any = board_writer() if tensorboard else None

    def begin(self, step: int, validated: bool = True) -> None:
        """Continue after a step. Lines that a killed run wrote after that step are removed, so that no step is logged
        twice. Unless the step is `validated`, its validation is removed too."""
        metrics.cut_after(self.path, step, validated)
        if self._board is not None:
            self._writer = self._board(str(self.path.parent / "tensorboard"), purge_step=step + 1)

    def write(self, line: Mapping[str, Any]) -> None:
        metrics.append(self.path, line)
        if self._writer is not None:
            for name, value in line.items():
                if isinstance(value, int | float) and name != "step":
                    self._writer.add_scalar(name, value, line["step"])
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def board_writer() -> Any:
    """TensorBoard's writer. Raises ValueError where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        fix = 'pip install "fewmask[tensorboard]", or leave it out'
        raise ValueError(f"train.tensorboard: it is not installed; {fix}") from None
    return SummaryWriter
