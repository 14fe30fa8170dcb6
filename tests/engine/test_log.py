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
    Log(path).begin(20)
    assert [line["step"] for line in lines(path)] == [10, 20]
    log.write({"step": 21, "loss": 0.5})
    assert [line["step"] for line in lines(path)] == [10, 20, 21]


def test_tensorboard_reads_the_same_numbers(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="an extra")
    log = Log(tmp_path / "metrics.jsonl", tensorboard=True)
    log.begin(0)
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


def test_what_is_logged_again_is_shown_once_by_tensorboard(tmp_path: Path) -> None:
    """Killed after step 5, which the state of step 3 does not know of; and once more before the first state."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="an extra")
    for first, last in ((0, 2), (0, 5), (3, 4), (3, 7)):
        log = Log(tmp_path / "metrics.jsonl", tensorboard=True)
        log.begin(first)
        for step in range(first + 1, last + 1):
            log.write({"step": step, "loss": 100.0 * last + step})
        log.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    shown = [(e.step, e.value) for e in events.Scalars("loss")]
    assert shown == [(line["step"], line["loss"]) for line in lines(tmp_path / "metrics.jsonl")]
    assert [step for step, _ in shown] == list(range(1, 8))


def test_a_validation_that_the_state_does_not_know_is_logged_again_and_not_twice(tmp_path: Path) -> None:
    log = Log(tmp_path / "metrics.jsonl")
    for line in ({"step": 2, "loss": 1.0}, {"step": 2, "validation": {}}, {"step": 4, "loss": 1.0}):
        log.write(line)
    log.write({"step": 4, "validation": {}})
    log.begin(4)
    assert len(lines(tmp_path / "metrics.jsonl")) == 4
    log.begin(4, validated=False)
    assert [("validation" in line, line["step"]) for line in lines(tmp_path / "metrics.jsonl")] == [
        (False, 2), (True, 2), (False, 4),
    ]  # fmt: skip
