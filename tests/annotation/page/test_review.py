"""The gallery's server: which answers it lists, in which order, and what becomes of verdicts.

Shapes: h×w pixels of a region's box.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pages
import pytest
from fastapi.testclient import TestClient
from pageclient import TOKEN, client_of, get

from fewmask.annotation.ledger import Ledger
from fewmask.annotation.page import auth, rle_codec
from fewmask.annotation.page.guesses import Guesses
from fewmask.annotation.page.review import Filter, Review
from fewmask.annotation.page.service import LabellingService, Run
from fewmask.annotation.questions import Answer, Question
from fewmask.data.domain import Domain
from fewmask.data.pseudo import HUMAN, PseudoFolder
from fewmask.labels import NOT_LABELLED, VOID
from fewmask.paths import below
from fewmask.runs import RunFolder


@pytest.fixture(scope="module")
def domain() -> Domain:
    return pages.streets()


@pytest.fixture
def run(tmp_path: Path, domain: Domain) -> Run:
    return pages.ask(tmp_path, domain, "squares:16")


@pytest.fixture
def service(run: Run, domain: Domain, tmp_path: Path) -> Iterator[LabellingService]:
    service = LabellingService(run, Guesses(tmp_path / "guesses", pages.predictor(domain)))
    yield service
    service.close()


@pytest.fixture
def client(service: LabellingService) -> TestClient:
    return client_of(service, raises=False)


def questions_of(run: Run) -> list[Question]:
    with Ledger(run.ledger) as ledger:
        return ledger.questions()


def say(run: Run, question: Question, value: int | np.ndarray, who: str = "ann") -> int:
    values = np.where(question.inside, np.uint8(value), np.uint8(NOT_LABELLED))
    with Ledger(run.ledger) as ledger:
        token = f"{who}-{question.id}-{ledger.last_answer_id()}"
        return ledger.answer([Answer(question.id, who, token, values)])[0]


def judge(client: TestClient, service: LabellingService, number: int, verdict: str, **changes: Any) -> Any:
    entry = {"ledger": service.identity, "token": f"verdict-{number}-{verdict}", "answer": number, "kind": verdict}
    return client.post(f"/{TOKEN}/api/verdicts", json=entry | {"reviewer": "cyd", "comment": ""} | changes)


# ── The order ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_any_stored_prediction_the_guessed_class_orders(client: TestClient, run: Run) -> None:
    first, second, third, *_ = questions_of(run)  # their guess is class 1
    half = np.where(np.arange(second.size[1]) < second.size[1] // 2, np.uint8(1), np.uint8(2))
    ids = [say(run, first, 1), say(run, second, half), say(run, third, 0)]
    listed = get(client, "review")
    assert listed["ids"] == ids[::-1]
    assert listed["sources"] == {"class": 3}
    scores = [card["score"] for card in get(client, f"review/cards?number={ids[0]}&number={ids[1]}&number={ids[2]}")]
    assert scores == pytest.approx([1, 0.5, 0])


def test_the_predictions_of_the_pool_order_first_and_then_those_of_the_page(
    client: TestClient, service: LabellingService, run: Run, domain: Domain
) -> None:
    questions = {q.stem: q for q in questions_of(run)}
    (a, b, c), classes = list(questions.values()), domain.space.num_classes
    size = domain.image(a.stem).shape[:2]
    pool = RunFolder(run.ledger.parent).pseudo(0)
    label, confidence = np.full(size, 3, np.uint8), np.full(size, 127, np.uint8)
    PseudoFolder(below(pool.folder, domain.name)).write(a.stem, label, confidence)
    service.guess(b.id)  # the page shows this one, so that its guess is stored
    shown = pages.expected(domain.image(b.stem), classes)[0]
    ids = [say(run, a, 3), say(run, b, b.window(shown)), say(run, c, VOID)]
    listed = get(client, "review")
    assert listed["sources"] == {"pool": 1, "network": 1, "none": 1}
    assert listed["ids"] == ids
    cards = get(client, "review/cards?" + "&".join(f"number={n}" for n in ids))
    assert [card["score"] for card in cards[:2]] == pytest.approx([127 / 254, 0.75], abs=1 / 254)
    assert cards[2]["score"] is None


def test_what_people_said_before_is_no_prediction(client: TestClient, run: Run, domain: Domain) -> None:
    question = questions_of(run)[0]
    size = domain.image(question.stem).shape[:2]
    folder = PseudoFolder(below(RunFolder(run.ledger.parent).pseudo(0).folder, domain.name))
    folder.write(question.stem, np.full(size, 2, np.uint8), np.full(size, HUMAN, np.uint8))
    (card,) = get(client, f"review/cards?number={say(run, question, 2)}")
    assert (card["score"], card["source"]) == (None, "none")


def test_a_network_that_has_learnt_from_the_answers_orders_nothing(
    client: TestClient, service: LabellingService, run: Run
) -> None:
    question = questions_of(run)[0]
    service.guess(question.id)
    summary = RunFolder(run.ledger.parent).round(question.round).summary
    summary.parent.mkdir(parents=True)
    summary.write_text("{}")
    (card,) = get(client, f"review/cards?number={say(run, question, 1)}")
    assert (card["score"], card["source"]) == (1, "class")


# ── The filters ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_answers_are_filtered_by_state_class_person_and_disagreement(
    client: TestClient, service: LabellingService, run: Run, domain: Domain
) -> None:
    first, second, third, *_ = questions_of(run)
    ann, bob = say(run, first, 1), say(run, first, 2, "bob")
    same, other = say(run, second, 1), say(run, second, 1, "bob")
    void = say(run, third, VOID, "bob")
    with Ledger(run.ledger) as ledger:
        ledger.answer([Answer(third.id, "ann", "skipped-1", kind="skip")])

    def listed(**query: Any) -> set[int]:
        return set(get(client, "review?" + "&".join(f"{k}={v}" for k, v in query.items()))["ids"])

    assert listed() == listed(state="all") == {ann, bob, same, other, void}
    assert listed(domain=domain.name, value=1) == {ann, same, other}
    assert listed(domain=domain.name, value=VOID) == {void}
    assert listed(domain="nowhere") == set()
    assert listed(annotator="ann") == {ann, same}
    assert listed(disputed="true") == {ann, bob}
    assert listed(disputed="true", annotator="bob", value=2, domain=domain.name) == {bob}
    agreements = {card["id"]: card["agreement"] for card in get(client, f"review/cards?number={bob}&number={same}")}
    assert agreements == {bob: 0, same: 1}

    assert judge(client, service, ann, "accept").status_code == 200
    assert judge(client, service, bob, "reject").status_code == 200
    assert listed() == {same, other, void}
    assert listed(state="accepted") == {ann}
    assert listed(state="rejected") == {bob}
    assert listed(disputed="true", state="all") == set()  # one answer is left
    later = say(run, first, 1, "bob")
    assert listed() == {same, other, void, later}
    people = get(client, "review")["people"]
    assert people == ["ann", "bob"]


def test_a_correction_replaces_the_answer_in_the_gallery(client: TestClient, run: Run) -> None:
    question = questions_of(run)[0]
    first, second = say(run, question, 1), say(run, question, 2)
    assert get(client, "review?state=all")["ids"] == [second]
    response = client.get(f"/{TOKEN}/api/review/cards?number={first}")
    assert response.status_code == 404 and "does not count any more" in response.json()["error"]


# ── Cards and pictures ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["squares:16", "superpixels:12", "points"])
def test_a_card_shows_the_answer_at_the_size_of_its_picture(tmp_path: Path, domain: Domain, kind: str) -> None:
    run = pages.ask(tmp_path, domain, kind)
    client = client_of(LabellingService(run))
    for question in questions_of(run):
        number = say(run, question, 2)
        (card,) = get(client, f"review/cards?number={number}")
        height, width = card["size"]
        assert max(height, width) == 240
        values = rle_codec.decode(card["values"], (height, width))
        assert set(np.unique(values)) == {2, NOT_LABELLED}
        assert card["pixels"] == {"2": int(question.inside.sum())}
        response = client.get(f"/{TOKEN}/api/review/pictures/{question.id}")
        assert response.headers["content-type"] == "image/png"
        picture = cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None and picture.shape == (height, width, 3)


def test_the_list_and_the_cards_open_no_image_and_a_picture_opens_one(run: Run, domain: Domain) -> None:
    read: list[str] = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(domain.source, name)

        def image(self, stem: str) -> np.ndarray:
            read.append(stem)
            return domain.source.image(stem)

    counted = replace(run, domains={domain.name: replace(domain, source=Counting())})  # type: ignore[arg-type]
    ids = [say(run, question, 1) for question in questions_of(run)]
    review = Review(LabellingService(counted))
    assert review.listing(Filter()).total == len(ids)
    review.cards(ids)
    assert read == []
    review.picture(questions_of(run)[0].id)
    assert read == [questions_of(run)[0].stem]


def test_an_image_that_has_changed_is_not_shown(client: TestClient, run: Run, domain: Domain) -> None:
    changed = replace(domain, source=replace(domain.source, seed=99))  # type: ignore[type-var]
    service = LabellingService(replace(run, domains={domain.name: changed}))
    with pytest.raises(ValueError, match="other pixels than when they were asked about"):
        Review(service).picture(questions_of(run)[0].id)


# ── Verdicts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_rejection_opens_the_question_for_the_page_at_once(
    client: TestClient, service: LabellingService, run: Run
) -> None:
    question = questions_of(run)[0]
    number = say(run, question, 1)
    last = get(client, "session")["last"]
    card = judge(client, service, number, "reject").json()
    assert (card["state"], card["verdicts"][0]["reviewer"]) == ("rejected", "cyd")
    changes = get(client, f"changes/{last}")
    assert changes["answers"] == {str(question.id): []}
    assert judge(client, service, number, "reject").json() == card  # once, however often it is sent
    with Ledger(run.ledger) as ledger:
        assert question.id in {q.id for q in ledger.questions(open_only=True)}
        assert [answer.kind for answer in ledger.answers()] == ["answer", "retract"]


def test_an_undone_rejection_closes_the_question_for_the_page_at_once(
    client: TestClient, service: LabellingService, run: Run
) -> None:
    question = questions_of(run)[0]
    number = say(run, question, 1)
    before = get(client, f"questions/{question.id}")["answers"]
    judge(client, service, number, "accept", token="token-accept")
    judge(client, service, number, "reject", token="token-reject")
    last = get(client, "session")["last"]
    card = judge(client, service, number, "restore", token="token-undo").json()
    assert (card["state"], [v["kind"] for v in card["verdicts"]]) == ("open", ["accept", "reject", "restore"])
    assert list(get(client, f"changes/{last}")["answers"]) == [str(question.id)]
    assert get(client, f"questions/{question.id}")["answers"] == before
    with Ledger(run.ledger) as ledger:
        assert question.id not in {q.id for q in ledger.questions(open_only=True)}
        ledger.answer([Answer(question.id, "ann", "token-back", kind="retract", retracts=number)])
    assert get(client, "review?state=all")["ids"] == []  # as any answer that its annotator takes back
    again = judge(client, service, number, "restore", token="token-again")
    assert (again.status_code, "it is not rejected" in again.text) == (409, True)


def test_comments_are_kept_with_their_writers(client: TestClient, service: LabellingService, run: Run) -> None:
    number = say(run, questions_of(run)[0], 1)
    for text in ("<b>edge</b>", "second thought"):
        token = f"comment-{len(text)}"
        assert judge(client, service, number, "comment", token=token, comment=text).status_code == 200
    (card,) = get(client, f"review/cards?number={number}")
    assert [v["comment"] for v in card["verdicts"]] == ["<b>edge</b>", "second thought"]
    assert card["state"] == "open"


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"ledger": "another"}, 409, "another run's answer"),
        ({"answer": 99}, 409, "there is no such answer"),
        ({"comment": "why"}, 409, "other verdicts have none"),
        ({"reviewer": "\u202e"}, 409, "cannot be seen"),
        ({"kind": "undo"}, 422, "kind"),
        ({"comment": "x" * 2001}, 422, "comment"),
        ({"answer": -1}, 422, "answer"),
        ({"token": "no"}, 422, "token"),
        ({"more": 1}, 422, "more"),
    ],
)
def test_wrong_verdicts_are_refused_in_words_and_nothing_is_saved(
    client: TestClient, service: LabellingService, run: Run, changes: dict[str, Any], status: int, message: str
) -> None:
    number = say(run, questions_of(run)[0], 1)
    response = judge(client, service, number, "accept", **changes)
    assert response.status_code == status and message in response.json()["error"]
    with Ledger(run.ledger) as ledger:
        assert ledger.verdicts() == [] and len(ledger.answers()) == 1


@pytest.mark.parametrize(
    "path", ["review?state=none", "review/cards", "review/cards?number=x", "review/pictures/99", "review?value=x"]
)
def test_what_is_not_there(client: TestClient, path: str) -> None:
    response = client.get(f"/{TOKEN}/api/{path}")
    assert response.status_code in (404, 422) and response.json()["error"]
    many = "&".join(f"number={n}" for n in range(200))
    assert client.get(f"/{TOKEN}/api/review/cards?{many}").status_code == 409


@pytest.mark.parametrize("path", ["review", "api/review", "api/review/cards?number=1", "api/review/pictures/1"])
def test_the_gallery_is_guarded_like_the_page(client: TestClient, path: str) -> None:
    assert client.get(f"/{path}").status_code == 403
    assert client.get(f"/{TOKEN}/{path}", headers={"host": "evil.example"}).status_code == 403
    assert client.get(f"/{TOKEN}/{path}", headers={"origin": "https://evil.example"}).status_code == 403
    headers = client.get(f"/{TOKEN}/{path}").headers
    assert headers.items() >= {k.lower(): v for k, v in auth.HEADERS.items()}.items()
    assert client.post("/api/verdicts", json={}).status_code == 403


def test_the_galleries_page_holds_no_inline_code(client: TestClient) -> None:
    page = client.get(f"/{TOKEN}/review").text
    assert "style=" not in page and " on" + "click" not in page and "<script>" not in page and "review.js" in page
