"""Whole campaigns in a tree of files of other people, under any name: not a byte of theirs is changed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from campaigns import BY_CHANCE, SQUARES, settings_of
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ondisk import write_domain

from fewmask.annotation.ledger import Ledger
from fewmask.annotation.page.guesses import Guesses, Predictor
from fewmask.annotation.questions import Answer
from fewmask.annotation.tools import TOOLS
from fewmask.campaigns import campaign
from fewmask.config import Config
from fewmask.engine.fit import ProgressEvent
from fewmask.engine.run import load_domains
from fewmask.methods import parse_config
from fewmask.runs import RunFolder

HOSTILE = ["../data", "..", "", ".", "/", "a/b", "a\\b", ".git", "a\0", "CON", "x" * 300, "data/..", "./data", "~/a"]
FRIENDLY = ["mine", "labels", "images", "rounds", "questions", "größe 街", "a.b%2f", "-rf", "*.png"[1:], "x" * 100]
NAMES = st.one_of(st.sampled_from(HOSTILE), st.sampled_from(FRIENDLY), st.text(max_size=12))
# Beside what fewmask writes, under names like its own.
PLACES = [
    "labels/mine.png", "labels/{name}/mine.png", "labels/{name}/deep/mine.png", "labels/other/train0.png",
    "rounds/notes.txt", "pool/00/pseudo/mine.png",
    "pool/01/pseudo/{name}/mine.label.png", "guesses/notes.txt", "guesses/old/{name}/train0.label.png",
    "questions/mine.png", "questions/{name}/asked/mine.png", "questions/{name}/images/mine.png", ".a.tmp",
    ".fewmask-1.tmp", "superpixels/mine.npz",
]  # fmt: skip

IN_ROUNDS = ["state/notes.txt", "state/best-9.safetensors", "state/.last.pt.77.tmp", "notes.txt"]


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def config_of(name: str, data: Path) -> Config:
    method = {"name": "s4al-plus", "confidence": 0.0, "contrast": {"weight": 0}}
    plain = settings_of(data, method, [], 1, rounds=2, first=BY_CHANCE, ask=SQUARES, annotator="people")
    plain["domains"] = {name: {"layout": "folder", "root": str(data)}}
    plain["train"] |= {"crop": [32, 32], "steps": 2, "checkpoint_every": 1}
    return parse_config(plain)


def answer(config: Config, run: Path, taken_back: bool) -> None:
    """Answer what is open, and take one answer back, so that a view has to shrink."""
    with Ledger(RunFolder(run).ledger) as ledger:
        open_ = ledger.questions(open_only=True)
        values = [question.crop(load_domains(config)[question.domain].mask("train0") * 0) for question in open_]
        ids = ledger.answer([Answer(q.id, "ann", f"{q.id}", v) for q, v in zip(open_, values, strict=True)])
        if taken_back:
            back = ids[-len(ids) // 2 :]
            those = open_[-len(ids) // 2 :]
            ledger.answer(
                [Answer(q.id, "ann", f"-{q.id}", None, "retract", i) for q, i in zip(those, back, strict=True)]
            )


def live(name: str, tree: Path) -> bool:
    """A campaign with people from its beginning to its end; whether the name was taken."""
    data, run = tree / "data", tree / "runs" / "run"
    before = everything(tree)
    try:
        config = config_of(name, data)
    except ValueError:
        assert everything(tree) == before, "refused, but something was written"
        return False
    campaign(config, run)
    theirs = dict(before)

    def put(places: list[str]) -> None:
        for place in places:
            path = run / place.format(name=name)
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(f"theirs: {place}".encode())
                theirs[str(path)] = path.read_bytes()

    def meanwhile(event: ProgressEvent) -> None:
        put([f"rounds/{number}/{place}" for number in ("00", "01") for place in IN_ROUNDS
             if (run / "rounds" / number / "config.yaml").exists()])  # fmt: skip

    put(PLACES)
    domains = load_domains(config)
    with Ledger(RunFolder(run).ledger) as ledger:
        for tool in TOOLS.values():
            tool.write_questions(ledger, domains, run / "questions")
            # Where their dataset lies: whatever is in the way is told, and stays.
            with suppress(ValueError):
                tool.write_questions(ledger, domains, tree)
    Guesses(run / "guesses", Predictor("new", lambda domain, image: (image[..., 0], image[..., 0]))).close()
    answer(config, run, taken_back=True)
    campaign(config, run, meanwhile, enough=True)
    answer(config, run, taken_back=False)
    assert campaign(config, run, meanwhile, enough=True)["state"] == "done"
    with Ledger(RunFolder(run).ledger) as ledger:
        TOOLS["folder"].write_questions(ledger, domains, run / "questions")
    now = everything(tree)
    assert any("best-9" in path for path in theirs)
    lost = [path for path, content in theirs.items() if now.get(path) != content]
    assert not lost, f"removed or changed: {lost}"
    return True


def tree_of(folder: Path, name: str) -> Path:
    """A dataset among other things; its own folder is called as the domain may be."""
    write_domain(folder / "data", train=2, pool=2)
    for place in (
        "notes.txt",
        "mine/images/train0.png",
        "mine/classes.yaml",
        "runs/other/labels/mine/x.png",
        "a/b.png",
    ):
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(place.encode())
    return folder


CAMPAIGNS = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@given(NAMES)
@example("mine")
@example("data")
@example("../../data")
@settings(CAMPAIGNS, max_examples=4)
def test_a_campaign_changes_no_file_that_it_did_not_write(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    live(name, tree_of(tmp_path_factory.mktemp("tree"), name))


@pytest.mark.slow
@given(NAMES)
@settings(CAMPAIGNS, max_examples=25)
def test_many_campaigns_change_no_file_that_they_did_not_write(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    live(name, tree_of(tmp_path_factory.mktemp("tree"), name))
