"""A campaign whose questions wait for two annotators, who do not always agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import campaigns
import numpy as np
import pytest
from campaigns import questions_of
from ondisk import two_domains

from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Answer, Question
from fewmask.campaigns import campaign
from fewmask.campaigns.history import cost_model
from fewmask.data.domain import read_mask
from fewmask.document.model import Gallery, Table
from fewmask.engine.run import load_domains
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.reports.asking import budget
from fewmask.reports.regions import asked_regions
from fewmask.reports.reported_run import read_runs
from fewmask.runs import RunFolder

SQUARES = {"regions": "squares:16", "budget": {"amount": 60, "unit": "clicks"}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_domains(tmp_path_factory.mktemp("data"), train=4, pool=0)


def answer(run: Path, questions: list[Question], who: str, value: int) -> None:
    """As the page does it, one answer at a time."""
    for question in questions:
        values = np.where(question.inside, np.uint8(value), np.uint8(NOT_LABELLED))
        with Ledger(RunFolder(run).ledger) as ledger:
            ledger.answer([Answer(question.id, who, f"{who} {question.id} {value}", values, seconds=2.0)])


def test_a_round_waits_for_both_and_learns_what_they_agree_on(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    by_people: dict[str, Any] = {"annotator": "people", "first": {**SQUARES, "score": "random"}, "ask": SQUARES}
    rule = {"each": 2, "decide": "majority"}
    config = campaigns.settings(data, domains=["a"], labelled=0, rounds=2, answers=rule, **by_people)
    assert config.campaign is not None

    waiting = campaign(config, run)
    first = questions_of(run, 0)
    assert (waiting["state"], waiting["open"]) == ("waiting", len(first))
    clicks = cost_model(config.campaign).cost("squares", np.array([q.inside.sum() for q in first]), "clicks")
    np.testing.assert_allclose([q.cost for q in first], 2 * clicks)  # the work is done twice
    assert sum(q.cost for q in first) <= 60

    answer(run, first, "ann", 1)
    answer(run, first[:1], "ann", VOID)  # on second thoughts; she is one annotator all the same
    assert campaign(config, run)["open"] == len(first)
    answer(run, first[:3], "bob", 1)  # of which ann says void of the first
    assert campaign(config, run)["open"] == len(first) - 3
    answer(run, first[3:], "bob", 2)
    waiting = campaign(config, run)
    assert (waiting["state"], waiting["round"]) == ("waiting", 1)

    (entry,) = waiting["history"]
    agreed = first[1:3]
    assert entry["pixels"] == {"a": sum(int(q.inside.sum()) for q in agreed)}
    assert entry["cost"]["a"] == pytest.approx(sum(q.cost for q in first))  # also of what they dispute
    space = load_domains(config)["a"].space
    expected = {}
    for question in agreed:
        mask = expected.setdefault(question.stem, np.full((40, 48), NOT_LABELLED, np.uint8))
        question.window(mask)[question.inside] = 1
    files = sorted((run / "labels" / "a").glob("*.png"))
    assert {path.stem for path in files} == set(expected)
    for path in files:
        np.testing.assert_array_equal(space.encode(read_mask(path), path), expected[path.stem])

    # The report reads the answers by the same rule.
    with Ledger(RunFolder(run).ledger, config.campaign.answers) as ledger:
        decided = ledger.progress(0).pixels
    (by_round,) = (b for b in budget(read_runs([run])[0]).blocks if isinstance(b, Table) and b.caption == "By round")
    row = dict(zip(by_round.head, by_round.rows[0], strict=True))
    assert (row["answered"], row["open"], row["pixels decided"]) == (str(len(first)), "0", f"{decided:,}")
    assert decided == entry["pixels"]["a"] < sum(int(q.inside.sum()) for q in first)

    shown = asked_regions(read_runs([run])[0], load_domains(config), ())
    (gallery,) = (b for b in shown.blocks if isinstance(b, Gallery) and b.title.startswith("Round 1"))
    names = [row.name for row in gallery.rows]
    assert sum("undecided" in words for words in names) >= len(names) - len(agreed)
    assert not any("void" in words for words in names)  # a tie is not void, nor is what one of two calls so

    # A third annotator breaks ties; what the first round knew stays what it was.
    answer(run, first[3:], "cyd", 2)
    for who in ("ann", "bob"):
        answer(run, questions_of(run, 1), who, 0)
    done = campaign(config, run)
    assert done["state"] == "done" and done["history"][0] == entry
    assert done["history"][1]["pixels"]["a"] == sum(
        int(q.inside.sum()) for q in questions_of(run) if q.id != first[0].id
    )


@pytest.mark.parametrize(
    ("answers", "people", "message"),
    [
        ({"each": 2}, "oracle", "campaign.answers.each: the oracle is one annotator and answers once"),
        ({"trust": {"ann": 2}}, "people", "campaign.answers.trust: has no effect with decide: latest"),
        ({"decide": "trust", "trust": {"ann": -1}}, "people", "campaign.answers.trust"),
        ({"each": 0}, "people", "campaign.answers.each"),
    ],
)
def test_settings_that_cannot_be(
    data: Path, tmp_path: Path, answers: dict[str, Any], people: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        campaign(campaigns.settings(data, answers=answers, annotator=people, ask=SQUARES), tmp_path / "run")
    assert not (tmp_path / "run").exists()
