"""Questions and answers as a folder of PNGs: what people paint is what the ledger gets, and nothing else."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fewmask.annotation.folder import read_answers, write_questions
from fewmask.annotation.importer import Import
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Answer, Question
from fewmask.annotation.tasks import DIM, OUTLINE, mark
from fewmask.annotation.tools import TOOLS
from fewmask.data.domain import Domain, read_image, read_mask
from fewmask.files import NOTES
from fewmask.labels import NOT_LABELLED, VOID, LabelSpace, Mask

SIZE = (20, 24)
SHAPE = np.arange(24).reshape(4, 6) % 3 > 0


@pytest.fixture
def of() -> dict[str, Domain]:
    """Domain a, whose own ids are 5, 9 and 200, with 0 for void."""
    plain = helpers.domain("a", 3, images=3, labelled=0, size=SIZE)
    space = LabelSpace(plain.space.names, plain.space.colours, {5: 0, 9: 1, 200: 2}, frozenset({0}))
    return {"a": replace(plain, space=space)}


@pytest.fixture
def ledger(tmp_path: Path, of: dict[str, Domain]) -> Iterator[Ledger]:
    """Asked are three regions of two images; of the second round one more."""
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        opened.add_images(of["a"], of["a"].splits["train"])
        one = Question("a", "a-0", "squares", 0, (2, 3, 7, 9), guess=1)
        two = Question("a", "a-0", "superpixels", 4, (10, 10, 14, 16), shape=SHAPE)
        opened.ask(1, [one, two, Question("a", "a-2", "points", 3, (0, 23, 1, 24))])
        opened.ask(2, [Question("a", "a-1", "squares", 1, (0, 0, 4, 4))])
        yield opened


def paint(folder: Path, stem: str, raw: Mask) -> None:
    path = folder / "a" / "labels" / f"{stem}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(raw).save(path)


def template(folder: Path, stem: str) -> Mask:
    return read_mask(folder / "a" / "labels" / f"{stem}.png").copy()


def test_what_people_get(ledger: Ledger, of: dict[str, Domain], tmp_path: Path) -> None:
    folder = tmp_path / "questions"
    assert [q.id for q in write_questions(ledger, of, folder, 1)] == [1, 2, 3]
    written = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    pictures = {f"a/{kind}/{stem}.png" for kind in ("images", "asked", "labels") for stem in ("a-0", "a-2")}
    assert written == {"questions.json", ".written.jsonl", "a/classes.yaml", *pictures}
    np.testing.assert_array_equal(read_image(folder / "a/images/a-0.png"), of["a"].image("a-0"))
    assert (template(folder, "a-0") == NOT_LABELLED).all()
    assert LabelSpace.from_yaml(folder / "a/classes.yaml") == of["a"].space
    listed = json.loads((folder / "questions.json").read_text())
    assert [q["id"] for q in listed] == [1, 2, 3]
    assert listed[0]["box"] == {"y0": 2, "x0": 3, "y1": 7, "x1": 9}
    assert [q["guess"] for q in listed] == ["a1", None, None]


def test_asked_regions_are_outlined_and_the_rest_is_dimmed() -> None:
    image = np.full((*SIZE, 3), 100, dtype=np.uint8)
    corner = Question("a", "x", "squares", 0, (0, 0, 3, 2))
    beside = Question("a", "x", "superpixels", 0, (10, 10, 14, 16), shape=SHAPE)
    got = mark(image, [corner, beside])
    regions = np.zeros(SIZE, dtype=bool)
    regions[:3, :2] = True
    regions[10:14, 10:16] |= SHAPE
    for (y, x), inside in np.ndenumerate(regions):
        near = regions[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].any()
        expected = (100, 100, 100) if inside else OUTLINE if near else (int(100 * DIM),) * 3
        assert tuple(got[y, x]) == expected, (y, x)
    assert (image == 100).all()


def test_only_asked_regions_are_taken(ledger: Ledger, of: dict[str, Domain], tmp_path: Path) -> None:
    folder = tmp_path / "questions"
    write_questions(ledger, of, folder)
    raw = np.full(SIZE, 9, np.uint8)  # everything is painted, asked or not
    raw[2:4, 3:9] = 0
    raw[4, 3:9] = NOT_LABELLED
    paint(folder, "a-0", raw)
    square, superpixel = 30, int(SHAPE.sum())
    outside = raw.size - square - superpixel
    assert read_answers(ledger, of, folder, "ann") == Import(2, 0, 2, outside, in_part=1)
    expected = np.full(SIZE, NOT_LABELLED, np.uint8)
    expected[2:7, 3:9] = 1
    expected[2:4, 3:9] = VOID
    expected[4, 3:9] = NOT_LABELLED
    expected[10:14, 10:16][SHAPE] = 1
    np.testing.assert_array_equal(ledger.labels("a", "a-0"), expected)
    assert [q.id for q in ledger.questions(open_only=True)] == [3, 4]
    assert {a.annotator for a in ledger.answers()} == {"ann"}


def test_the_same_folder_again_adds_nothing_and_painting_over_corrects(
    ledger: Ledger, of: dict[str, Domain], tmp_path: Path
) -> None:
    folder = tmp_path / "questions"
    raw = np.full(SIZE, 9, np.uint8)
    paint(folder, "a-0", raw)
    assert read_answers(ledger, of, folder, "ann").answered == 2
    again = read_answers(ledger, of, folder, "ann")
    assert (again.answered, again.unchanged, ledger.last_answer_id()) == (0, 2, 2)
    raw[2, 3] = 5
    paint(folder, "a-0", raw)
    left = read_answers(ledger, of, folder, "ann")
    assert (left.answered, left.unchanged, left.closed) == (0, 1, 1)
    changed = read_answers(ledger, of, folder, "ann", "corrections")
    assert (changed.answered, changed.unchanged, changed.corrected) == (1, 1, 1)
    assert ledger.labels("a", "a-0")[2, 3] == 0
    raw[2, 3] = 9
    paint(folder, "a-0", raw)  # back to what it was at first
    assert read_answers(ledger, of, folder, "ann", "corrections").answered == 1
    assert ledger.labels("a", "a-0")[2, 3] == 1
    others = read_answers(ledger, of, folder, "bob", "corrections")  # another's answers are another's
    assert (others.answered, others.corrected, others.beside) == (2, 0, {"ann": 2})
    last = ledger.last_words()[-1]
    ledger.answer([Answer(last.question, "bob", "back", kind="retract", retracts=last.id)])
    assert read_answers(ledger, of, folder, "bob", "corrections").answered == 1  # taken back, then imported anew


def test_an_old_folder_does_not_take_back_what_was_corrected_elsewhere(
    ledger: Ledger, of: dict[str, Domain], tmp_path: Path
) -> None:
    folder = tmp_path / "questions"
    paint(folder, "a-0", np.full(SIZE, 9, np.uint8))
    read_answers(ledger, of, folder, "ann")
    one, two = ledger.last_words()
    assert one.values is not None
    ledger.answer([replace(one, token="page 1", values=np.zeros_like(one.values))])
    ledger.answer([Answer(two.question, "ann", "page 2", kind="skip")])
    again = read_answers(ledger, of, folder, "ann")
    assert (again.answered, again.unchanged, again.changed_since) == (0, 0, 2)
    assert ledger.labels("a", "a-0")[2, 3] == 0
    raw = np.full(SIZE, 9, np.uint8)
    raw[2, 3] = 5
    paint(folder, "a-0", raw)  # painted anew: the folder has the last word
    changed = read_answers(ledger, of, folder, "ann", "corrections")
    assert (changed.answered, changed.changed_since) == (1, 1)
    assert (ledger.labels("a", "a-0")[2, 3:5] == [0, 1]).all()


def test_what_was_painted_is_never_written_over(ledger: Ledger, of: dict[str, Domain], tmp_path: Path) -> None:
    folder = tmp_path / "questions"
    write_questions(ledger, of, folder)
    raw = template(folder, "a-0")
    raw[2:7, 3:9] = 5
    paint(folder, "a-0", raw)
    read_answers(ledger, of, folder, "ann")
    (folder / "a/asked/a-0.png").unlink()
    assert [q.id for q in write_questions(ledger, of, folder)] == [2, 3, 4]
    np.testing.assert_array_equal(template(folder, "a-0"), raw)
    assert (folder / "a/asked/a-0.png").exists()
    assert [q["id"] for q in json.loads((folder / "questions.json").read_text())] == [2, 3, 4]


def test_asked_shows_what_is_open_and_no_more(ledger: Ledger, of: dict[str, Domain], tmp_path: Path) -> None:
    folder = tmp_path / "questions"
    write_questions(ledger, of, folder)
    shown = {path.name for path in (folder / "a/asked").iterdir()}
    assert shown == {f"{q.stem}.png" for q in ledger.questions()}
    paint(folder, "a-0", np.full(SIZE, 9, np.uint8))
    read_answers(ledger, of, folder, "ann")
    (folder / "a/asked/mine.png").touch()  # nobody else's file
    write_questions(ledger, of, folder)
    left = {f"{q.stem}.png" for q in ledger.questions(open_only=True)}
    assert "a-0.png" not in left
    assert {path.name for path in (folder / "a/asked").iterdir()} == left | {"mine.png"}
    assert {path.name for path in (folder / "a/labels").iterdir()} >= {"a-0.png"}


def test_every_problem_is_listed_and_nothing_is_imported(ledger: Ledger, of: dict[str, Domain], tmp_path: Path) -> None:
    folder = tmp_path / "questions"
    write_questions(ledger, of, folder)
    good = np.full(SIZE, 9, np.uint8)
    paint(folder, "a-0", good)
    labels = folder / "a" / "labels"
    Image.fromarray(good).convert("RGB").save(labels / "a-1.png")
    paint(folder, "a-2", good[:-1])
    paint(folder, "a-9", good)
    Image.fromarray(good).save(labels / "a-0.jpg")
    (folder / "b").mkdir()
    (folder / ".cache").mkdir()
    (labels / ".DS_Store").write_text("")
    with pytest.raises(ValueError, match=r"^nothing was imported:") as error:
        read_answers(ledger, of, folder, "ann")
    text = str(error.value)
    for problem in (
        f"{labels}/a-1.png: it holds colours (RGB); save one channel of class ids",
        f"{labels}/a-2.png: 24×19 pixels, its image is 24×20; paint it at the image's size",
    ):
        assert problem in text
    assert len(text.splitlines()) == 3
    unknown = good.copy()
    unknown[0, :5] = 1
    paint(folder, "a-2", unknown)
    with pytest.raises(ValueError, match=r"a-2\.png: no classes of a: 1 \(5 pixels\); paint 5 a0, 9 a1, 200 a2"):
        read_answers(ledger, of, folder, "ann")
    other = {"a": replace(of["a"], space=helpers.space(2))}
    with pytest.raises(ValueError, match="a run keeps its classes"):
        read_answers(ledger, other, folder, "ann")
    assert ledger.answers() == []


@pytest.mark.parametrize(
    ("place", "message"), [("nowhere", "no such folder"), ("empty", "no masks in <domain>/labels/")]
)
def test_a_folder_without_answers_is_an_error(
    ledger: Ledger, of: dict[str, Domain], tmp_path: Path, place: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        read_answers(ledger, of, tmp_path / place, "ann")


def test_an_image_that_changed_is_not_shown(ledger: Ledger, of: dict[str, Domain], tmp_path: Path) -> None:
    of["a"].image("a-1")[0, 0] ^= 1
    with pytest.raises(ValueError, match=r"other pixels than when they were asked about: images/a-1\.png"):
        write_questions(ledger, of, tmp_path / "questions")


def images(*stems: str) -> Domain:
    """Domain a with an image, all alike, of each of these stems."""
    plain = helpers.domain("a", 3, images=1, labelled=0, size=SIZE)
    source = helpers.ArraySource(dict.fromkeys(stems, plain.image("a-0")), {})
    return replace(plain, source=source, splits={"train": stems})


# Names of folders and files, of which some begin like others, or have what looks like an ending.
PARTS = st.text("ab.é -", min_size=1, max_size=4).filter(lambda part: not part.startswith("."))
STEMS = st.lists(PARTS, min_size=1, max_size=3).map("/".join)


@settings(max_examples=15, deadline=None)
@given(data=st.data(), stems=st.lists(STEMS, min_size=1, max_size=5, unique=True))
def test_images_in_subfolders_come_back_as_themselves(data: st.DataObject, stems: list[str]) -> None:
    """Whatever is painted of whichever images, is answered of these and of no others, and lies inside of the folder."""
    of = {"a": images(*stems)}
    painted = data.draw(st.sets(st.sampled_from(stems), min_size=1))
    with tempfile.TemporaryDirectory() as place, Ledger(Path(place) / "ledger.sqlite") as ledger:
        folder = Path(place) / "questions"
        ledger.add_images(of["a"], stems)
        ledger.ask(1, [Question("a", stem, "squares", 0, (2, 3, 7, 9)) for stem in stems])
        write_questions(ledger, of, folder)
        for kind in ("images", "asked", "labels"):
            files = {p.relative_to(folder / "a" / kind).as_posix() for p in (folder / "a" / kind).rglob("*.png")}
            assert files == {f"{stem}.png" for stem in stems}
        for number, stem in enumerate(sorted(painted)):
            assert (template(folder, stem) == NOT_LABELLED).all()
            paint(folder, stem, np.full(SIZE, number % 3, np.uint8))
        assert read_answers(ledger, of, folder, "ann").answered == len(painted)
        assert ledger.answered_stems("a") == tuple(sorted(painted))
        for number, stem in enumerate(sorted(painted)):
            assert ledger.labels("a", stem)[2, 3] == number % 3


@pytest.mark.parametrize("stem", ["../a", "b/../../a", "/a", "b//a", ".b/a", "b/.a", "b\\a"])
def test_no_picture_is_written_outside_or_where_none_is_read(stem: str, tmp_path: Path) -> None:
    of = {"a": images(stem)}
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.add_images(of["a"], [stem])
        ledger.ask(1, [Question("a", stem, "squares", 0, (2, 3, 7, 9))])
        with pytest.raises(ValueError, match=r"not a path below .*; "):
            write_questions(ledger, of, tmp_path / "deep" / "questions")
    assert not list(tmp_path.rglob("*.png"))


def test_what_is_left_out_in_subfolders_is_named(tmp_path: Path) -> None:
    of = {"a": images("b/c", "d")}
    folder, labels = tmp_path / "questions", tmp_path / "questions" / "a" / "labels"
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.add_images(of["a"], ["b/c", "d"])
        ledger.ask(1, [Question("a", stem, "squares", 0, (2, 3, 7, 9)) for stem in ("b/c", "d")])
        write_questions(ledger, of, folder)
        paint(folder, "c", np.zeros(SIZE, np.uint8))  # put where it does not belong
        paint(folder, "b/.cache/c", np.zeros(SIZE, np.uint8))
        (labels / "b" / "notes.txt").touch()
        (labels / "e").symlink_to(labels / "b")
        left_out = {one.why: one.names for one in read_answers(ledger, of, folder, "ann").left_out}
    assert left_out == {
        "a file that a system left there": ("a/labels/b/.cache/c.png",),
        "not a PNG by its name": ("a/labels/b/notes.txt",),
        "nothing was asked about it": ("a/labels/c.png",),
        "a link to a folder, which is not followed": ("a/labels/e",),
    }


@pytest.mark.parametrize("tool", TOOLS)
def test_what_fewmask_wrote_beside_the_masks_is_not_left_out(
    tool: str, ledger: Ledger, of: dict[str, Domain], tmp_path: Path
) -> None:
    """Wherever the folder of questions lies in the one that is read; what others made of it is named."""
    folder = tmp_path / "all" / "deep" / "questions"
    write_questions(ledger, of, folder)
    if tool != "folder":
        TOOLS[tool].write_questions(ledger, of, folder)
    paint(folder, "a-0", np.full(SIZE, 9, np.uint8))
    assert read_answers(ledger, of, tmp_path / "all", "ann").left_out == ()
    (folder / "mine.json").write_text("{}")
    for file in set(folder.glob("a/*.json")) | set(folder.glob("a/*.xml")):
        file.write_text("{}")
    theirs = {"mine.json", *(p.relative_to(folder).as_posix() for p in folder.glob("a/*.[jx]*"))}
    (left_out,) = read_answers(ledger, of, tmp_path / "all", "ann").left_out
    assert set(left_out.names) == {f"deep/questions/{name}" for name in theirs}


def test_notes_of_strangers_hide_no_answer(ledger: Ledger, of: dict[str, Domain], tmp_path: Path) -> None:
    folder = tmp_path / "questions"
    write_questions(ledger, of, folder)
    paint(folder, "a-0", np.full(SIZE, 9, np.uint8))
    (folder / "con .txt").touch()
    (folder / NOTES).write_text("[" * 100_000 + '\n{"name": "con .txt", "is": "0-x"}\n{"name": "../x", "is": "0-x"}\n')
    taken = read_answers(ledger, of, folder, "ann")
    assert (taken.answered, [one.names for one in taken.left_out]) == (2, [("con .txt",)])


@settings(max_examples=15)
@given(seed=st.integers(0, 2**16), count=st.integers(1, 6))
def test_what_is_painted_is_what_the_ledger_says(seed: int, count: int) -> None:
    """For any tiling by random shapes and any paint: the labels are the paint where it was asked for, else 254."""
    rng = np.random.default_rng(seed)
    plain = helpers.domain("a", 3, images=1, labelled=0, size=SIZE)
    space = LabelSpace(plain.space.names, plain.space.colours, {5: 0, 9: 1, 200: 2}, frozenset({0}))
    of = {"a": replace(plain, space=space)}
    owner = rng.integers(0, count, SIZE)
    with tempfile.TemporaryDirectory() as place, Ledger(Path(place) / "ledger.sqlite") as ledger:
        folder = Path(place) / "questions"
        ledger.add_images(of["a"], ["a-0"])
        chosen = [r for r in range(count) if rng.random() < 0.6 and (owner == r).any()] or [int(owner[0, 0])]
        questions = []
        for region in chosen:
            ys, xs = np.nonzero(owner == region)
            box = (int(ys.min()), int(xs.min()), int(ys.max()) + 1, int(xs.max()) + 1)
            inside = owner[box[0] : box[2], box[1] : box[3]] == region
            questions.append(Question("a", "a-0", "random", region, box, shape=inside))
        ledger.ask(1, questions)
        write_questions(ledger, of, folder)
        raw = rng.choice(np.array([5, 9, 200, 0, NOT_LABELLED], np.uint8), SIZE)
        paint(folder, "a-0", raw)
        read_answers(ledger, of, folder, "ann")
        expected = np.where(np.isin(owner, chosen), space.encode(raw), np.uint8(NOT_LABELLED))
        np.testing.assert_array_equal(ledger.labels("a", "a-0"), expected)
