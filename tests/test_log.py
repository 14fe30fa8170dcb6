"""What happened in a run, line by line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from fewmask.engine.log import Log


def lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_are_appended_and_go_on_where_the_state_is(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = Log(path)
    for step in (10, 20, 30):
        log.write({"step": step, "loss": 1 / step})
    with open(path, "a") as file:
        file.write('{"step": 40, "lo')  # a kill in the middle of a line
    Log(path).keep(20)
    assert [line["step"] for line in lines(path)] == [10, 20]
    log.write({"step": 21, "loss": 0.5})
    assert [line["step"] for line in lines(path)] == [10, 20, 21]


def test_tensorboard_reads_the_same_numbers(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="an extra")
    log = Log(tmp_path / "metrics.jsonl", tensorboard=True)
    log.write({"step": 10, "phase": "train", "loss": 0.75, "validation": {"a": 0.5}})
    log.write({"step": 20, "phase": "train", "loss": 0.5})
    log.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(10, 0.75), (20, 0.5)]


def test_without_the_extra_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"train\.tensorboard.*pip install \"fewmask\[tensorboard\]\""):
        Log(tmp_path / "metrics.jsonl", tensorboard=True)
    Log(tmp_path / "metrics.jsonl").write({"step": 1})
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 1}]
