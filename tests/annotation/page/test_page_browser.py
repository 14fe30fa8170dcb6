"""The labelling page in a real browser: what a person clicks is what the ledger holds, whatever is killed meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import campaigns
import numpy as np
import pages
import pytest
from browsing import NAME, Person, Server

from fewmask.annotation.questions import Question
from fewmask.campaigns import campaign
from fewmask.engine.guess import predictor
from fewmask.engine.run import load_domains
from fewmask.labels import NOT_LABELLED, VOID, Mask
from fewmask.methods import parse_config
from fewmask.runs import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.browser]
MODULES = (Path(__file__).parent / "page_modules.js").read_text(encoding="utf-8")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[str], Server]]:
    servers: list[Server] = []

    def start(kind: str) -> Server:
        servers.append(Server(tmp_path / "run", pages.__file__, tmp_path / "run", kind))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


def guess(question: Question) -> Mask:
    domain = pages.streets()
    return question.crop(pages.expected(domain.image(question.stem), domain.space.num_classes)[0])


def painted(question: Question, value: int, where: np.ndarray | None = None, below: Mask | None = None) -> Mask:
    """A value in the region, or in some of its pixels, over what is below: nothing, or the guess."""
    there = question.inside if where is None else question.inside & where
    rest = np.full(question.size, NOT_LABELLED, np.uint8) if below is None else below
    return np.where(there, np.uint8(value), rest)


def some_pixel(question: Question, where: np.ndarray | None = None) -> tuple[float, float]:
    """The middle of the pixel of the region that lies deepest in it."""
    import cv2

    there = question.inside if where is None else question.inside & where
    depth = cv2.distanceTransform(np.pad(there, 1).astype(np.uint8), cv2.DIST_L1, 3)
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return float(y) - 0.5, float(x) - 0.5


def test_every_region_is_answered_as_it_was_clicked(serve: Callable[[str], Server], context: Any) -> None:
    """Each tool, undo and redo, a reload, and a server that is killed with an answer on its way."""
    server = serve("superpixels:12")
    person = Person(context, server)
    questions = {q.id: q for q in server.questions()}
    expected: dict[int, Mask] = {}
    assert len(questions) == 9

    # A key confirms the guess, pixel by pixel.
    question = questions[person.shown]
    expected[question.id] = guess(question)
    person.then("Enter")

    # A click gives the whole region a class; undo and redo without an end.
    question = questions[person.shown]
    expected[question.id] = painted(question, 3)
    person.press("2")
    person.click(question, some_pixel(question))
    person.press("4")
    person.click(question, some_pixel(question))
    person.press("Control+z", "Control+z", "Control+Shift+z", "Control+y")
    person.then("Space")

    # Fill changes what hangs together in the guess; the rest of it is confirmed.
    question = questions[person.shown]
    expectation = guess(question)
    place = some_pixel(question, expectation == expectation[question.inside][0])
    expected[question.id] = painted(question, VOID, flooded(expectation, place), expectation)
    person.press("f", "v")
    person.click(question, place)
    person.then("Enter")

    # A polygon, and only what is painted: the rest stays not labelled.
    question = questions[person.shown]
    h, w = question.size
    corners = [(0.1 * h, 0.1 * w), (0.1 * h, 0.9 * w), (0.9 * h, 0.5 * w)]
    expected[question.id] = painted(question, 1, in_polygon(corners, question.size))
    person.press("p", "2")
    person.click(question, *corners)
    person.press("Enter")
    person.then("Shift+Enter")

    # A draft outlives a reload; a stroke of the brush.
    question = questions[person.shown]
    person.press("6", "6")
    person.page.reload()
    person.ready(question.id)
    person.press("b", "3")
    place = some_pixel(question)
    person.drag(question, place, place)
    person.then("Enter")
    stroke = server_says(server, question, person)
    assert set(np.unique(stroke[question.inside])) == {2, 5}
    assert stroke[int(place[0]), int(place[1])] == 2
    expected[question.id] = stroke

    # The server is killed: the answer waits, and arrives when the server is back, at the same place.
    question = questions[person.shown]
    expected[question.id] = painted(question, 0)
    before = len(server.answers())
    server.kill()
    person.press("1", "1")
    person.press("Enter")
    person.page.wait_for_selector('#saved[data-state="unsaved"]')
    assert len(server.answers()) == before
    link = server.link
    server.start()
    assert server.link == link
    person.saved()
    person.page.reload()
    person.ready()
    assert question.id in server.words()

    # Undo with nothing painted takes the last answer back, though page and server are new.
    person.press("Control+z")
    person.ready(question.id)
    person.saved()
    assert question.id not in server.words()
    expected[question.id] = painted(question, 8)
    person.press("r", "9")
    person.click(question, some_pixel(question))
    person.then("Enter")

    # A superpixel in the region.
    question = questions[person.shown]
    person.press("s", "5")
    person.page.wait_for_timeout(500)
    person.click(question, some_pixel(question))
    person.then("Shift+Enter")
    part = server_says(server, question, person)
    assert set(np.unique(part)) == {4, NOT_LABELLED}
    assert 0 < (part == 4).sum() < question.inside.sum()
    expected[question.id] = part

    # Skip and come back; by mouse alone.
    skipped = questions[person.shown]
    before_skip = person.shown
    person.then("x")
    person.page.click("footer [data-do=back]")
    person.ready(before_skip)
    assert "skipped" in person.page.inner_text("#where")
    person.page.click('#classes [data-value="7"]')
    person.page.click('#classes [data-value="7"]')
    expected[skipped.id] = painted(skipped, 7)
    person.page.click("#confirm")
    person.page.wait_for_selector(f'#canvas:not([data-shown="{before_skip}"])')
    person.ready()

    question = questions[person.shown]
    expected[question.id] = guess(question)
    person.then("Enter")
    assert person.page.is_visible("#end")
    person.saved()

    words = server.words()
    assert set(words) == set(questions) == set(expected)
    for number, values in expected.items():
        np.testing.assert_array_equal(words[number].values, values, err_msg=f"question {number}")
        assert words[number].annotator == NAME
        seconds, clicks = words[number].seconds, words[number].clicks
        assert seconds is not None and 0 < seconds < 60
        assert clicks is not None and clicks >= 1
    answers = server.answers()
    assert (
        len({a.token for a in answers}) == len(answers) == 9 + 2 + 1
    )  # one was taken back and given anew, one skipped
    assert "9 of 9" in person.page.inner_text("#counts")


def server_says(server: Server, question: Question, person: Person) -> Mask:
    person.saved()
    values = server.words()[question.id].values
    assert values is not None
    return values


def flooded(values: Mask, place: tuple[float, float]) -> np.ndarray:
    """The pixels that hang together with one of the same value."""
    import cv2

    y, x = int(place[0]), int(place[1])
    _, parts = cv2.connectedComponents((values == values[y, x]).astype(np.uint8), connectivity=4)
    return parts == parts[y, x]


def in_polygon(corners: list[tuple[float, float]], size: tuple[int, int]) -> np.ndarray:
    """Pixel by pixel: a ray from the centre to the right crosses the outline an odd number of times."""
    inside = np.zeros(size, bool)
    for y, x in np.ndindex(size):
        for (ay, ax), (by, bx) in zip(corners, corners[1:] + corners[:1], strict=True):
            if (ay <= y + 0.5) != (by <= y + 0.5) and x + 0.5 < ax + (y + 0.5 - ay) * (bx - ax) / (by - ay):
                inside[y, x] ^= True
    return inside


def test_a_campaign_asks_people_and_goes_on(tmp_path: Path, context: Any) -> None:
    """The verbs in their order: the first questions without a network, the next ones with its guesses."""
    ask = {"regions": "squares:24", "budget": {"amount": 3, "unit": "regions"}}
    plain = campaigns.settings_of(tmp_path, labelled=0, rounds=2, annotator="people")
    plain["domains"] = {"streets": {"layout": "scenes", "kind": "streets", "train": 4, "val": 2, "test": 2}}
    plain["campaign"] |= {"first": {**ask, "score": "random"}, "ask": ask}
    config, run = parse_config(plain), tmp_path / "run"
    for number, keys in enumerate((("3", "3", "Enter"), ("Enter",))):
        assert campaign(config, run)["state"] == "waiting"
        # Guesses that learn from the answers before would be those of the round's network only for a fast person.
        server = Server(run, "-m", "fewmask.cli", "answer", run, "--device", "cpu", "--no-learn")
        try:
            person = Person(context, server, NAME if number == 0 else None)  # the name is asked for once
            assert ("none" in person.page.inner_text("#expected")) == (number == 0)
            while not person.page.is_visible("#end"):
                person.then(*keys)
            person.saved()
        finally:
            server.kill()
    summary = campaign(config, run)
    assert (summary["state"], summary["answered"], summary["open"]) == ("done", 6, 0)
    assert summary["seconds"] > 0 and summary["clicks"] == 3 * 3 + 3
    domain = load_domains(config)["streets"]
    network = predictor(RunFolder(run).round(0).folder)
    assert network is not None
    words = server.words()
    for question in server.questions():
        guessed = question.crop(network.predict("streets", domain.image(question.stem))[0])
        values = painted(question, 2) if question.round == 0 else guessed
        np.testing.assert_array_equal(words[question.id].values, values)


def test_points_take_one_key_each(serve: Callable[[str], Server], context: Any) -> None:
    server = serve("points")
    person = Person(context, server)
    order = []
    for key in ("3", "Enter", "v", "9"):
        order.append(person.shown)
        person.then(key)
    person.saved()
    questions, words = {q.id: q for q in server.questions()}, server.words()
    expected = [2, int(guess(questions[order[1]])[0, 0]), VOID, 8]
    assert [int(words[n].values[0, 0]) for n in order] == expected  # type: ignore[index]
    assert [words[n].clicks for n in order] == [1, 1, 1, 1]


def test_two_tabs_lose_and_duplicate_nothing(serve: Callable[[str], Server], context: Any) -> None:
    server = serve("squares:24")
    one = Person(context, server)
    two = Person(context, server, name=None)
    assert one.shown == two.shown
    number, question = one.shown, next(q for q in server.questions() if q.id == one.shown)
    one.then("2", "2", "Enter")
    one.saved()
    two.page.wait_for_selector("#notice:not([hidden])")
    assert "in another window" in two.page.inner_text("#notice")
    assert two.shown == number
    two.press("3", "3")
    two.press("Enter")
    two.saved()
    assert [a.question for a in server.answers()] == [number, number]
    np.testing.assert_array_equal(server.words()[number].values, painted(question, 2))
    # Both go on with what is open, in turns, and no question is answered twice any more.
    person, other = one, two
    while not person.page.is_visible("#end"):
        person.ready()
        person.then("Enter")
        person.saved()
        person, other = other, person
        person.page.evaluate("import('./static/main.js').then((m) => m.annotator.poll())")
        if person.page.is_visible("#notice button"):
            person.page.click("#notice button")
            person.page.wait_for_timeout(300)
    assert len(server.answers()) == len(server.questions()) + 1
    words = server.words()
    assert set(words) == {q.id for q in server.questions()}


def test_names_from_data_and_people_are_text(serve: Callable[[str], Server], context: Any) -> None:
    person = Person(context, serve("squares:24"))
    page = person.page
    assert page.locator("#list button").first.get_attribute("title") == "<img src=x onerror=alert(1)>"
    assert page.inner_text("#run") == "streets <b>bold</b>"
    assert page.locator("#classes img, #expected img, h1 b, #where b").count() == 0
    person.then("1", "1", "Enter")
    person.saved()
    page.reload()
    person.ready()
    page.keyboard.press("ArrowLeft")
    assert page.locator("b, img").count() == 0


def test_runs_and_tools_of_the_page_agree_with_the_servers(serve: Callable[[str], Server], context: Any) -> None:
    """The page's own modules on random masks: what crosses the wire, polygons, and histories of any length."""
    from fewmask.annotation.page import rle_codec

    person = Person(context, serve("squares:24"))
    rng = np.random.default_rng(0)
    for _ in range(40):
        size = int(rng.integers(1, 30)), int(rng.integers(1, 30))
        values = rng.choice(np.array([0, 1, 254, 255], np.uint8), size)
        back = person.page.evaluate(
            "([text, size]) => import('./static/runs.js').then(({ encode, decode }) => encode(decode(text, size)))",
            [rle_codec.encode(values), values.size],
        )
        np.testing.assert_array_equal(rle_codec.decode(back, size), values)
        points = rng.uniform(-5, 35, (int(rng.integers(3, 8)), 2))
        text = person.page.evaluate(f"({MODULES}).polygon", [points.tolist(), *size])
        expected = in_polygon([(y, x) for x, y in points.tolist()], size)
        np.testing.assert_array_equal(rle_codec.decode(text, size) == 1, expected)
    assert person.page.evaluate(f"({MODULES}).histories") == "right"


def test_the_clock_leaves_pauses_and_hidden_tabs_out(serve: Callable[[str], Server], context: Any) -> None:
    person = Person(context, serve("squares:24"))
    seconds = person.page.evaluate(f"({MODULES}).clock")
    assert seconds == [5 + 29 + 30 + 1 + 2, 0]
