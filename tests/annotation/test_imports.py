"""One template that each format's import passes: what it takes, what it leaves out, what it refuses, whom it touches.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from annotating import SIZE, ledger_with, refused
from exports import FIRST, FORMATS, OF, QUESTIONS, THIRD, both, whole, write_with
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from fewmask.annotation import coco
from fewmask.annotation.importer import Import
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Answer
from fewmask.annotation.tools import TOOLS
from fewmask.config import AnswerSettings
from fewmask.data.pictures import mask_palette
from fewmask.labels import NOT_LABELLED, VOID

CASES = {
    what: [
        pytest.param(name, case, id=f"{name}-{case}") for name, kit in FORMATS.items() for case in getattr(kit, what)
    ]
    for what in ("left_out", "same", "wrong")
}


def test_every_tool_goes_through_the_template() -> None:
    assert set(TOOLS) | {"label-studio-server"} == {name.replace("-xml", "") for name in FORMATS} - {
        "cvat-masks",
        "coco-panoptic",
    }


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """Asked are the whole of two images of three."""
    with ledger_with(OF["a"], *QUESTIONS) as opened:
        yield opened


def ledger_content(ledger: Ledger) -> bytes:
    return ledger.labels("a", FIRST).tobytes() + ledger.labels("a", THIRD).tobytes()


PAINTED = b"".join(mask.tobytes() for _, mask in both())


@pytest.mark.parametrize("name", FORMATS)
def test_what_was_painted_is_taken(name: str, ledger: Ledger, tmp_path: Path) -> None:
    kit = FORMATS[name]
    path = kit.write(tmp_path, both())
    assert kit.read(ledger, OF, path, "ann") == Import(2, 0, 0, 0, in_part=2)
    assert ledger_content(ledger) == PAINTED
    assert kit.read(ledger, OF, path, "ann") == Import(0, 2, 0, 0)


@pytest.mark.parametrize(("name", "case"), CASES["left_out"])
def test_what_is_no_answer_is_left_out_counted_and_named(name: str, case: str, ledger: Ledger, tmp_path: Path) -> None:
    kit = FORMATS[name]
    change, why, what = kit.left_out[case]
    path = kit.write(tmp_path, both())
    change(path)
    taken = kit.read(ledger, OF, path, "ann")
    assert ledger_content(ledger) == PAINTED and taken.answered == 2
    (left_out,) = taken.left_out
    assert (
        why in left_out.why
        and any(what in one for one in left_out.names)
        and 1 <= left_out.count == len(left_out.names) <= 2
    )


@pytest.mark.parametrize(("name", "case"), CASES["same"])
def test_the_same_said_otherwise_is_the_same(name: str, case: str, ledger: Ledger, tmp_path: Path) -> None:
    kit = FORMATS[name]
    path = kit.write(tmp_path, both())
    kit.same[case](path)
    taken = kit.read(ledger, OF, path, "ann")
    assert ledger_content(ledger) == PAINTED
    assert all(one.why == "a file that a system left there" for one in taken.left_out)


@pytest.mark.parametrize(("name", "case"), CASES["wrong"])
def test_what_cannot_be_read_for_certain_refuses_all(name: str, case: str, ledger: Ledger, tmp_path: Path) -> None:
    kit = FORMATS[name]
    change, why = kit.wrong[case]
    path = kit.write(tmp_path, both())
    change(path)
    refused(ledger, lambda: kit.read(ledger, OF, path, "ann"), why)


@pytest.mark.parametrize("name", FORMATS)
def test_many_of_a_kind_are_counted_and_the_first_are_named(name: str, ledger: Ledger, tmp_path: Path) -> None:
    """Of images that nothing was asked about; and an import of nothing else says what it left out."""
    kit = FORMATS[name]
    foreign = [(f"b-{number}", whole()) for number in range(9)]
    taken = kit.read(ledger, OF, kit.write(tmp_path, [*foreign, *both()]), "ann")
    (left_out,) = taken.left_out
    assert (left_out.why, left_out.count, len(left_out.names), taken.answered) == (
        "nothing was asked about it",
        9,
        5,
        2,
    )
    (tmp_path / "other").mkdir()
    path = kit.write(tmp_path / "other", foreign)
    if name == "label-studio-server":
        assert kit.read(ledger, OF, path, "ann").left_out[0].count == 9
        return
    with pytest.raises(ValueError, match="left out: 9 × nothing was asked about it") as error:
        kit.read(ledger, OF, path, "ann")
    assert "b-0" in str(error.value)


RULES = {
    "latest": AnswerSettings(),
    "majority": AnswerSettings(decide="majority"),
    "trust": AnswerSettings(decide="trust", trust={"ben": 3.0}),
    "estimated": AnswerSettings(decide="trust"),
    "each two": AnswerSettings(each=2),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", FORMATS)
def test_answers_of_others_are_touched_only_on_demand_and_come_back(
    name: str, rule: str, ledger: Ledger, tmp_path: Path
) -> None:
    kit, ledger.rule = FORMATS[name], RULES[rule]
    one = ledger.questions()[0]
    word = Answer(1, "ada", "page 1", one.crop(whole(0)))
    ledger.answer([word])
    before = ledger_content(ledger)
    path = kit.write(tmp_path, both())
    taken = kit.read(ledger, OF, path, "ben")
    if rule == "each two":  # the question waits for one more, so ben's answer is wanted, and it is said beside whose
        assert (taken.answered, taken.closed, taken.beside) == (2, 0, {"ada": 1})
    else:
        assert (taken.answered, taken.closed, taken.beside) == (1, 1, {})
        (left_out,) = taken.left_out
        assert left_out.why == "not open, answered or skipped before by ada" and left_out.names == (str(one),)
        assert ledger.labels("a", FIRST).tobytes() == before[: len(before) // 2]
        corrected = kit.read(ledger, OF, path, "ben", "corrections")
        assert (corrected.answered, corrected.closed, corrected.beside) == (1, 0, {"ada": 1})
    if rule in ("latest", "each two", "trust"):
        assert ledger_content(ledger) == PAINTED
    back = kit.read(ledger, OF, path, "ben", "take-back")
    assert (back.taken_back, back.answered) == (2, 0)
    assert ledger_content(ledger) == before
    assert kit.read(ledger, OF, path, "ben", "take-back").taken_back == 0
    assert kit.read(ledger, OF, path, "ben", "corrections").answered == 2  # and once more


@pytest.mark.parametrize("name", FORMATS)
def test_ones_own_answer_is_corrected_only_on_demand(name: str, ledger: Ledger, tmp_path: Path) -> None:
    kit = FORMATS[name]
    kit.read(ledger, OF, kit.write(tmp_path, both()), "ann")
    changed = kit.write(tmp_path, [(FIRST, whole(0))])
    left = kit.read(ledger, OF, changed, "ann")
    assert (left.answered, left.closed, ledger_content(ledger)) == (0, 1, PAINTED)
    taken = kit.read(ledger, OF, changed, "ann", "corrections")
    assert (taken.answered, taken.corrected, taken.beside) == (1, 1, {})
    assert ledger.labels("a", FIRST)[19, 0] == 0
    if name == "folder":
        return  # the folder says of both images what to take back
    kit.read(ledger, OF, changed, "ann", "take-back")
    assert ledger_content(ledger) == PAINTED


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_palette_numbered_anew_says_the_same_or_is_refused(data: st.DataObject) -> None:
    """Whatever entries a program keeps, in whatever order, with whatever others between: pixels that nobody painted
    never become labels, and a class never becomes another."""
    values = data.draw(arrays(np.uint8, SIZE, elements=st.sampled_from([0, 1, 2, NOT_LABELLED, VOID])))
    ids = OF["a"].space.decode(values)
    ours = mask_palette(OF["a"].space)
    others = st.lists(st.sampled_from([5, 9, 200, 0, NOT_LABELLED, VOID, 77]), max_size=40)
    kept = data.draw(st.permutations([*np.unique(ids).tolist(), *data.draw(others)]))
    index = np.array([kept.index(number) if number in kept else 0 for number in range(256)], np.uint8)
    picture = Image.fromarray(index[ids]).convert("P")
    entries = [ours[number].tolist() for number in kept]
    if data.draw(st.booleans()):
        entries[0] = data.draw(st.lists(st.integers(0, 255), min_size=3, max_size=3))
    picture.putpalette([channel for entry in entries for channel in entry])
    with tempfile.TemporaryDirectory() as place, ledger_with(OF["a"], *QUESTIONS) as ledger:
        path = FORMATS["folder"].write(Path(place), [])
        (path / "a/labels").mkdir(parents=True)
        picture.save(path / "a/labels/a-0.png")
        colours = [tuple(ours[number].tolist()) for number in kept]
        if tuple(entries[0]) != colours[0] and 0 in index[ids] and tuple(entries[0]) not in map(tuple, ours.tolist()):
            refused(ledger, lambda: FORMATS["folder"].read(ledger, OF, path, "ann"), "its palette is not the one")
        elif tuple(entries[0]) == colours[0]:
            FORMATS["folder"].read(ledger, OF, path, "ann")
            np.testing.assert_array_equal(ledger.labels("a", "a-0"), values)


def test_an_answer_that_arrives_meanwhile_is_not_overridden(ledger: Ledger, tmp_path: Path) -> None:
    path = write_with(coco.write_instances, "e.json")(tmp_path, both())
    of = {"a": replace(OF["a"], splits=Meanwhile(OF["a"].splits, ledger))}
    with pytest.raises(ValueError, match=r"questions \[1\] were answered while this was read; give"):
        coco.read_answers(ledger, of, path, "ben")
    assert [answer.annotator for answer in ledger.answers()] == ["ada"]


class Meanwhile(dict[str, tuple[str, ...]]):
    """Splits; while they are looked at, somebody answers on the page."""

    def __init__(self, splits: Mapping[str, tuple[str, ...]], ledger: Ledger) -> None:
        super().__init__(splits)
        self._ledger = ledger

    def __getitem__(self, key: str) -> tuple[str, ...]:
        if not self._ledger.answers():
            question = self._ledger.questions()[0]
            self._ledger.answer([Answer(1, "ada", "page 1", question.crop(whole(0)))])
        return super().__getitem__(key)
