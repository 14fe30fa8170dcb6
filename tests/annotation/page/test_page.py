"""The labelling page's server: who is let in, what it tells, and what becomes of answers. The page itself is driven in
test_page_browser.py.

Shapes: h×w pixels of a region's box.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pages
import pytest
from fastapi.testclient import TestClient
from pageclient import BASE, TOKEN, client_of, get

from fewmask.annotation.ledger import Ledger
from fewmask.annotation.page import auth, rle_codec
from fewmask.annotation.page.guesses import Guesses
from fewmask.annotation.page.service import LabellingService, Run
from fewmask.annotation.questions import Answer, Question
from fewmask.config import AnswerSettings
from fewmask.data.domain import Domain
from fewmask.labels import NOT_LABELLED, VOID, LabelSpace


@pytest.fixture(scope="module")
def domain() -> Domain:
    return pages.streets()


@pytest.fixture
def run(tmp_path: Path, domain: Domain) -> Run:
    return pages.ask(tmp_path, domain, "superpixels:12")


@pytest.fixture
def service(run: Run, domain: Domain, tmp_path: Path) -> Iterator[LabellingService]:
    service = LabellingService(run, Guesses(tmp_path / "guesses", pages.predictor(domain)), pages.selector())
    yield service
    service.close()


@pytest.fixture
def client(service: LabellingService) -> TestClient:
    return client_of(service, raises=False)


def questions(run: Run) -> list[Question]:
    with Ledger(run.ledger) as ledger:
        return ledger.questions()


def answers(run: Run) -> list[Answer]:
    with Ledger(run.ledger) as ledger:
        return ledger.answers()


def whole(question: Question, value: int) -> np.ndarray:
    return np.where(question.inside, np.uint8(value), np.uint8(NOT_LABELLED))


def sent(service: LabellingService, question: Question, /, value: int = 2, **changes: Any) -> dict[str, Any]:
    """What the page sends when a whole region is given a class."""
    entry = {
        "ledger": service.identity,
        "token": f"token-{question.id}-{value}",
        "question": question.id,
        "annotator": "ann",
        "kind": "answer",
        "values": rle_codec.encode(whole(question, value)),
        "takes_back": None,
        "seconds": 1.5,
        "clicks": 2,
    }
    return {**entry, **changes}


def post(client: TestClient, entry: Any) -> Any:
    return client.post(f"/{TOKEN}/api/answers", json=entry)


# ── Who is let in ────────────────────────────────────────────────────────────────────────────────────────────────────

STRANGERS: list[tuple[str, str, dict[str, str]]] = [
    ("no token", "/", {}),
    ("no token, api", "/api/session", {}),
    ("another token", "/secret-tokem/", {}),
    ("half a token", "/secret", {}),
    ("a token without its end", f"/{TOKEN}", {}),
    ("a token that goes on", f"/{TOKEN}x/", {}),
    ("a token in the query", f"/?token={TOKEN}", {}),
    ("foreign host", f"/{TOKEN}/", {"host": "evil.example"}),
    ("foreign host of the same port", f"/{TOKEN}/", {"host": "evil.example:8123"}),
    ("host that begins alike", f"/{TOKEN}/", {"host": "127.0.0.1.evil.example:8123"}),
    ("host with a user", f"/{TOKEN}/", {"host": "127.0.0.1@evil.example:8123"}),
    ("no host", f"/{TOKEN}/", {"host": ""}),
    ("foreign origin", f"/{TOKEN}/", {"origin": "https://evil.example"}),
    ("origin of another port", f"/{TOKEN}/", {"origin": "http://127.0.0.1:9999"}),
    ("origin of another kind", f"/{TOKEN}/", {"origin": "https://127.0.0.1:8123"}),
    ("hidden origin", f"/{TOKEN}/", {"origin": "null"}),
    ("rebound name", f"/{TOKEN}/", {"host": "evil.example:8123", "origin": "http://evil.example:8123"}),
]


@pytest.mark.parametrize(("path", "headers"), [s[1:] for s in STRANGERS], ids=[s[0] for s in STRANGERS])
def test_strangers_are_refused(client: TestClient, path: str, headers: dict[str, str]) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        response = client.request(method, path, headers=headers)
        assert response.status_code == 403
        assert not any(name.startswith("access-control") for name in response.headers)


def test_an_answer_from_a_stranger_is_not_taken(client: TestClient, service: LabellingService, run: Run) -> None:
    entry = json.dumps(sent(service, questions(run)[0]))
    kinds = [
        ({"origin": "http://evil.example"}, 403),
        ({"content-type": "text/plain"}, 415),  # what a form of another site can send without asking
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-length": str(auth.MAX_BODY + 1)}, 413),
        ({"content-length": "-1"}, 415),
    ]
    for headers, status in kinds:
        headers = {"content-type": "application/json", **headers}
        assert client.post(f"/{TOKEN}/api/answers", content=entry, headers=headers).status_code == status
    chunks = (part for part in (entry.encode(),))
    headers = {"content-type": "application/json"}
    assert client.post(f"/{TOKEN}/api/answers", content=chunks, headers=headers).status_code == 415
    assert client.post("/api/answers", content=entry, headers=headers).status_code == 403
    assert answers(run) == []


@pytest.mark.parametrize("host", ["127.0.0.1:8123", "localhost:8123", "localhost:9000", "127.0.0.1"])
def test_who_has_the_link_is_let_in_also_through_a_tunnel(client: TestClient, host: str) -> None:
    for origin in ({}, {"origin": f"http://{host}"}):
        assert client.get(f"/{TOKEN}/", headers={"host": host, **origin}).status_code == 200


def test_every_reply_carries_a_strict_policy(client: TestClient) -> None:
    paths = ["", "static/main.js", "static/page.css", "api/session", "api/questions/99", "nowhere"]
    for path in [*(f"/{TOKEN}/{p}" for p in paths), "/"]:
        headers = client.get(path).headers
        assert headers.items() >= {k.lower(): v for k, v in auth.HEADERS.items()}.items()
    policy = dict(part.split(" ", 1) for part in auth.POLICY.split("; "))
    assert policy["default-src"] == "'none'"
    assert "unsafe" not in auth.POLICY and "http" not in auth.POLICY and "*" not in auth.POLICY


@pytest.mark.parametrize(
    "path",
    [
        "static/../server.py",
        "static/..%2fserver.py",
        "static/%2e%2e/%2e%2e/%2e%2e/ledger.sqlite",
        "static/..\\server.py",
        "../ledger.sqlite",
        "ledger.sqlite",
        "page.json",
        "api/images/../../ledger.sqlite",
        "api/images/..%2f..%2fledger.sqlite",
        "api/images//etc/passwd",
        "static//etc/passwd",
        "static/",
        "docs",
        "openapi.json",
    ],
)
def test_nothing_but_the_page_can_be_read(client: TestClient, path: str) -> None:
    response = client.get(f"{BASE}/{TOKEN}/{path}")
    assert response.status_code in (403, 404, 422)
    assert b"SQLite" not in response.content and b"root:" not in response.content and b"import" not in response.content


def test_the_page_asks_no_other_host_and_holds_no_inline_code() -> None:
    static = Path(auth.__file__).parent / "static"
    for file in static.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text and "https:" not in text and '"//' not in text, file
        for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "srcdoc"):
            assert sink not in text, file
    page = (static / "index.html").read_text(encoding="utf-8")
    assert "style=" not in page and " on" + "click" not in page and "<script>" not in page


# ── What it tells ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_session_lists_questions_image_by_image(client: TestClient, run: Run, domain: Domain) -> None:
    session = get(client, "session")
    by_id = {q.id: q for q in questions(run)}
    assert {q["id"] for q in session["questions"]} == set(by_id)
    assert [q["stem"] for q in session["questions"]] == sorted(q["stem"] for q in session["questions"])
    assert all(q["image"] in by_id and by_id[q["image"]].stem == q["stem"] for q in session["questions"])
    assert session["domains"][domain.name]["classes"] == list(domain.space.names)
    assert session["unit"] == "clicks" and session["run"] == run.name and session["annotator"]
    assert {q["kind"] for q in session["questions"]} == {"superpixels"}
    assert sum(q["cost"] for q in session["questions"]) == 2 * len(by_id)


def test_a_question_with_its_image_guess_and_segments(client: TestClient, run: Run, domain: Domain) -> None:
    for q in questions(run)[:3]:
        details, image = get(client, f"questions/{q.id}"), domain.image(q.stem)
        assert (tuple(details["box"]), tuple(details["size"])) == (q.box, image.shape[:2])
        np.testing.assert_array_equal(rle_codec.decode(details["shape"], q.size).astype(bool), q.inside)
        response = client.get(f"/{TOKEN}/api/images/{q.id}")
        assert response.headers["content-type"] == "image/bmp"
        shown = cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_COLOR)
        assert shown is not None
        np.testing.assert_array_equal(cv2.cvtColor(shown, cv2.COLOR_BGR2RGB), image)
        guess = get(client, f"guesses/{q.id}")
        label, _ = pages.expected(image, domain.space.num_classes)
        np.testing.assert_array_equal(rle_codec.decode(guess["values"], q.size), q.crop(label))
        assert guess["confidence"] == pytest.approx(0.75, abs=1 / 254)
        cut = rle_codec.decode(get(client, f"segments/{q.id}")["values"], q.size)
        assert len(np.unique(cut)) > 1


def test_what_is_not_there(client: TestClient) -> None:
    for path in ("questions", "images", "guesses", "segments"):
        response = client.get(f"/{TOKEN}/api/{path}/99")
        assert (response.status_code, response.json()) == (404, {"error": "no question 99"})
        assert client.get(f"/{TOKEN}/api/{path}/x").status_code == 422


def test_an_image_that_has_changed_is_not_shown(run: Run, domain: Domain) -> None:
    source = domain.source

    class Changed:
        def __getattr__(self, name: str) -> Any:
            return getattr(source, name)

        def image(self, stem: str) -> np.ndarray:
            return 255 - source.image(stem)

    service = LabellingService(replace(run, domains={domain.name: replace(domain, source=Changed())}))
    response = client_of(service).get(f"/{TOKEN}/api/images/1")
    assert response.status_code == 409
    assert "other pixels than when they were asked about" in response.json()["error"]


def test_without_a_network_nothing_is_guessed(run: Run) -> None:
    client = client_of(LabellingService(run))
    assert get(client, "session")["guesses"] is False
    assert get(client, "guesses/1") == {"values": None, "confidence": None}
    assert get(client, "questions/1")["guess"] == 1


def test_the_page_of_a_run_that_asked_nothing_and_of_other_classes(tmp_path: Path, domain: Domain) -> None:
    with pytest.raises(ValueError, match="not there; begin the campaign"):
        LabellingService(Run("r", tmp_path / "ledger.sqlite", {}, "clicks"))
    assert not (tmp_path / "ledger.sqlite").exists()
    with Ledger(tmp_path / "ledger.sqlite"):
        pass
    with pytest.raises(ValueError, match="nothing was asked yet"):
        LabellingService(Run("r", tmp_path / "ledger.sqlite", {}, "clicks"))
    run = pages.ask(tmp_path / "run", domain, "squares:16")
    space = domain.space
    names = LabelSpace(tuple(reversed(space.names)), space.colours, space.raw_ids, space.void_ids)
    with pytest.raises(ValueError, match="its classes are"):
        LabellingService(replace(run, domains={domain.name: replace(domain, space=names)}))


# ── What becomes of answers ──────────────────────────────────────────────────────────────────────────────────────────


def test_an_answer_is_in_the_ledger_before_it_is_told(client: TestClient, service: LabellingService, run: Run) -> None:
    question = questions(run)[1]
    values = whole(question, 254)
    values[question.inside] = np.arange(question.inside.sum()) % 3
    values[np.unravel_index(np.flatnonzero(question.inside)[:2], question.size)] = (VOID, NOT_LABELLED)
    reply = post(client, sent(service, question, values=rle_codec.encode(values))).json()
    (answer,) = answers(run)
    np.testing.assert_array_equal(answer.values, values)
    assert (answer.annotator, answer.seconds, answer.clicks, answer.id) == ("ann", 1.5, 2, reply["id"])
    assert reply["seconds"] == 1.5 and [w["kind"] for w in reply["answers"]] == ["answer"]
    shown = get(client, f"questions/{question.id}")["answers"][0]
    np.testing.assert_array_equal(rle_codec.decode(shown["values"], question.size), values)


def test_what_is_sent_again_is_one_answer(client: TestClient, service: LabellingService, run: Run) -> None:
    entry = sent(service, questions(run)[0])
    ids = [post(client, {**entry, "seconds": 1.0 + i}).json()["id"] for i in range(3)]
    assert ids == [1, 1, 1]
    assert len(answers(run)) == 1


def test_of_two_tabs_the_last_one_counts_and_each_hears_of_the_other(
    client: TestClient, service: LabellingService, run: Run
) -> None:
    question = questions(run)[0]
    after = get(client, "session")["last"]
    for value in (1, 2):
        assert post(client, sent(service, question, value)).status_code == 200
    assert len(answers(run)) == 2
    (word,) = get(client, f"changes/{after}")["answers"][str(question.id)]
    assert word["token"] == f"token-{question.id}-2"
    assert get(client, "changes/2")["answers"] == {}
    with Ledger(run.ledger) as ledger:
        assert set(np.unique(ledger.labels(question.domain, question.stem))) == {2, NOT_LABELLED}


def test_answers_are_taken_back_after_a_restart_too(run: Run) -> None:
    one, other = questions(run)[:2]
    for question in (one, other):
        service = LabellingService(run)
        assert post(client_of(service), sent(service, question)).status_code == 200
    service = LabellingService(run)
    client = client_of(service)
    back = sent(
        service, other, kind="retract", values=None, token="token-of-taking-back", takes_back=f"token-{other.id}-2"
    )
    for _ in range(2):  # sent twice, taken back once
        assert post(client, back).json()["answers"] == []
    again = post(client, {**back, "token": "another-token"})
    assert again.status_code == 409 and "was taken back before" in again.json()["error"]
    with Ledger(run.ledger) as ledger:
        assert [q.id for q in ledger.questions(open_only=True)] == [q.id for q in questions(run) if q.id != one.id]
    assert [a.kind for a in answers(run)] == ["answer", "answer", "retract"]


def test_the_words_of_several_annotators_stand_beside_each_other(
    client: TestClient, service: LabellingService, run: Run
) -> None:
    question = questions(run)[0]
    post(client, sent(service, question, 1))
    reply = post(
        client, sent(service, question, annotator="bob", kind="skip", values=None, token="token-of-bob")
    ).json()
    assert [(w["annotator"], w["kind"]) for w in reply["answers"]] == [("ann", "answer"), ("bob", "skip")]
    shown = get(client, f"questions/{question.id}")["answers"]
    assert [w["values"] is None for w in shown] == [False, True]


def test_the_page_hears_how_many_annotators_a_question_waits_for(run: Run) -> None:
    rule = AnswerSettings(each=2, decide="majority")
    client = client_of(LabellingService(replace(run, rule=rule)))
    session = get(client, "session")
    assert (session["each"], session["decide"]) == (2, "majority")
    assert get(client_of(LabellingService(run)), "session")["each"] == 1


def test_some_questions_are_asked_again_and_answers_to_others_are_still_taken(run: Run) -> None:
    """Those to others may have waited in a browser."""
    all_questions = questions(run)
    service = LabellingService(replace(run, only=frozenset({all_questions[1].id, all_questions[4].id})))
    client = client_of(service)
    session = get(client, "session")
    assert {q["id"] for q in session["questions"]} == {all_questions[1].id, all_questions[4].id}
    assert (session["each"], session["asked"], get(client, "changes/0")["asked"]) == (None, 2, 2)
    assert post(client, sent(service, all_questions[0])).status_code == 200
    assert [a.question for a in answers(run)] == [all_questions[0].id]
    with pytest.raises(ValueError, match=r"--question: nobody asked 98, 99; `fewmask agreement` lists ids"):
        LabellingService(replace(run, only=frozenset({1, 99, 98})))


def bad_runs(*pairs: tuple[int, int]) -> str:
    return b64encode(np.array(pairs, "<u4").tobytes()).decode()


WRONG: list[tuple[str, Callable[[Question], dict[str, Any]], int, str]] = [
    ("another run's", lambda q: {"ledger": "0123456789abcdef"}, 409, "another run's question"),
    ("no question", lambda q: {"question": 999}, 404, "no question 999"),
    ("no class", lambda q: {"values": rle_codec.encode(whole(q, 9))}, 409, "values [9] are no class"),
    ("outside", lambda q: {"values": rle_codec.encode(np.zeros(q.size, np.uint8))}, 409, "outside of the region"),
    ("nothing", lambda q: {"values": rle_codec.encode(whole(q, 254))}, 409, "nothing is decided"),
    ("no values", lambda q: {"values": None}, 409, "no values"),
    ("values of a skip", lambda q: {"kind": "skip"}, 409, "of kind skip, yet with values"),
    ("too few pixels", lambda q: {"values": bad_runs((1, 3))}, 409, "values of 3 pixels"),
    ("endless", lambda q: {"values": bad_runs(*[(1, 2**32 - 1)] * 1000)}, 409, "values of 4294967295000 pixels"),
    ("wraps around", lambda q: {"values": bad_runs((1, 2**31), (1, 2**31), (1, q.inside.size))}, 409, "pixels; the"),
    ("no byte", lambda q: {"values": bad_runs((256, q.inside.size))}, 409, "a value of 256"),
    ("half a run", lambda q: {"values": b64encode(b"abcd").decode()}, 409, "values of 4 bytes"),
    ("no base64", lambda q: {"values": "§§"}, 409, "no base64"),
    ("takes nothing back", lambda q: {"kind": "retract", "values": None}, 409, "`retracts` says what"),
    (
        "takes back what never was",
        lambda q: {"kind": "retract", "values": None, "takes_back": "never-was-there"},
        409,
        "never arrived",
    ),
    ("no name", lambda q: {"annotator": ""}, 422, "annotator"),
    ("a long name", lambda q: {"annotator": "x" * 81}, 422, "annotator"),
    ("a short token", lambda q: {"token": "t"}, 422, "token"),
    ("another kind", lambda q: {"kind": "drop table"}, 422, "kind"),
    ("negative time", lambda q: {"seconds": -1.0}, 422, "seconds"),
    ("no number", lambda q: {"clicks": "2"}, 422, "clicks"),
    ("half a click", lambda q: {"clicks": 0.5}, 422, "clicks"),
    ("more than that", lambda q: {"path": "../../x"}, 422, "path"),
]


@pytest.mark.parametrize(("change", "status", "words"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_wrong_answers_are_refused_in_words_and_nothing_is_saved(
    client: TestClient,
    service: LabellingService,
    run: Run,
    change: Callable[[Question], dict[str, Any]],
    status: int,
    words: str,
) -> None:
    question = next(q for q in questions(run) if not q.inside.all())
    response = post(client, sent(service, question, **change(question)))
    assert response.status_code == status, response.text
    assert words in response.json()["error"]
    assert answers(run) == []


@pytest.mark.parametrize("body", ["", "[]", "{", "null", '{"a":NaN}', "[" * 100_000, '{"seconds": 1e999}'])
def test_what_is_no_answer_is_refused(client: TestClient, run: Run, body: str) -> None:
    headers = {"content-type": "application/json"}
    response = client.post(f"/{TOKEN}/api/answers", content=body, headers=headers)
    assert 400 <= response.status_code < 500
    assert answers(run) == []


def test_a_ledger_that_cannot_be_written_is_tried_again(
    client: TestClient, service: LabellingService, run: Run
) -> None:
    entry = sent(service, questions(run)[0])
    away = run.ledger.rename(run.ledger.with_suffix(".away"))
    run.ledger.mkdir()
    assert post(client, entry).status_code >= 409
    run.ledger.rmdir()
    away.rename(run.ledger)
    assert post(client, entry).status_code == 200


def test_questions_that_are_asked_meanwhile_are_shown(client: TestClient, run: Run, domain: Domain) -> None:
    before = get(client, "session")["questions"]
    question = Question(domain.name, domain.splits["train"][0], "points", 5, (0, 5, 1, 6))
    with Ledger(run.ledger) as ledger:
        ledger.ask(1, [question])
    assert get(client, "changes/0")["asked"] == len(before) + 1
    after = get(client, "session")["questions"]
    assert after[:-1] == before and after[-1]["kind"] == "points"
