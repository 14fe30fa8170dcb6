"""Label Studio: what its people get, and what of their brush strokes the ledger gets.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import annotating
import numpy as np
import pytest
from annotating import EXAMPLES, ODD_NAMES, SHAPE, SIZE, change, domain, ledger_with, refused, round_trip, three

from fewmask.annotation.importer import Import
from fewmask.annotation.label_studio import brush_results, config, read_answers, write_list, write_questions
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Question
from fewmask.annotation.tasks import labels, mark
from fewmask.data.domain import Domain, read_image
from fewmask.formats.rle import decode_brush
from fewmask.labels import NOT_LABELLED, VOID, Mask

EXPORT = Path(__file__).parents[1] / "fixtures" / "label-studio-export.json"


def results(mask: Mask, domains: Domain) -> list[dict[str, Any]]:
    """What a person leaves who paints this mask: a stroke for each class."""
    return brush_results((f"r{v}", name, mask == v) for name, v in labels(domains.space).items() if (mask == v).any())


def annotation(painted: list[dict[str, Any]], by: Any = 7, **more: Any) -> dict[str, Any]:
    return {"id": 11, "completed_by": by, "result": painted, "was_cancelled": False, "lead_time": 30.0, **more}


def task(*annotations: dict[str, Any], stem: str = "a-0", questions: tuple[int, ...] = (1, 2)) -> dict[str, Any]:
    data = {"domain": "a", "stem": stem, "questions": list(questions)}
    return {"id": 1, "data": data, "annotations": list(annotations), "drafts": [], "predictions": []}


def exported(tmp_path: Path, *tasks: dict[str, Any]) -> Path:
    path = tmp_path / "export.json"
    write_list(path, tasks)
    return path


# ── Out ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_people_get(ledger: Ledger, domains: dict[str, Domain], tmp_path: Path) -> None:
    assert [q.id for q in write_questions(ledger, domains, tmp_path)] == [1, 2, 3]
    written = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    pictures = {f"a/{kind}/{stem}.png" for kind in ("images", "asked") for stem in ("a-0", "a-2")}
    assert written == {".written.jsonl", "a/config.xml", "a/tasks.json", *pictures}
    image = domains["a"].image("a-0")
    np.testing.assert_array_equal(read_image(tmp_path / "a/images/a-0.png"), image)
    np.testing.assert_array_equal(read_image(tmp_path / "a/asked/a-0.png"), mark(image, three()[:2]))
    one, two = json.loads((tmp_path / "a/tasks.json").read_text())
    assert one["data"] == {
        "asked": "/data/local-files/?d=a/asked/a-0.png",
        "image": "/data/local-files/?d=a/images/a-0.png",
        "domain": "a",
        "stem": "a-0",
        "questions": [1, 2],
    }
    assert two["predictions"] == []  # the network expects nothing of the point


def test_guesses_are_brush_predictions_region_by_region(
    ledger: Ledger, domains: dict[str, Domain], tmp_path: Path
) -> None:
    write_questions(ledger, domains, tmp_path)
    (prediction,) = json.loads((tmp_path / "a/tasks.json").read_text())[0]["predictions"]
    assert prediction["model_version"] == "fewmask"  # of every round: it shows those of one version
    expected = np.zeros((2, *SIZE), dtype=bool)
    expected[0, 2:7, 3:9] = True
    expected[1, 10:14, 10:16] = SHAPE
    for result, mask, name in zip(prediction["result"], expected, ODD_NAMES[1:], strict=True):
        size = (result["original_height"], result["original_width"])
        assert (size, result["type"], result["from_name"], result["to_name"]) == (SIZE, "brushlabels", "label", "image")
        assert (result["value"]["format"], result["value"]["brushlabels"]) == ("rle", [name])
        painted = decode_brush(bytes(result["value"]["rle"]), mask.size)
        np.testing.assert_array_equal(painted, np.flatnonzero(mask))


@dataclass(frozen=True)
class Pseudo:
    label: Mask

    def read(self, stem: str) -> tuple[Mask, np.ndarray]:
        return self.label, np.zeros_like(self.label)


def test_pseudo_labels_are_finer_guesses(ledger: Ledger, domains: dict[str, Domain], tmp_path: Path) -> None:
    label = np.zeros(SIZE, np.uint8)
    label[4:] = 2
    write_questions(ledger, {"a": replace(domains["a"], pseudo=Pseudo(label))}, tmp_path)
    (prediction,) = json.loads((tmp_path / "a/tasks.json").read_text())[0]["predictions"]
    painted = np.full(SIZE, NOT_LABELLED, np.uint8)
    for result in prediction["result"]:
        inside = decode_brush(bytes(result["value"]["rle"]), label.size)
        painted.reshape(-1)[inside] = ODD_NAMES.index(result["value"]["brushlabels"][0])
    expected = np.full(SIZE, NOT_LABELLED, np.uint8)
    for question in three()[:2]:
        question.window(expected)[question.inside] = question.window(label)[question.inside]
    np.testing.assert_array_equal(painted, expected)
    assert len(prediction["result"]) == 3


def test_pictures_can_lie_elsewhere(ledger: Ledger, domains: dict[str, Domain], tmp_path: Path) -> None:
    write_questions(ledger, domains, tmp_path, 1, images_at="https://example.org/q/")
    first = json.loads((tmp_path / "a/tasks.json").read_text())[0]
    assert first["data"]["asked"] == "https://example.org/q/a/asked/a-0.png"


def test_the_configuration_has_every_class_and_void_escaped() -> None:
    view = ElementTree.fromstring(config(domain().space))
    brush, image = view.find("BrushLabels"), view.find("Image")
    assert brush is not None and image is not None
    assert [label.get("value") for label in brush] == [*ODD_NAMES, "void"]
    assert (brush.get("name"), brush.get("toName"), image.get("value")) == ("label", image.get("name"), "$asked")
    colours = [str(label.get("background")) for label in brush]
    assert len(set(colours)) == 4 and all(len(c) == 7 for c in colours)
    void = ElementTree.fromstring(config(domain(names=("void", "a", "b")).space)).findall("BrushLabels/Label")
    assert [label.get("value") for label in void] == ["void", "a", "b", "void (no class)"]
    for name in ("$task", "a\x00b"):
        with pytest.raises(ValueError, match="Label Studio cannot show this name"):
            config(domain(names=(name, "a", "b")).space)


# ── In ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_export_as_label_studio_writes_it(ledger: Ledger, domains: dict[str, Domain]) -> None:
    """Its codes were made by @thi.ng/rle-pack 3.2.12, which Label Studio's editor uses.

    Two people painted image a-0. The first's stroke covers rows 1 to 5 and columns 2 to 10, where it fades: column 9
    is half covered, column 10 less. Over it is void in a ring around row 3, column 4, painted in colour as older
    editors do.
    """
    assert read_answers(ledger, domains, EXPORT, "nobody") == Import(
        3, 0, 2, outside=32, in_part=2, beside={"label-studio:7": 1}
    )
    stroke = np.full(SIZE, NOT_LABELLED, np.uint8)
    stroke[1:6, 2:10] = 1
    ring = stroke.copy()
    ring[2:5, 3:6] = VOID
    ring[3, 4] = 1
    stroke[stroke == 1] = 0
    square = three()[0]
    seven, eight, point = ledger.answers()
    assert [a.annotator for a in ledger.answers()] == ["label-studio:7", "label-studio:8", "label-studio:7"]
    np.testing.assert_array_equal(seven.values, square.crop(ring))
    np.testing.assert_array_equal(eight.values, square.crop(stroke))
    assert point.values is not None and point.values.tolist() == [[2]]
    assert [(a.question, a.seconds) for a in ledger.answers()] == [(1, 30.0), (1, 4.5), (3, 2.5)]
    assert read_answers(ledger, domains, EXPORT, "nobody").unchanged == 3
    assert len(ledger.answers()) == 3


@pytest.mark.parametrize("examples", EXAMPLES)
def test_what_is_painted_comes_back(examples: int, tmp_path: Path) -> None:
    def come_back(ledger: Ledger, domains: Mapping[str, Domain], mask: Mask) -> None:
        path = exported(tmp_path, task(annotation(results(mask, domains["a"])), questions=(1,)))
        read_answers(ledger, domains, path, "ann")

    round_trip(examples, come_back)


def test_the_later_stroke_wins(ledger: Ledger, domains: dict[str, Domain], tmp_path: Path) -> None:
    below, above = np.full(SIZE, 0, np.uint8), np.full(SIZE, NOT_LABELLED, np.uint8)
    above[:4] = 2
    strokes = results(below, domains["a"]) + results(above, domains["a"])
    read_answers(ledger, domains, exported(tmp_path, task(annotation(strokes))), "ann")
    assert ledger.labels("a", "a-0")[2:7, 3].tolist() == [2, 2, 0, 0, 0]


def test_lead_time_is_shared_by_decided_pixels_and_never_counted_twice(
    ledger: Ledger, domains: dict[str, Domain], tmp_path: Path
) -> None:
    mask = np.zeros(SIZE, np.uint8)
    read_answers(ledger, domains, exported(tmp_path, task(annotation(results(mask, domains["a"])))), "ann")
    square, superpixel = 30, int(SHAPE.sum())
    shares = [30 * pixels / (square + superpixel) for pixels in (square, superpixel)]
    assert [a.seconds for a in ledger.answers()] == pytest.approx(shares)
    mask[2, 3] = 1  # corrected later; Label Studio's lead time goes on from where it was
    later = annotation(results(mask, domains["a"]), lead_time=50.0)
    outside = SIZE[0] * SIZE[1] - 46
    taken = read_answers(ledger, domains, exported(tmp_path, task(later)), "ann", "corrections")
    assert taken == Import(1, 1, 0, outside, corrected=1)
    assert ledger.answers()[-1].seconds == pytest.approx(20 * square / (square + superpixel))
    nothing = annotation(results(np.ones(SIZE, np.uint8), domains["a"]), lead_time=None)
    read_answers(ledger, domains, exported(tmp_path, task(nothing)), "ann", "corrections")
    assert ledger.answers()[-1].seconds is None


def test_a_cancelled_task_is_a_skip(ledger: Ledger, domains: dict[str, Domain], tmp_path: Path) -> None:
    path = exported(tmp_path, task(annotation([], was_cancelled=True, lead_time=3.0)))
    assert read_answers(ledger, domains, path, "ann") == Import(0, 0, 0, 0, skipped=2)
    assert [(a.question, a.kind, a.annotator, a.seconds) for a in ledger.answers()] == [
        (1, "skip", "label-studio:7", 1.5),
        (2, "skip", "label-studio:7", 1.5),
    ]
    assert read_answers(ledger, domains, path, "ann") == Import(0, 2, 0, 0)
    assert [q.id for q in ledger.questions(open_only=True)] == [3]


@pytest.mark.parametrize(
    ("by", "name"), [(7, "label-studio:7"), ({"id": 3, "email": "x@y"}, "label-studio:3"), (None, "ann")]
)
def test_who_painted_is_kept(ledger: Ledger, domains: dict[str, Domain], tmp_path: Path, by: Any, name: str) -> None:
    painted = results(np.zeros(SIZE, np.uint8), domains["a"])
    read_answers(ledger, domains, exported(tmp_path, task(annotation(painted, by=by))), "ann")
    assert {a.annotator for a in ledger.answers()} == {name}


def test_drafts_and_predictions_are_nobodys_answers(ledger: Ledger, domains: dict[str, Domain], tmp_path: Path) -> None:
    painted = results(np.zeros(SIZE, np.uint8), domains["a"])
    more = {"drafts": [{"result": painted}], "predictions": [{"result": painted}]}
    read_answers(ledger, domains, exported(tmp_path, task(annotation([])) | more), "ann")
    assert ledger.answers() == []


def test_one_image_in_tasks_of_two_rounds(domains: dict[str, Domain], tmp_path: Path) -> None:
    square, superpixel, _ = three()
    with ledger_with(domains["a"], square) as ledger:
        ledger.ask(2, [superpixel])
        zeros, ones = np.zeros(SIZE, np.uint8), np.ones(SIZE, np.uint8)
        first = task(annotation(results(zeros, domains["a"])), questions=(1,))
        second = task(annotation(results(ones, domains["a"])), questions=(2,))
        read_answers(ledger, domains, exported(tmp_path, first, second), "ann")
        mask = ledger.labels("a", "a-0")
        assert (mask[2:7, 3:9] == 0).all() and (mask[10:14, 10:16][SHAPE] == 1).all()
        both = task(annotation(results(np.full(SIZE, 2, np.uint8), domains["a"])), questions=(1, 2))
        twice = exported(tmp_path, first | {"annotations": both["annotations"]}, both)
        with pytest.raises(ValueError, match=r"label-studio:7 answers a/a-0 squares #0 twice, in two tasks; keep one"):
            read_answers(ledger, domains, twice, "ann", "corrections")


RESULT = "annotations.0.result.0"
WRONG = {
    "other questions": (change("data.questions", [1, 3]), "questions [1, 3] about a-0, which has [1, 2]"),
    "no ids": (change("data.questions", [[1]]), "are no ids"),
    "another size": (change(f"{RESULT}.original_width", 25), "25×20 pixels, its image is 24×20"),
    "no size": (change(f"{RESULT}.original_width", None), "original_width is null, not a whole number"),
    "turned": (change(f"{RESULT}.image_rotation", 90), "an image that was turned"),
    "no result": (change(RESULT, None), "result 1: no object"),
    "two classes": (change(f"{RESULT}.value.brushlabels", list(ODD_NAMES[:2])), "not one of"),
    "no code": (change(f"{RESULT}.value.rle", "abc"), "rle is text, not a list"),
    "no bytes": (change(f"{RESULT}.value.rle", [1.5]), "no list of bytes"),
    "too large a byte": (change(f"{RESULT}.value.rle", [256]), "bytes must be in range"),
    "a short code": (change(f"{RESULT}.value.rle", [0, 0, 7, 128]), "it is cut short"),
    "an annotator": (change("annotations.0.completed_by", "eve"), "completed_by is text, not a whole number"),
    "a time": (change("annotations.0.lead_time", "fast"), "lead_time is fast, not a number of seconds"),
    "a negative time": (change("annotations.0.lead_time", -1), "lead_time is -1, not a number of seconds"),
    "an endless time": (change("annotations.0.lead_time", 1e400), "Infinity is no number"),
    "no annotations": (change("annotations", {}), "annotations is an object, not a list"),
    "an annotation": (change("annotations.0", 3), "an annotation that is no object"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_refused_with_all_that_came_with_it(
    ledger: Ledger, domains: dict[str, Domain], tmp_path: Path, wrong: str
) -> None:
    painted = results(np.zeros(SIZE, np.uint8), domains["a"])
    bad, good = task(annotation(painted)), task(annotation(painted), stem="a-2", questions=(3,))
    put, message = WRONG[wrong]
    put(bad)
    path = exported(tmp_path, good, bad)
    refused(ledger, lambda: read_answers(ledger, domains, path, "ann"), str(path), message)


def test_every_problem_is_listed(ledger: Ledger, domains: dict[str, Domain], tmp_path: Path) -> None:
    painted = results(np.zeros(SIZE, np.uint8), domains["a"])
    twice = task(annotation(painted), annotation(painted))
    unknown = task(annotation(painted), stem="a-9") | {"id": 2}
    path = exported(tmp_path, twice, unknown, {"brush": [], "id": 3})
    refused(
        ledger,
        lambda: read_answers(ledger, domains, path, "ann"),
        "task 1, annotation 11: label-studio:7 answers about a/a-0 twice; keep one of the two",
        "task 3: it has no list of annotations; export as JSON, not as JSON-MIN or CSV",
    )


def test_other_classes_than_were_asked_about(ledger: Ledger, domains: dict[str, Domain], tmp_path: Path) -> None:
    painted = results(np.zeros(SIZE, np.uint8), domains["a"])
    other = {"a": annotating.domain(names=("x", "y", "z"))}
    path = exported(tmp_path, task(annotation(painted)))
    refused(ledger, lambda: read_answers(ledger, other, path, "ann"), "a run keeps its classes")


def test_an_export_without_answers(ledger: Ledger, domains: dict[str, Domain], tmp_path: Path) -> None:
    for path in (exported(tmp_path), exported(tmp_path, task())):
        refused(
            ledger,
            lambda path=path: read_answers(ledger, domains, path, "ann"),
            "no annotations for the questions in it",
        )  # type: ignore[misc]


def test_a_question_of_one_pixel(domains: dict[str, Domain], tmp_path: Path) -> None:
    with ledger_with(domains["a"], Question("a", "a-0", "points", 0, (19, 23, 20, 24), guess=0)) as ledger:
        write_questions(ledger, domains, tmp_path)
        (one,) = json.loads((tmp_path / "a/tasks.json").read_text())
        confirmed = one | {"annotations": [annotation(one["predictions"][0]["result"])]}
        assert read_answers(ledger, domains, exported(tmp_path, confirmed), "ann") == Import(1, 0, 0, 0)
        assert ledger.labels("a", "a-0")[19, 23] == 0
