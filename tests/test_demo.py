"""The demo, small: what it leaves behind, and that it goes on."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fewmask import cli, demo
from fewmask.data.domain import read_image
from fewmask.engine.fit import ProgressEvent
from fewmask.reports import space


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    domains = {kind: {**d, "train": 6, "val": 2, "test": 3} for kind, d in demo.SETTINGS["domains"].items()}
    train = {**demo.SETTINGS["train"], "steps": 4, "batch_size": 3, "workers": 0, "checkpoint_every": 1}
    settings: dict[str, Any] = {**demo.SETTINGS, "domains": domains, "train": train, "labelled": {"images": 3}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "SETTINGS", settings)
        patch.setattr(space, "POINTS", 100)
        patch.setattr(space, "ITERATIONS", 250)
        yield


@pytest.fixture(scope="module")
def done(small: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a demo, and what it returned."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, demo.compare(folder)


def test_both_methods_are_trained_scored_and_shown(done: tuple[Path, dict[str, Any]]) -> None:
    folder, result = done
    assert list(result["runs"]) == ["joint", "univ-full"]
    for method, run in result["runs"].items():
        assert set(run["domains"]) == {"streets", "rooms", "countryside"}
        assert run["labelled"] == {"streets": 3, "rooms": 3, "countryside": 3}
        overlays = list((folder / method / "overlays").iterdir())
        assert len(overlays) == 3 * demo.SHOWN
    assert "univ-full − joint" in Path(result["report"]).read_text(encoding="utf-8")
    picture = read_image(Path(result["picture"]))
    assert picture.std() > 20
    assert json.loads((folder / "summary.json").read_text())["runs"].keys() == result["runs"].keys()


def test_an_interrupted_demo_goes_on(tmp_path: Path) -> None:
    def stop(event: ProgressEvent) -> None:
        if event.run == "univ-full" and event.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo.compare(tmp_path, stop)
    steps: list[tuple[str, int]] = []
    demo.compare(tmp_path, lambda m: steps.append((m.run, m.step)) if m.stage != "evaluate" else None)
    assert steps == [("univ-full", 3), ("univ-full", 4)]


def test_the_verb_prints_the_table_of_both(
    done: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a demo whose runs are done, which it finds."""
    monkeypatch.setattr(sys, "argv", ["fewmask", "demo", "--out", str(done[0])])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code in (0, None)
    out = capsys.readouterr().out
    for word in ("joint", "univ-full", "streets", "rooms", "countryside", "mean"):
        assert word in out
