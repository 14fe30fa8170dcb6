"""A reviewer at the gallery, in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from browsing import Person, Server, profile, violations

from fewmask.annotation.questions import Answer
from fewmask.labels import NOT_LABELLED

pytestmark = [pytest.mark.slow, pytest.mark.browser]


def answered(server: Server, *entries: tuple[str, int]) -> list[int]:
    """Answer the questions in order, each with one class, by the annotator with that name. Returns the ids."""
    with server.ledger as ledger:
        ids = []
        for (who, value), question in zip(entries, ledger.questions(), strict=False):
            values = np.where(question.inside, np.uint8(value), np.uint8(NOT_LABELLED))
            ids += ledger.answer([Answer(question.id, who, f"{who}-{question.id}-{value}", values)])
        return ids


class Reviewer:
    def __init__(self, context: Any, server: Server) -> None:
        self.page, self.server = context.new_page(), server
        self.page.goto(f"{server.link}review")
        self.page.fill("#name", "cyd")
        self.listed()

    def listed(self) -> None:
        self.page.wait_for_selector('#cards[aria-busy="false"]', state="attached")

    def shown(self) -> list[int]:
        return [int(n) for n in self.page.locator(".card").evaluate_all("nodes => nodes.map((n) => n.dataset.answer)")]

    def focused(self) -> int:
        return int(self.page.evaluate("document.activeElement.closest('.card')?.dataset.answer ?? 0"))

    def look(self, answer: int) -> None:
        """Choose a card, and look at it for long enough to judge it by a key."""
        self.page.focus(f'.card[data-answer="{answer}"]')
        self.page.wait_for_selector(f'.card[data-answer="{answer}"][data-seen]')

    def becomes(self, answer: int, state: str) -> None:
        self.page.wait_for_selector(f'.card[data-answer="{answer}"][data-state="{state}"]')

    def filter(self, field: str, label: str) -> list[int]:
        self.page.select_option(field, label=label)
        self.listed()
        return self.shown()


def test_answers_are_filtered_judged_and_asked_again(nearby: Callable[..., Any], context: Any) -> None:
    server = nearby("squares:24")
    guess, wrong, other = answered(server, ("ann", 1), ("bob", 2), ("ann", 3))
    reviewer = Reviewer(context, server)
    page = reviewer.page
    assert reviewer.shown() == [wrong, other, guess]  # the guess is class 1
    assert "by the class that the question was asked with" in page.inner_text("#order")
    assert reviewer.filter("#person", "bob") == [wrong]
    assert reviewer.filter("#person", "anybody") == [wrong, other, guess]
    names = page.locator("#class option").all_inner_texts()
    assert reviewer.filter("#class", names[4]) == [other]  # class 3, after "any"
    assert reviewer.filter("#class", "any") == [wrong, other, guess]

    asked_about = {answer.id: answer.question for answer in server.answers()}
    page.click(f'.card[data-answer="{wrong}"] button:text-is("Reject")')
    reviewer.becomes(wrong, "rejected")
    page.click(f'.card[data-answer="{guess}"] button:text-is("Accept")')
    reviewer.becomes(guess, "accepted")
    with server.ledger as ledger:
        assert asked_about[wrong] in {question.id for question in ledger.questions(open_only=True)}
        assert [(v.answer, v.kind, v.reviewer) for v in ledger.verdicts()] == [
            (wrong, "reject", "cyd"),
            (guess, "accept", "cyd"),
        ]
    page.reload()
    reviewer.listed()
    assert reviewer.shown() == [other]
    assert page.input_value("#name") == "cyd"
    assert reviewer.filter("#reviewed", "rejected") == [wrong]
    assert reviewer.filter("#reviewed", "accepted") == [guess]

    # The page asks the rejected question again, of whoever comes first.
    person = Person(context, server, None)  # the gallery and the page have one name
    while person.shown != asked_about[wrong]:
        person.then("ArrowRight")
    person.press("r", "3", "3")
    person.then("Enter")
    person.saved()
    assert server.words()[asked_about[wrong]].annotator == "cyd"


def test_a_rejected_question_opens_on_a_page_that_is_open(nearby: Callable[..., Any], context: Any) -> None:
    server = nearby("points")
    count = len(server.questions())
    ids = answered(server, *[("ann", 1)] * count)
    person = Person.__new__(Person)
    person.page, person.server = context.new_page(), server
    person.page.goto(server.link)
    person.page.fill("#name", "dan")
    person.page.click("#options-form button")
    person.page.wait_for_selector("#end:not([hidden])")
    reviewer = Reviewer(context, server)
    reviewer.page.click(f'.card[data-answer="{ids[2]}"] button:text-is("Reject")')
    reviewer.becomes(ids[2], "rejected")
    person.page.bring_to_front()
    person.ready(server.answers()[2].question)


def test_the_keyboard_does_everything(nearby: Callable[..., Any], context: Any) -> None:
    server = nearby("squares:24")
    ids = answered(server, *[("ann", 2)] * 9)
    reviewer = Reviewer(context, server)
    page = reviewer.page
    order = reviewer.shown()
    assert sorted(order) == ids
    page.focus("#opacity")
    page.keyboard.press("Tab")
    assert reviewer.focused() == order[0]
    reviewer.look(order[0])
    page.keyboard.press("a")
    reviewer.becomes(order[0], "accepted")
    assert reviewer.focused() == order[1]
    page.keyboard.press("r")  # too early: nobody has looked at it
    reviewer.look(order[1])
    page.keyboard.press("c")
    page.keyboard.type("arc")  # which are keys of the page elsewhere
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector(".comments")
    assert page.inner_text(".comments") == "cyd: arc"
    assert reviewer.focused() == order[1]
    reviewer.look(order[1])
    page.keyboard.press("r")
    reviewer.becomes(order[1], "rejected")
    assert reviewer.focused() == order[2]
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert reviewer.focused() == order[0]
    reviewer.look(order[1])
    page.keyboard.press("u")
    reviewer.becomes(order[1], "open")
    assert "rejection undone (cyd)" in page.inner_text(f'.card[data-answer="{order[1]}"]')
    assert {question.id for question in server.questions()} == {answer.question for answer in server.words().values()}
    page.click(f'.card[data-answer="{order[1]}"] button:text-is("Reject")')
    reviewer.becomes(order[1], "rejected")
    assert page.locator('.card[data-state="rejected"] button').all_inner_texts() == ["Undo rejection", "Comment"]
    assert violations(page) == []
    page.focus(f'.card[data-answer="{order[0]}"]')
    columns = page.evaluate(
        "() => { const nodes = [...document.querySelectorAll('.card')];"
        "return nodes.filter((node) => node.offsetTop === nodes[0].offsetTop).length; }"
    )
    page.keyboard.press("ArrowDown")
    assert reviewer.focused() == order[columns]
    page.keyboard.press("ArrowUp")
    assert reviewer.focused() == order[0]
    page.keyboard.down("h")
    assert page.locator(".card canvas:visible").count() == 0
    page.keyboard.up("h")
    assert page.locator(".card canvas:visible").count() > 0
    with server.ledger as ledger:
        kinds = [(verdict.kind, verdict.comment) for verdict in ledger.verdicts()]
        assert kinds == [("accept", ""), ("comment", "arc"), ("reject", ""), ("restore", ""), ("reject", "")]

    # The comment is there after a reload, as text.
    page.reload()
    reviewer.listed()
    reviewer.filter("#reviewed", "rejected")
    assert page.inner_text(".comments") == "cyd: arc"


def test_a_verdict_waits_for_a_server_that_was_killed(nearby: Callable[..., Any], context: Any) -> None:
    server = nearby("squares:24")
    (number,) = answered(server, ("ann", 2))
    reviewer = Reviewer(context, server)
    server.kill()
    reviewer.page.click('.card button:text-is("Accept")')
    reviewer.page.wait_for_selector("#notice button")
    assert "not saved" in reviewer.page.inner_text("#notice")
    server.start()
    reviewer.page.click("#notice button")
    reviewer.becomes(number, "accepted")
    with server.ledger as ledger:
        assert len(ledger.verdicts()) == 1


def test_many_answers_come_a_page_at_a_time(nearby: Callable[..., Any], context: Any) -> None:
    server = nearby("squares:24")
    question = server.questions()[0]
    values = np.where(question.inside, np.uint8(2), np.uint8(NOT_LABELLED))
    with server.ledger as ledger:
        ledger.answer([Answer(question.id, f"p{i}", f"many-{i:04}", values) for i in range(130)])
    reviewer = Reviewer(context, server)
    page = reviewer.page
    assert "130 of 130 answers" in page.inner_text("#order")
    assert len(reviewer.shown()) < 130
    page.focus('.card[tabindex="0"]')
    while len(reviewer.shown()) < 130:  # the arrows lead through all of them
        page.keyboard.press("ArrowDown")
    assert page.is_hidden("#more")
    assert len(reviewer.shown()) == len(set(reviewer.shown())) == 130


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 720), (390, 844)])
def test_axe_finds_nothing_at_the_gallery(
    nearby: Callable[..., Any], browser: Any, width: int, height: int, scheme: str
) -> None:
    server = nearby("squares:24")
    first, second, _ = answered(server, ("ann", 1), ("bob", 2), ("ann", 3))
    with profile(browser, width, height, color_scheme=scheme) as context:
        reviewer = Reviewer(context, server)
        page = reviewer.page
        problems = {"gallery": violations(page)}
        page.click(f'.card[data-answer="{first}"] button:text-is("Comment")')
        problems["comment"] = violations(page)
        page.fill("#comment", "the kerb is missing")
        page.click("#commenting button[value=save]")
        page.wait_for_selector(".comments")
        page.click(f'.card[data-answer="{second}"] button:text-is("Reject")')
        reviewer.becomes(second, "rejected")
        reviewer.look(second)
        page.keyboard.press("r")  # a second time
        page.wait_for_selector("#notice:not([hidden])")
        problems["judged"] = violations(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        reviewer.filter("#person", "bob")
        problems["empty"] = violations(page)
        assert not any(problems.values()), problems
