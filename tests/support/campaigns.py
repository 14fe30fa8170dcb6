"""Tiny campaigns on disk, what people would answer, and what a campaign left behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ondisk import plain, weights_of

from fewmask.annotation.folder import read_answers, write_questions
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Answer, Question
from fewmask.config import Config
from fewmask.data.domain import Domain, read_mask
from fewmask.data.pictures import write_mask
from fewmask.engine.run import load_domains
from fewmask.labels import NOT_LABELLED
from fewmask.methods import parse_config
from fewmask.runs import RunFolder

SQUARES = {"regions": "squares:16", "budget": {"amount": 700, "unit": "pixels"}}
BY_CHANCE = {**SQUARES, "score": "random"}


def settings_of(
    data: Path,
    method: str | Mapping[str, Any] = "joint",
    domains: Sequence[str] = ("a", "b"),
    labelled: int | None = 1,
    train: Mapping[str, Any] | None = None,
    **campaign: Any,
) -> dict[str, Any]:
    """A campaign of short trainings of the smallest network, with the oracle, as plain data."""
    made = plain(data, method, **{"steps": 2, "batch_size": 2, "unlabelled_batch_size": 2, **(train or {})})
    made["domains"] = {name: {"layout": "folder", "root": str(data / name)} for name in domains}
    made["labelled"] = {"images": labelled}
    made["campaign"] = {"rounds": 3, "annotator": "oracle", "pool": {"scales": [1.0]}, **campaign}
    return made


def settings(data: Path, *arguments: Any, **options: Any) -> Config:
    return parse_config(settings_of(data, *arguments, **options))


def questions_of(folder: Path, number: int | None = None, open_only: bool = False) -> list[Question]:
    with Ledger(RunFolder(folder).ledger) as ledger:
        return ledger.questions(number, open_only)


def identities(questions: Sequence[Question]) -> list[tuple[Any, ...]]:
    """What was asked, with the pixels, in the order of asking."""
    return [
        (q.round, q.domain, q.stem, q.kind, q.region, q.box, q.inside.tobytes(), q.score, q.cost, q.guess)
        for q in questions
    ]


def answers(folder: Path) -> list[tuple[Any, ...]]:
    with Ledger(RunFolder(folder).ledger) as ledger:
        return [(a.question, a.kind, a.values is not None and a.values.tobytes()) for a in ledger.answers()]


def assert_same_campaign(one: Path, other: Path) -> None:
    """Bit for bit the same networks, questions and answers, and the same numbers but for the time."""
    expected, got = weights_of(one), weights_of(other)
    assert expected.keys() == got.keys()
    assert not [name for name in expected if not expected[name].equal(got[name])]
    assert identities(questions_of(one)) == identities(questions_of(other))
    assert sorted(answers(one)) == sorted(answers(other))
    assert files_of(one / "labels") == files_of(other / "labels")
    assert timeless(read(one / "campaign.json")) == timeless(read(other / "campaign.json"))


def read(path: Path) -> dict[str, Any]:
    import json

    return json.loads(path.read_text(encoding="utf-8"))


def timeless(summary: Any) -> Any:
    if isinstance(summary, dict):
        of_time = ("seconds", "score_pool_seconds", "memory_mib")
        return {key: timeless(value) for key, value in summary.items() if key not in of_time}
    return [timeless(value) for value in summary] if isinstance(summary, list) else summary


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("[!.]*")) if p.is_file()}


def paint(config: Config, run: Path, out: Path, only: slice = slice(None), who: str = "ann") -> None:
    """Answer some of the open questions from the masks, by way of a folder of PNGs."""
    domains = load_domains(config)
    with Ledger(RunFolder(run).ledger) as ledger:
        for question in write_questions(ledger, domains, out)[only]:
            domain = domains[question.domain]
            path = out / question.domain / "labels" / f"{question.stem}.png"
            painted = domain.space.encode(read_mask(path), path)
            truth = question.crop(domain.mask(question.stem))
            np.copyto(question.window(painted), truth, where=truth != NOT_LABELLED)
            write_mask(path, painted, domain.space)
        read_answers(ledger, domains, out, who)


def skip(run: Path, questions: Sequence[Question]) -> None:
    with Ledger(RunFolder(run).ledger) as ledger:
        ledger.answer([Answer(q.id, "ann", f"skip {q.id}", kind="skip") for q in questions])


def masks_of(domain: Domain) -> dict[str, np.ndarray]:
    return {stem: domain.mask(stem) for stem in domain.labelled}


STUDENT = {"name": "s4al-plus", "confidence": 0.0, "contrast": {"weight": 0}}


class Stop(Exception):
    """What an interrupted campaign ends with."""


class Stops:
    """Raises Stop once after every call of every patched function, by its name and what it is about; of some before."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch, self.known = patch, set[tuple[str, ...]]()

    def at(self, where: Any, name: str, about: Callable[..., str], before: bool = False) -> None:
        call = getattr(where, name)

        def stopping(*arguments: Any, **options: Any) -> Any:
            if before:
                self._once(name, "before", about(*arguments))
            result = call(*arguments, **options)
            self._once(name, "after", about(*arguments))
            return result

        self.patch.setattr(where, name, stopping)

    def _once(self, *point: str) -> None:
        if point not in self.known:
            self.known.add(point)
            raise Stop(" ".join(point))
