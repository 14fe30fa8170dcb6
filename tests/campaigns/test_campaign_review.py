"""The gallery of a campaign that trains on pseudo-labels: its stored predictions order the answers.

Shapes: h×w pixels of a region's box.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from campaigns import SQUARES, STUDENT, questions_of, settings

from fewmask.acquisition.self_confidence import mean_self_confidence
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.page.review import Filter, Review
from fewmask.annotation.page.service import LabellingService, Run
from fewmask.annotation.questions import Answer
from fewmask.annotation.verdicts import Verdict
from fewmask.campaigns import campaign
from fewmask.data.pseudo import STEPS, PseudoFolder
from fewmask.engine.run import load_domains
from fewmask.labels import NOT_LABELLED
from fewmask.runs import RunFolder


def test_answers_are_ordered_by_the_pool_pass_and_a_rejected_one_is_not_learnt_from(data: Path, tmp_path: Path) -> None:
    config = settings(data, STUDENT, ["a"], annotator="people", ask=SQUARES, rounds=3)
    run, domains = RunFolder(tmp_path / "run"), load_domains(config)
    assert campaign(config, run.folder)["state"] == "waiting"
    questions, classes = questions_of(run.folder, 1), domains["a"].space.num_classes
    assert len(questions) > 1
    pool, scores = PseudoFolder(run.pseudo(1).folder / "a"), {}
    with Ledger(run.ledger) as ledger:
        for question in questions:
            values = np.where(question.inside, np.uint8(question.id % classes), np.uint8(NOT_LABELLED))
            (number,) = ledger.answer([Answer(question.id, "ann", f"token-{question.id}", values)])
            prediction = pool.read(question.stem)
            assert prediction is not None
            label, confidence = (question.window(part) for part in prediction)
            scores[number] = mean_self_confidence(values, label, confidence / np.float32(STEPS), classes)
    review = Review(LabellingService(Run("run", run.ledger, domains, "pixels")))
    listing = review.listing(Filter())
    assert dict(listing.sources) == {"pool": len(questions)}
    assert list(listing.ids) == sorted(scores, key=lambda n: (scores[n], n))
    assert {card.id: card.score for card in review.cards(listing.ids)} == scores

    # Without the worst answer the round waits again, and with another one in its place it goes on.
    worst = listing.ids[0]
    (asked_about,) = (q for q, number in zip(questions, scores, strict=True) if number == worst)
    with Ledger(run.ledger) as ledger:
        ledger.judge(Verdict(worst, "cyd", "reject", "verdict-1"))
    assert campaign(config, run.folder)["open"] == 1
    truth = (asked_about.id + 1) % classes
    with Ledger(run.ledger) as ledger:
        values = np.where(asked_about.inside, np.uint8(truth), np.uint8(NOT_LABELLED))
        ledger.answer([Answer(asked_about.id, "ann", "token-again", values)])
    waiting = campaign(config, run.folder)
    assert (waiting["state"], waiting["round"]) == ("waiting", 2)
    with Ledger(run.ledger) as ledger:
        learnt = ledger.labels("a", asked_about.stem, run.read_record(1).up_to)
    assert (asked_about.window(learnt)[asked_about.inside] == truth).all()

    # The pool's predictions are gone now, and a new gallery compares with the class that was asked with.
    assert "pool" not in Review(LabellingService(Run("run", run.ledger, domains, "pixels"))).listing(Filter()).sources
