"""What the labelling page is made of: its codec, index, order, segments, guesses and listener.

Shapes: h×w pixels of a region's box.
"""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pages
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fewmask.annotation.page import rle_codec, segments
from fewmask.annotation.page.answer_index import AnswerIndex, in_order
from fewmask.annotation.page.guesses import Guesses, Predictor
from fewmask.annotation.page.listener import bind_listener, link
from fewmask.annotation.page.server import serve
from fewmask.annotation.page.service import Run
from fewmask.annotation.questions import Answer, Question
from fewmask.data.domain import Domain


@pytest.fixture(scope="module")
def domain() -> Domain:
    return pages.streets()


@given(arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.sampled_from([0, 1, 254, 255])))
def test_values_come_back_from_the_wire(values: np.ndarray) -> None:
    np.testing.assert_array_equal(
        rle_codec.decode(rle_codec.encode(values), (values.shape[0], values.shape[1])), values
    )


@given(st.data())
def test_the_board_says_what_the_ledger_says(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    questions = [Question("a", "s", "points", i, (0, i, 1, i + 1), id=i + 1) for i in range(3)]
    index, facts, standing = AnswerIndex(questions), list[Answer](), dict[int, Answer]()
    taken_back = dict[int, Answer]()
    for number in range(1, data.draw(st.integers(1, 12)) + 1):
        taken = data.draw(st.sampled_from([None, *standing, *taken_back]))
        if taken in taken_back:
            again = standing[taken] = taken_back.pop(taken)
            standing = dict(sorted(standing.items()))
            fact = Answer(again.question, "eve", f"t{number}", kind="restore", retracts=again.id, id=number)
        elif taken is not None:
            back = taken_back[taken] = standing.pop(taken)
            fact = Answer(back.question, "eve", f"t{number}", kind="retract", retracts=back.id, id=number)
        else:
            who, skips = data.draw(st.sampled_from(["ann", "bob"])), data.draw(st.booleans())
            fact = Answer(data.draw(st.integers(1, 3)), who, f"t{number}", seconds=1.0, id=number)
            fact = replace(fact, kind="skip") if skips else fact
            standing[number] = fact
        facts.append(fact)
        assert index.add([fact]) == [fact.question]
    for question in questions:
        latest = {a.annotator: a for a in standing.values() if a.question == question.id}
        assert {w.annotator: w.id for w in index.latest(question.id)} == {who: a.id for who, a in latest.items()}
    assert index.seconds == sum(a.seconds or 0 for a in facts)
    assert index.id_of("t1") == 1 and index.id_of("none") is None


def test_the_order_keeps_images_and_rounds_together() -> None:
    def at(number: int, stem: str, y: int, x: int, of: int = 0) -> Question:
        return Question("a", stem, "squares:16", number, (y, x, y + 16, x + 16), id=number, round=of)

    questions = [at(1, "b", 40, 0), at(2, "a", 0, 0), at(3, "b", 3, 60), at(4, "b", 0, 90), at(5, "b", 0, 0, of=1)]
    assert [q.id for q in in_order(questions)] == [3, 4, 1, 2, 5]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 4), (30, 30), (61, 83), (200, 300)])
def test_segments_cover_the_box_and_follow_edges(size: tuple[int, int]) -> None:
    h, w = size
    picture = np.zeros((h, w, 3), np.uint8)
    picture[:, w // 2 :] = 255
    cut = segments.cut(picture)
    assert cut.shape == size and cut.dtype == np.uint16
    np.testing.assert_array_equal(np.unique(cut), np.arange(cut.max() + 1))
    np.testing.assert_array_equal(cut, segments.cut(picture))
    if min(size) >= 30:
        assert len(np.unique(cut)) > 8
        crossing = [s for s in np.unique(cut) if 0.02 < picture[cut == s].mean() / 255 < 0.98]
        assert len(crossing) <= 2


def test_guesses_are_computed_once_a_network_and_kept(tmp_path: Path, domain: Domain) -> None:
    stem, calls = domain.splits["train"][0], list[str]()

    def predict(name: str, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        calls.append(name)
        return pages.expected(image, 3)

    def read() -> np.ndarray:
        return domain.image(stem)

    for version, times in (("one", 1), ("one", 1), ("two", 2)):
        guesses = Guesses(tmp_path, Predictor(version, predict))
        for _ in range(2):
            label, confidence = guesses.get(domain.name, stem, read)
        np.testing.assert_array_equal(label, pages.expected(read(), 3)[0])
        assert set(np.unique(confidence)) == {190}
        assert calls == [domain.name] * times
        assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [version]
        guesses.close()


def test_a_guess_that_failed_is_tried_again(tmp_path: Path, domain: Domain) -> None:
    faults = [ValueError("no domain of that name")]

    def predict(name: str, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if faults:
            raise faults.pop()
        return pages.expected(image, 3)

    guesses = Guesses(tmp_path, Predictor("one", predict))
    with pytest.raises(ValueError, match="no domain of that name"):
        guesses.get(domain.name, "train-00000", lambda: domain.image("train-00000"))
    assert guesses.get(domain.name, "train-00000", lambda: domain.image("train-00000"))[0].max() == 2
    guesses.close()


def test_a_link_stays_the_same_and_is_its_owners_alone(tmp_path: Path) -> None:
    memory = tmp_path / "page.json"
    with bind_listener(memory) as (listener, token):
        port = listener.getsockname()[1]
        assert listener.getsockname()[0] == "127.0.0.1"
        assert len(token) >= 32
        assert stat.S_IMODE(os.stat(memory).st_mode) == 0o600
        message = rf"its page is open already, served by process {os.getpid()} on .*; go to {link(port, token)}"
        with pytest.raises(ValueError, match=message), bind_listener(memory):
            pass
    with bind_listener(memory) as (listener, again):
        assert (listener.getsockname()[1], again) == (port, token)
    with bind_listener(tmp_path / "another.json") as (_, other):
        assert other != token


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with bind_listener(tmp_path / "one.json") as (listener, token):
        port = listener.getsockname()[1]
        with pytest.raises(ValueError, match=f"--port {port}: taken"), bind_listener(tmp_path / "two.json", port):
            pass
        (tmp_path / "three.json").write_text(f'{{"port": {port}, "token": "old"}}')
        with bind_listener(tmp_path / "three.json") as (listener, new):
            assert listener.getsockname()[1] != port
            assert new not in ("old", token)
    (tmp_path / "two.json").write_text("damaged")
    with bind_listener(tmp_path / "two.json", port) as (listener, _):
        assert listener.getsockname()[1] == port


def test_serving_a_run_that_asked_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="begin the campaign first"):
        serve(tmp_path, Run("r", tmp_path / "ledger.sqlite", {}, "clicks"), tell=pytest.fail)
