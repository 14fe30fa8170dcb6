"""Layouts, scores and tools of installed packages: the examples of docs/plug-ins.md, and what is wrong with one."""

from __future__ import annotations

import shutil
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import annotating
import numpy as np
import pytest
import torch
import yaml
from ondisk import plain
from PIL import Image

import fewmask
from fewmask import plugins
from fewmask.acquisition.scores import known_scores
from fewmask.annotation.tools import known_tools, recognise
from fewmask.config.domains import installed_layouts
from fewmask.config.loading import dump

EXAMPLES = Path(__file__).parents[1] / "examples" / "plugins"
PROJECT = tomllib.loads((EXAMPLES / "pyproject.toml").read_text(encoding="utf-8"))
CACHES = (installed_layouts, known_scores, known_tools)


def install(monkeypatch: pytest.MonkeyPatch, points: list[EntryPoint]) -> None:
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point for point in points if point.group == group])
    for cached in CACHES:
        cached.cache_clear()


@pytest.fixture(autouse=True)
def nothing_stays_installed() -> Iterator[None]:
    yield
    for cached in CACHES:
        cached.cache_clear()
    for name in PROJECT["tool"]["setuptools"]["py-modules"]:
        sys.modules.pop(name, None)


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """As though the package of the examples were installed."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    groups = PROJECT["project"]["entry-points"]
    install(monkeypatch, [EntryPoint(n, v, group) for group, points in groups.items() for n, v in points.items()])


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 30
    assert file.stem in PROJECT["tool"]["setuptools"]["py-modules"]


def pairs(root: Path) -> Path:
    """A dataset in the layout of the example; the second image of train has no mask."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 1), ("test", 1)):
        (root / split).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(rng.integers(0, 255, (8, 9, 3), dtype=np.uint8)).save(root / split / f"{split}{number}.jpg")
            if number == 0:
                mask = Image.fromarray(rng.integers(0, 2, (8, 9), dtype=np.uint8))
                mask.save(root / split / f"{split}{number}.mask.png")
    classes = {"classes": {0: {"name": "road"}, 1: {"name": "sky"}}}
    (root / "classes.yaml").write_text(yaml.safe_dump(classes), encoding="utf-8")
    return root


@pytest.mark.usefixtures("examples")
def test_a_layout(tmp_path: Path) -> None:
    data = plain(tmp_path) | {"domains": {"mine": {"layout": "pairs", "root": str(pairs(tmp_path / "data"))}}}
    config = fewmask.parse_config(data)
    (domain,) = fewmask.load_domains(config).values()
    assert (domain.labelled, domain.unlabelled) == (("train0",), ("train1",))
    assert [mask.shape for _, mask in domain.dataset("test")] == [(8, 9)]
    assert fewmask.parse_config(yaml.safe_load(dump(config))) == config
    for part in ("domains", "held_out"):
        wrong = {**data["domains"]["mine"], "maks": "x", "other": 1}
        with pytest.raises(ValueError, match=rf"(?s){part}\.m\.maks: unknown key; did you mean mask\?") as error:
            fewmask.parse_config(data | {part: {"m": wrong}})
        keys = "absent, channels, depth, format, layout, mask, root, size, stretch, window"
        assert f"{part}.m.other: unknown key; remove it; there are {keys}" in str(error.value)
    with pytest.raises(ValueError, match=r"no such layout; take one of folder, .*, scenes, pairs"):
        fewmask.parse_config(data | {"domains": {"mine": {**data["domains"]["mine"], "layout": "piars"}}})


@pytest.mark.parametrize("value", [5, None, [1], "folder"])
def test_a_domain_that_is_no_mapping(value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"domains\.a: input should be a mapping of keys"):
        fewmask.parse_config(plain(tmp_path) | {"domains": {"a": value}})


@pytest.mark.parametrize("layout", [5, [1], {"a": 1}, True, "plug-in"])
def test_a_layout_that_is_no_name(layout: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"domains\.a\.layout: (there is no such layout|missing)"):
        fewmask.parse_config(plain(tmp_path) | {"domains": {"a": {"layout": layout, "root": "x"}}})


@pytest.mark.usefixtures("examples")
def test_a_score() -> None:
    logits = torch.tensor([[100.0, 0.0], [0.0, 0.0]]).T.reshape(1, 1, 2, 1, 2)
    assert known_scores()["gini"](logits).flatten().tolist() == pytest.approx([0.0, 0.5])


@pytest.mark.usefixtures("examples")
def test_a_tool(tmp_path: Path) -> None:
    assert recognise(tmp_path / "answers.tar.gz") == "tarball"
    assert recognise(tmp_path / "answers.zip") == "cvat"
    of, tool, folder = {"a": annotating.domain()}, known_tools()["tarball"], tmp_path / "questions"
    with annotating.ledger_with(of["a"], *annotating.three()) as ledger:
        assert len(tool.write_questions(ledger, of, folder)) == 3
        for path in (folder / "a" / "labels").iterdir():
            Image.fromarray(np.full(annotating.SIZE, 9, np.uint8)).save(path)
        sent_back = shutil.make_archive(str(tmp_path / "back"), "gztar", folder)
        tool.read_answers(ledger, of, Path(sent_back), "ann")
        assert not ledger.questions(open_only=True)
    with tarfile.open(tmp_path / "questions.tar.gz") as archive:
        assert "./questions.json" in archive.getnames()


@pytest.mark.parametrize(
    ("group", "name", "use"),
    [
        ("fewmask.layouts", "folder", installed_layouts),
        ("fewmask.scores", "entropy", known_scores),
        ("fewmask.tools", "cvat", known_tools),
    ],
)
def test_a_name_that_is_taken(group: str, name: str, use: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [EntryPoint(name, "json", group)])
    with pytest.raises(
        ValueError, match=f"'{name}' cannot be used .*of this name already; take another name.*uninstall"
    ):
        use()


def test_a_package_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [EntryPoint("mine", "no_such_module", "fewmask.scores")])
    with pytest.raises(ValueError, match=r"score 'mine' cannot be used \(ModuleNotFoundError.*fix or uninstall it"):
        known_scores()
