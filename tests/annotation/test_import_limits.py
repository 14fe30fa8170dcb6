"""Damaged and overlong files: nothing but a ValueError comes of them, within stated limits of memory and work.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

import json
import random
import resource
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amiss import chunks_of, png_of
from annotating import EXAMPLES, ledger_with
from exports import FORMATS, OF, QUESTIONS, both

from fewmask.annotation import importer
from fewmask.annotation.importer import Import
from fewmask.annotation.store import Unavailable
from fewmask.formats import rle, texts
from fewmask.formats.shapes import fill_polygon

# ── Limits, by count: no test asserts a time ─────────────────────────────────────────────────────────────────────────


def read(path: Path, name: str) -> str:
    """What an import that is refused says; nothing of it is kept."""
    with ledger_with(OF["a"], *QUESTIONS) as ledger:
        with pytest.raises(ValueError, match=r"^nothing was imported:") as error:
            FORMATS[name].read(ledger, OF, path, "ann")
        assert not ledger.answers()
    return str(error.value)


LONG = {
    "coco": ('{"images": [], "categories": [], "annotations": [', "]}"),
    "label-studio": ('[{"id": 1, "annotations": [', "]}]"),
    "label-studio-server": ('[{"id": 1, "annotations": [', "]}]"),
}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("value", ["[]", '{"a":[]}'])
def test_empty_lists_are_refused_before_they_are_made(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Python's objects they take twenty times the memory of the text that they are in."""
    monkeypatch.setattr(texts, "MAX_LISTS", texts.MAX_LISTS // 50)
    monkeypatch.setattr(texts, "COUNTED_FROM", texts.COUNTED_FROM // 50)
    monkeypatch.setattr(texts, "CHUNK", texts.CHUNK // 50)
    path, (before, after) = tmp_path / "e.json", LONG[name]
    path.write_text(before + ",".join([value] * (2_400_000 // (len(value) + 1))) + after)
    tracemalloc.start()
    try:
        assert f"lists and objects, more than 10000000 in {texts.MAX_LISTS}; export fewer images" in read(path, name)
        assert tracemalloc.get_traced_memory()[1] < 5 * path.stat().st_size
    finally:
        tracemalloc.stop()


def test_brackets_in_text_are_no_lists() -> None:
    """Run-length codes are full of them, and of quotes that were written with a backslash."""
    text = json.dumps({"counts": '[[[{,,"\\' * 2_000_000})
    assert len(text) > texts.COUNTED_FROM
    assert list(texts.parse_json(text, "x")) == ["counts"]


def test_blanks_take_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "CHUNK", 16)
    text, reads, at = f"[{' ' * 100_000}{{}}{' ' * 100_000}]", list[int](), 0

    def hand_out(wanted: int) -> str:
        nonlocal at
        reads.append(wanted)
        at += wanted
        return text[at - wanted : at]

    assert list(texts.stream_items("x", hand_out)) == [{}]
    assert len(reads) < 40


@pytest.mark.parametrize(
    ("module", "limits", "name", "message"),
    [
        (texts, {"MAX_LISTS": 5, "COUNTED_FROM": 0}, "coco", "lists and objects, more than"),
        (texts, {"MAX_NUMBERS": 5, "COUNTED_FROM": 0}, "coco-panoptic", "lists and objects, more than"),
        (texts, {"MAX_TEXT": 50}, "coco", "more than 50 bytes; export fewer images"),
        (texts, {"MAX_TEXT": 50, "CHUNK": 20}, "label-studio", "each of at most 50 characters"),
        (texts, {"MAX_TEXT": 50, "CHUNK": 20}, "label-studio-server", "each of at most 50 characters"),
        (texts, {"MAX_ELEMENTS": 5}, "cvat-xml", "more than 5 elements; export fewer images"),
        (texts, {"MAX_TAG": 20, "CHUNK": 8}, "cvat-xml", "a tag of more than 20 bytes"),
        (rle, {"MAX_RUNS": 5}, "cvat-xml", "runs, more than 5; smooth the mask"),
        (rle, {"MAX_CODE": 5}, "coco", "characters, more than 5; smooth the mask"),
        *((importer, {"MAX_WORK": 5_000}, name, "more than 5000 pixels to paint in one import") for name in FORMATS),
        *((importer, {"MAX_TAKEN": 500}, name, "more than 500 pixels of answers in one import") for name in FORMATS),
    ],
)
def test_what_passes_a_limit_is_refused(
    module: Any, limits: dict[str, int], name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = FORMATS[name].write(tmp_path, both())
    for limit, value in limits.items():
        monkeypatch.setattr(module, limit, value)
    assert message in read(path, name)


def test_polygons_take_work_in_proportion_to_their_outline() -> None:
    mask = np.zeros((500, 500), np.uint8)
    works = []
    for count in (5_000, 50_000):  # a circle, whose points are ever nearer to each other
        angle = np.linspace(0, 2 * np.pi, count)
        done = fill_polygon(np.stack([250 + 200 * np.cos(angle), 250 + 200 * np.sin(angle)], axis=1), mask, 1)
        works.append(done.work)
        assert done.pixels == int(mask.sum())
    assert works[1] < 2 * works[0]
    points = np.random.default_rng(0).uniform(0, 500, (50_000, 2))
    with pytest.raises(ValueError, match=r"a polygon of 50000 points whose edges cross \d+ rows; draw a simpler one"):
        fill_polygon(points, mask, 1)


def test_many_polygons_are_too_much_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = FORMATS["coco"].write(tmp_path, both())
    data = json.loads(path.read_text())
    shape = [x for k in range(30) for x in (k % 2 * 24, k % 7)]
    data["annotations"] *= 50
    data["annotations"] = [{**one, "id": n, "segmentation": [shape]} for n, one in enumerate(data["annotations"])]
    path.write_text(json.dumps(data))
    monkeypatch.setattr(importer, "MAX_WORK", 1_000_000)
    assert "more than 1000000 pixels to paint in one import" in read(path, "coco")


@pytest.mark.parametrize("name", FORMATS)
def test_a_disk_that_takes_nothing_keeps_nothing_half(name: str, tmp_path: Path) -> None:
    """The file of the ledger cannot grow; once it can, the same import is whole."""
    message = r"^\S*ledger\.sqlite: disk I/O error; .*nothing was saved: see to the disk, and do the same again$"
    kit = FORMATS[name]
    path = kit.write(tmp_path, both())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with ledger_with(OF["a"], *QUESTIONS, path=tmp_path / "ledger.sqlite") as ledger:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        try:
            with pytest.raises(Unavailable, match=message):
                kit.read(ledger, OF, path, "ann")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not ledger.answers()
        assert kit.read(ledger, OF, path, "ann").answered == 2


# ── Damage ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("name", FORMATS)
def test_nothing_but_a_value_error_comes_of_damage(name: str, examples: int, tmp_path: Path) -> None:
    """Seeded flips, cuts, doublings and foreign numbers: an import either passes or says that nothing was imported."""
    kit, rng, passed = FORMATS[name], random.Random(f"{name} {examples}"), 0
    path = kit.write(tmp_path, both())
    targets = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    before = {target: target.read_bytes() for target in targets}
    for _ in range(examples):
        target = rng.choice(targets)
        spoilt = damaged(before[target], rng)
        target.write_bytes(png_of(chunks_of(spoilt)) if target.suffix == ".png" and rng.random() < 0.8 else spoilt)
        with ledger_with(OF["a"], *QUESTIONS) as ledger:
            outcome = taken_or_said(lambda: kit.read(ledger, OF, path, "ann"))
            passed += isinstance(outcome, Import)
            assert isinstance(outcome, Import) or (outcome.startswith("nothing was imported:") and not ledger.answers())
        target.write_bytes(before[target])
    assert 0 < passed < examples


def taken_or_said(read: Callable[[], Import]) -> Import | str:
    try:
        return read()
    except ValueError as error:
        return str(error)


NASTY = [b"\0", b"\xff" * 9, b"-1", b"1e999", b"9" * 400, b"NaN", b"null", b"true", b"[[]]", b'"', b"<a>", b"]", b"{}"]


def damaged(data: bytes, rng: random.Random) -> bytes:
    at, much = rng.randrange(len(data)), bytearray(data)
    kind = rng.randrange(5)
    if kind == 0:
        much[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del much[at:]
    elif kind == 2:
        much[at : at + rng.randrange(12)] = rng.choice(NASTY)
    elif kind == 3:
        end = min(at + rng.randrange(1, 60), len(data))
        much[at:at] = data[at:end]
    else:
        numbers = [i for i, byte in enumerate(data) if 48 <= byte < 58]
        if numbers:
            at = rng.choice(numbers)
            much[at : at + 1] = rng.choice(NASTY)
    return bytes(much)


def test_a_ledger_that_fails_while_an_image_is_looked_at_is_no_problem_of_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = FORMATS["folder"].write(tmp_path, both())
    with ledger_with(OF["a"], *QUESTIONS, path=tmp_path / "ledger.sqlite") as ledger:

        def fail(*given: object) -> None:
            raise Unavailable("ledger.sqlite: disk I/O error; see to the disk")

        monkeypatch.setattr(ledger, "expect", fail)
        with pytest.raises(Unavailable, match=r"^ledger\.sqlite: disk I/O error; see to the disk$"):
            FORMATS["folder"].read(ledger, OF, path, "ann")
        assert not ledger.answers()
