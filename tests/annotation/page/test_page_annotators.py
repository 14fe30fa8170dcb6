"""Two annotators at the labelling page, each question being asked of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pages
import pytest
from browsing import Person, Server

from fewmask.annotation.ledger import Ledger
from fewmask.config import AnswerSettings

pytestmark = [pytest.mark.slow, pytest.mark.browser]


def test_each_question_is_asked_of_two_annotators_and_of_neither_twice(tmp_path: Path, browser: Any) -> None:
    """With a server that is killed, with two windows of one annotator, and with a third one who comes too late."""
    server = Server(tmp_path / "run", pages.__file__, tmp_path / "run", "points", 2)
    profiles = [browser.new_context() for _ in range(3)]
    try:
        ann = Person(profiles[0], server, "ann")
        questions = {question.id for question in server.questions()}
        assert ann.page.inner_text("#counts").startswith("0 of 9 · 18 clicks left")
        for _ in questions:
            ann.then("1")
        ann.saved()
        assert "9 questions wait for other annotators" in ann.page.inner_text("#end")
        assert "9 of 9 · " not in ann.page.inner_text("#counts")

        bob = Person(profiles[1], server, "bob")
        assert not bob.page.is_visible("#notice")  # that ann has answered is no reason not to
        for _ in range(4):
            bob.then("2")
        bob.saved()
        server.kill()
        bob.then("2")
        assert bob.page.get_attribute("#saved", "data-state") != "saved"
        server.start()
        bob.saved()
        second = Person(profiles[1], server, None)  # bob's other window; it knows his name
        while not second.page.is_visible("#end"):
            second.then("3")
        second.saved()
        assert "No question is open any more" in second.page.inner_text("#end")
        assert "wait for other" not in second.page.inner_text("#end")

        late = profiles[2].new_page()
        late.goto(server.link)
        late.fill("#name", "cyd")
        late.click("#options-form button")
        late.wait_for_selector("#end:not([hidden])")

        answers = server.answers()
        assert sorted((answer.question, answer.annotator) for answer in answers) == sorted(
            (number, name) for number in questions for name in ("ann", "bob")
        )
        with Ledger(server.folder / "ledger.sqlite", AnswerSettings(each=2)) as ledger:
            assert ledger.questions(open_only=True) == []
    finally:
        for profile in profiles:
            profile.close()
        server.kill()


def test_whoever_sits_down_next_paints_his_own(tmp_path: Path, browser: Any) -> None:
    server = Server(tmp_path / "run", pages.__file__, tmp_path / "run", "squares:16", 2)
    profile = browser.new_context()
    try:
        person = Person(profile, server, "ann")
        first = person.shown
        person.press("3", "3")
        assert "100 % painted" in person.page.inner_text("#state")
        person.page.click("#settings")
        person.page.fill("#name", "bob")
        person.page.click("#options-form button")
        person.page.wait_for_function("() => !document.querySelector('#state').textContent")
        person.ready(first)
        person.then("Enter")
        person.saved()
        (answer,) = server.answers()
        assert (answer.annotator, answer.question) == ("bob", first)
        (question,) = (q for q in server.questions() if q.id == first)
        guess = pages.expected(pages.streets().image(question.stem), len(pages.streets().space.names))[0]
        np.testing.assert_array_equal(answer.values, question.crop(guess))
    finally:
        profile.close()
        server.kill()
