"""What the tutorials tell a reader to write and to type is written and typed here, in order, with few and small steps.

A block with a title is a file. A `console` block's lines that begin with `$` are commands; a Python block without a
title is a script. YAML without a title is a part of a configuration and is read as one.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import campaigns
import helpers
import pytest
import yaml
from command import Done, Fewmask
from doc_blocks import DOCS, Block, blocks, commands
from ondisk import two_domains, write_config, write_domain

import fewmask
from fewmask import methods
from fewmask.engine.run import load_config
from fewmask.methods import parse_config, read_config

# What a page shows stays as it is but for its size: few steps, few images, a small network.
TINY = ["train.steps=2", "train.batch_size=2", "train.workers=0", "train.device=cpu", "train.precision=fp32"]


class Reader:
    """Does what a page says, in the working folder."""

    def __init__(self, folder: Path, fewmask: Fewmask, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.fewmask, self.monkeypatch = folder, fewmask, monkeypatch
        self.outputs: list[str] = []

    def follow(self, page: str) -> None:
        for block in blocks(page):
            if block.title:
                (self.folder / block.title).write_text(self.smaller(block), encoding="utf-8")
            elif block.kind == "python":
                self.script("unnamed.py", block.text)
            elif block.kind == "yaml":
                assert_is_configuration(yaml.safe_load(block.text))
            for words in commands(block) if block.kind == "console" else []:
                self.type(words)

    def smaller(self, block: Block) -> str:
        if not block.title or not block.title.endswith(".yaml"):
            return re.sub(r"train=\d+, val=\d+, test=\d+", "train=5, val=2, test=2", block.text).replace(
                "MASKS = 24", "MASKS = 3"
            )
        data = yaml.safe_load(block.text)
        parse_config(data)
        for domain in data["domains"].values():
            domain.update({"train": 5, "val": 2, "test": 2} if domain["layout"] == "scenes" else {})
        if "model" in data:
            data["model"]["encoder"] = helpers.ENCODER
        if data.get("labelled", {}).get("images"):
            data["labelled"]["images"] = 2
        for ask in ("first", "ask"):
            if "campaign" in data:
                data["campaign"][ask]["budget"]["amount"] = 4
        return yaml.safe_dump(data)

    def script(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")
        runpy.run_path(name, run_name="__main__")

    def type(self, words: list[str]) -> None:
        if words[0] == "fewmask":
            self.call(*words[1:])
        elif words[0] == "pytest":
            for name, test in runpy.run_path(words[1]).items():
                if name.startswith("test_"):
                    test()
        else:
            assert words[0] == "python", words
            self.monkeypatch.setattr(sys, "argv", [*words[1:], *TINY])
            runpy.run_path(words[1], run_name="__main__")

    def call(self, verb: str, *words: str) -> Done:
        if verb == "answer" and "--from" not in words:
            return self.answer(Path(words[0]))
        if verb == "answer":
            campaigns.paint(load_config(Path(words[0])), Path(words[0]), Path(words[2]))
        done = self.fewmask(verb, *words, *(TINY if verb in ("train", "campaign") else []))
        assert done.code == 0, done.err
        self.outputs.append(done.out)
        return done

    def answer(self, run: Path) -> Done:
        """In the place of people before the labelling page: half of what is asked, from the scenes' own masks."""
        campaigns.paint(load_config(run), run, self.folder / "painted", slice(2))
        return Done(0, "", "")


def assert_is_configuration(part: dict[str, object]) -> None:
    """It is one when what is missing is added, or it says which id is which class."""
    if "classes" in part:
        assert set(part) == {"ignore", "classes"}
        return
    scenes = {"streets": {"layout": "scenes", "kind": "streets"}}
    parse_config({"name": "part", "domains": scenes, "method": "joint", **part})


@pytest.fixture
def reader(tmp_path: Path, fewmask: Fewmask, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    tables = methods.METHODS, methods.SETTINGS
    before = [dict(table) for table in tables]
    modules = set(sys.modules)
    yield Reader(tmp_path, fewmask, monkeypatch)
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)  # type: ignore[arg-type]
    for name in sys.modules.keys() - modules:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.slow
def test_own_data(reader: Reader) -> None:
    reader.follow("tutorials/own-data.md")
    assert "9 images, 7 masks, 2 images without a mask" in reader.outputs[0]
    assert "train 5, val 2, test 2; 3 labelled" in reader.outputs[1]
    assert Path("runs/mine/model.onnx").exists()
    assert len(list(Path("predictions/masks").iterdir())) == len(list(Path("predictions-too/masks").iterdir())) == 9


@pytest.mark.slow
def test_several_datasets(reader: Reader) -> None:
    two_domains(reader.folder / "unused")
    (reader.folder / "unused/a/images").rename("pictures")
    reader.follow("tutorials/universal.md")
    assert len(list(Path("predictions/masks").iterdir())) == len(list(Path("pictures").iterdir()))


@pytest.mark.slow
def test_a_campaign_with_people(reader: Reader) -> None:
    reader.follow("tutorials/campaign.md")
    first = reader.outputs[0]
    for line in next(b for b in blocks("tutorials/campaign.md") if "waits for answers" in b.text).text.splitlines():
        words = line.removeprefix("$ ").replace("30 questions", "4 questions")
        assert re.sub(r"in \d+ images", "", words)[:40].split(" --out")[0] in re.sub(r"in \d+ images", "", first)
    assert any("Round 3 of 3 waits for answers" in output for output in reader.outputs)


@pytest.mark.slow
def test_adding_a_method(reader: Reader) -> None:
    reader.follow("adding-a-method.md")
    assert load_config(Path("runs/max-squares")).method.weight == 0.2
    assert load_config(Path("runs/strong")).method.weight == 1
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name, value in project["entry-points"]["fewmask.methods"].items():
        assert EntryPoint(name, value, "fewmask.methods").load().name == name


def test_the_reference_has_every_name_of_the_package() -> None:
    page = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
    assert not [name for name in fewmask.__all__ if f"fewmask.{name}" not in page]


@pytest.mark.parametrize("page", ["faq.md", "scaling-out.md"])
def test_a_command_has_options_that_exist_and_settings_that_are_read(page: str, tmp_path: Path) -> None:
    """Of commands about a reader's own runs, which are not here."""
    from typer.main import get_command

    from fewmask.cli import app

    write_domain(tmp_path / "a")
    domains = {"a": {"layout": "folder", "root": str(tmp_path / "a")}}
    config = write_config(tmp_path / "my.yaml", {"name": "my", "domains": domains, "method": "joint", "campaign": {}})
    text = "\n".join(block.text for block in blocks(page)) + (DOCS / page).read_text(encoding="utf-8")
    verbs = get_command(app)
    count = 0
    for line in re.findall(r"^(?:\$ )?(?:.*-m fewmask|fewmask) (.*)$", text, re.MULTILINE):
        verb, *words = shlex.split(line, comments=True)
        if "$@" in words or verb.startswith("--"):
            continue
        command = verbs.commands[verb]  # type: ignore[attr-defined]
        given = command.make_context(verb, words, resilient_parsing=False).params
        read_config(config, given.get("overrides") or [])
        count += 1
    assert count > 2


@pytest.mark.parametrize("name", ["train.slurm", "seeds.slurm"])
def test_a_slurm_script_starts_what_it_says(name: str, tmp_path: Path) -> None:
    """Slurm's programs and torchrun are stood in for by ones that say what they were given."""
    script = next(block.text for block in blocks("scaling-out.md") if block.title == name)
    (tmp_path / name).write_text(script, encoding="utf-8")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").touch()
    programs = {"srun": 'exec "$@"', "scontrol": "echo node1; echo node2"}
    for program in ("torchrun", "fewmask"):
        programs[program] = f'echo {program} "$@"'
    for program, does in programs.items():
        (tmp_path / program).write_text(f"#!/bin/sh\n{does}\n", encoding="utf-8")
        (tmp_path / program).chmod(0o755)
    slurm = {"JOB_ID": "7", "NNODES": "2", "GPUS_ON_NODE": "4", "JOB_NODELIST": "node[1-2]", "ARRAY_TASK_ID": "1"}
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"} | {f"SLURM_{key}": v for key, v in slurm.items()}
    done = subprocess.run(
        ["bash", name, "configs/my.yaml", "train.steps=5"],
        cwd=tmp_path,
        env=environment,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.strip()
        == {
            "train.slurm": "torchrun --nnodes 2 --nproc-per-node 4 --rdzv-id 7 --rdzv-backend c10d "
            "--rdzv-endpoint node1:29500 -m fewmask train configs/my.yaml train.steps=5",
            "seeds.slurm": "fewmask train configs/my.yaml train.steps=5 seed=1 --out runs/my-1",
        }[name]
    )
