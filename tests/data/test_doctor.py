"""The data doctor: every fault is built on disk and found; one pass finds all of them at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trees
from PIL import Image

from fewmask.config import FolderDomain, ScenesDomain, VocDomain
from fewmask.data.doctor import Report, check_domains
from fewmask.data.layouts import Problem, load_domain

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def report(root: Path, labelled: int | None = None, **settings: object) -> Report:
    return check_domains({"mine": FolderDomain.model_validate({"root": root, **settings})}, labelled)


# Each fault: what breaks a whole dataset, the file that the line must name, what it must say, what it must advise.


def unreadable(root: Path) -> None:
    (root / "images/train1.jpg").write_text("not an image")


def truncated_image(root: Path) -> None:
    path = root / "images/pool0.jpg"
    path.write_bytes(path.read_bytes()[:-30])


def truncated_mask(root: Path) -> None:
    path = root / "labels/train1.png"
    path.write_bytes(path.read_bytes()[:-9])


def other_size(root: Path) -> None:
    trees.mask(root / "labels/train1.png", (0, 1), size=(5, 8))


def turned(root: Path) -> None:
    trees.mask(root / "labels/train1.png", (0, 1), size=trees.SIZE[::-1])


def tagged(root: Path, tag: int = 6, name: str = "train1") -> None:
    path = root / f"images/{name}.jpg"
    exif = Image.Exif()
    exif[0x0112] = tag
    with Image.open(path) as image:
        image.save(path, exif=exif)


def tagged_and_turned(root: Path) -> None:
    tagged(root)
    turned(root)


def unknown_ids(root: Path) -> None:
    trees.mask(root / "labels/train1.png", (0, 1, 7, 7, 8, 8, 8, 9))


def colours_as_mask(root: Path) -> None:
    trees.picture(root / "labels/train1.png")


def mask_without_image(root: Path) -> None:
    trees.mask(root / "labels/extra.png")


def stem_without_image(root: Path) -> None:
    trees.lines(root / "splits/train.txt", "train0", "train1", "train2", "ghost")


def stem_with_ending(root: Path) -> None:
    trees.lines(root / "splits/test.txt", "test0.jpg")


def stem_twice(root: Path) -> None:
    trees.lines(root / "splits/train.txt", "train0", "train1", "train2", "train0")


def two_splits(root: Path) -> None:
    trees.lines(root / "splits/val.txt", "val0", "train1")


def copy_in_two_splits(root: Path) -> None:
    shutil.copy(root / "images/train1.jpg", root / "images/test0.jpg")


def copy_in_another_format(root: Path) -> None:
    (root / "images/test0.jpg").unlink()
    Image.open(root / "images/train1.jpg").save(root / "images/test0.png")


def copy_compressed_anew(root: Path) -> None:
    smooth = Image.open(root / "images/train1.jpg").resize((160, 120), Image.Resampling.BICUBIC)
    smooth.save(root / "images/train1.jpg", quality=95)
    smooth.save(root / "images/test0.jpg", quality=60)
    for stem in ("train1", "test0"):
        trees.mask(root / f"labels/{stem}.png", (0, 1), size=(120, 160))


def copy_in_train(root: Path) -> None:
    shutil.copy(root / "images/train1.jpg", root / "images/train2.jpg")


def bomb(root: Path) -> None:
    (root / "images/pool0.jpg").unlink()
    (root / "images/pool0.png").write_bytes(trees.png(50_000, 50_000))


def mask_bomb(root: Path) -> None:
    (root / "labels/train1.png").write_bytes(trees.png(50_000, 50_000))


def dots_in_a_split(root: Path) -> None:
    trees.lines(root / "splits/val.txt", "val0", "../../secret")


def link_out_of_the_root(root: Path) -> None:
    outside = trees.picture(root.parent / "outside.jpg")
    (root / "images/train1.jpg").unlink()
    (root / "images/train1.jpg").symlink_to(outside)


def folder_out_of_the_root(root: Path) -> None:
    (root / "labels").rename(root.parent / "elsewhere")
    (root / "labels").symlink_to(root.parent / "elsewhere", target_is_directory=True)


def broken_link(root: Path) -> None:
    (root / "images/train1.jpg").unlink()
    (root / "images/train1.jpg").symlink_to(root / "images/gone.jpg")


def val_without_mask(root: Path) -> None:
    (root / "labels/val0.png").unlink()


def empty_split(root: Path) -> None:
    (root / "splits/test.txt").write_text("\n\n")


def empty_train(root: Path) -> None:
    (root / "splits/train.txt").write_text("")


def no_masks_in_train(root: Path) -> None:
    for path in (root / "labels").glob("train*.png"):
        path.unlink()


def one_stem_twice_as_file(root: Path) -> None:
    trees.picture(root / "images/train1.png")


def broken_classes(root: Path) -> None:
    (root / "classes.yaml").write_text("classes: {0: road, 0: sky}")


def jpeg_labels(root: Path) -> None:
    trees.picture(root / "labels/train1.jpg")


def image_in_no_split(root: Path) -> None:
    trees.picture(root / "images/spare.jpg")


def not_an_image(root: Path) -> None:
    (root / "images/notes.txt").write_text("hello")


def folder_inside(root: Path) -> None:
    trees.picture(root / "images/more/x.jpg")


def nothing_labelled(root: Path) -> None:
    trees.mask(root / "labels/train1.png", (9, 254, 255))


def class_not_in_train(root: Path) -> None:
    for path in (root / "labels").glob("train*.png"):
        trees.mask(path, (0, 9))


def no_val(root: Path) -> None:
    (root / "splits/val.txt").unlink()


ERRORS: list[tuple[Callable[[Path], None], str, str, str]] = [
    (unreadable, "images/train1.jpg", "not an image", "give JPEG"),
    (truncated_image, "images/pool0.jpg", "truncated", "copy or export it again"),
    (truncated_mask, "labels/train1.png", "truncated", "copy or export it again"),
    (other_size, "labels/train1.png", "the mask is 8×5 pixels, its image", "at the image's size"),
    (turned, "labels/train1.png", "is 8×6, as if turned", "at the image's size"),
    (
        tagged_and_turned,
        "labels/train1.png",
        "is 8×6, as if turned",
        "mogrify -auto-orient` does), set `orientation: apply`, or export",
    ),
    (unknown_ids, "labels/train1.png", "outside the label space: 7 (12 pixels), 8 (18 pixels)", "add them to"),
    (colours_as_mask, "labels/train1.png", "holds colours (RGB)", "one channel of class ids"),
    (mask_without_image, "labels/extra.png", "a mask without an image 'extra'", "rename it"),
    (stem_without_image, "splits/train.txt:4", "'ghost' has no image", "add the image"),
    (stem_twice, "splits/train.txt:4", "'train0' is listed twice", "keep one"),
    (two_splits, "splits/val.txt:2", "'train1' is also in train", "keep it in one split"),
    (copy_in_two_splits, "images/test0.jpg", "images/train1.jpg, which is in train while this is in test", "one split"),
    (copy_in_another_format, "images/test0.png", "same pixels as", "one split"),
    (bomb, "images/pool0.png", "it claims 50000×50000 pixels", "cut it into tiles"),
    (mask_bomb, "labels/train1.png", "it claims 50000×50000 pixels", "cut it into tiles"),
    (dots_in_a_split, "splits/val.txt:2", "'../../secret' leads out of the root", "write the stem"),
    (link_out_of_the_root, "images/train1.jpg", "leads out of the root, to", "copy it into the root"),
    (folder_out_of_the_root, "labels", "leads out of the root, to", "copy it into the root"),
    (broken_link, "images/train1.jpg", "a broken link", "restore the file"),
    (val_without_mask, "images/val0.jpg", "in val but without a mask", "add its mask"),
    (empty_split, "splits/test.txt", "it lists no stems", "write one stem a line"),
    (empty_train, "", "the split train has no images", "list some"),
    (one_stem_twice_as_file, "images/train1.png", "same stem as", "rename one"),
    (broken_classes, "classes.yaml", "0 given twice", "docs/formats.md"),
    (jpeg_labels, "labels/train1.jpg", "not a PNG", "8-bit PNG"),
]
WARNINGS: list[tuple[Callable[[Path], None], str, str, str]] = [
    (image_in_no_split, "images/spare.jpg", "in no split", "list it in one"),
    (tagged, "images/train1.jpg", "orientation tag (6) is not applied", "turn the image's own pixels"),
    (not_an_image, "images/notes.txt", "not an image by its name", "move it away"),
    (stem_with_ending, "splits/test.txt", "by its stem: 'test0.jpg' is taken as 'test0'", "write stems"),
    (folder_inside, "images/more/x.jpg", "in no split", "list it in one"),
    (copy_compressed_anew, "images/test0.jpg", "almost the same picture as", "keep the two in one split"),
    (copy_in_train, "images/train2.jpg", "both in train", "counts twice"),
    (nothing_labelled, "labels/train1.png", "no pixel of any class", "label some of it"),
    (class_not_in_train, "domain mine", "class 'sky' is in none of the 3 labelled images", "raise labelled.images"),
    (no_val, "", "the split val has no images", "before the test"),
    (no_masks_in_train, "", "no image of train has a mask", "add masks for a few, or have a campaign ask"),
]


def has(problems: tuple[Problem, ...], root: Path, where: str, value: str, fix: str) -> bool:
    place = where if where.startswith("domain") else str(root / where)
    return any(p.where == place and value in p.value and fix in p.fix for p in problems)


def test_a_whole_dataset_has_no_problems(tmp_path: Path) -> None:
    assert report(trees.folder(tmp_path)).problems == ()


@pytest.mark.parametrize(("fault", "where", "value", "fix"), ERRORS, ids=[f[0].__name__ for f in ERRORS])
def test_error(tmp_path: Path, fault: Callable[[Path], None], where: str, value: str, fix: str) -> None:
    root = trees.folder(tmp_path / "data")
    fault(root)
    findings = report(root)
    assert has(findings.errors, root, where, value, fix), [str(p) for p in findings.problems]
    assert findings.errors == tuple(p for p in findings.problems if p.severity == "error")


@pytest.mark.parametrize(("fault", "where", "value", "fix"), WARNINGS, ids=[f[0].__name__ for f in WARNINGS])
def test_warning(tmp_path: Path, fault: Callable[[Path], None], where: str, value: str, fix: str) -> None:
    root = trees.folder(tmp_path / "data")
    fault(root)
    findings = report(root)
    assert findings.errors == ()
    assert has(findings.warnings, root, where, value, fix), [str(p) for p in findings.problems]
    load_domain("mine", FolderDomain(root=root))


def test_all_faults_at_once_in_one_pass(tmp_path: Path) -> None:
    """One dataset with a fault of every kind that can stand beside the others, and another one that is not there."""
    root = trees.folder(tmp_path / "data", train=12, val=2, test=2, pool=3)
    images, labels = root / "images", root / "labels"
    (images / "train0.jpg").write_text("not an image")
    (images / "train1.jpg").write_bytes((images / "train1.jpg").read_bytes()[:-30])
    (labels / "train2.png").write_bytes((labels / "train2.png").read_bytes()[:-9])
    trees.mask(labels / "train3.png", (0, 1), size=(5, 8))
    trees.mask(labels / "train4.png", (0, 1, 7))
    trees.picture(labels / "train5.png")
    trees.mask(labels / "extra.png")
    (images / "pool0.jpg").unlink()
    (images / "pool0.png").write_bytes(trees.png(50_000, 50_000))
    (images / "pool1.jpg").unlink()
    (images / "pool1.jpg").symlink_to(trees.picture(tmp_path / "outside.jpg"))
    shutil.copy(images / "train6.jpg", images / "test0.jpg")
    shutil.copy(images / "train7.jpg", images / "train8.jpg")
    trees.picture(images / "train9.png")
    trees.picture(images / "spare.jpg")
    trees.mask(labels / "train10.png", (9,))
    (labels / "val1.png").unlink()
    trees.lines(root / "splits/val.txt", "val0", "val1", "train11", "ghost", "../up", "val0")
    trees.lines(root / "classes.yaml", "ignore: [9]", "classes: {0: road, 1: sky, 2: cow}")
    findings = check_domains(
        {"mine": FolderDomain(root=root), "gone": VocDomain(layout="voc", root=tmp_path / "gone")}, 50
    )
    errors = [
        ("images/train0.jpg", "not an image"),
        ("images/train1.jpg", "truncated"),
        ("labels/train2.png", "truncated"),
        ("labels/train3.png", "the mask is 8×5"),
        ("labels/train4.png", "7 (16 pixels)"),
        ("labels/train5.png", "colours"),
        ("labels/extra.png", "without an image"),
        ("images/pool0.png", "50000×50000"),
        ("images/pool1.jpg", "out of the root"),
        ("splits/train.txt:14", "'pool1' has no image"),
        ("images/test0.jpg", "same pixels as"),
        ("images/train9.png", "same stem as"),
        ("images/val1.jpg", "without a mask"),
        ("splits/val.txt:3", "also in train"),
        ("splits/val.txt:4", "'ghost'"),
        ("splits/val.txt:5", "out of the root"),
        ("splits/val.txt:6", "listed twice"),
        ("domain mine", "50 labelled images asked for, but train has 12"),
        ("domain mine", "'cow'"),
        ("../gone", "no such folder"),
    ]
    for where, value in errors:
        place = tmp_path / "gone" if where == "../gone" else Path(where) if "domain" in where else root / where
        assert has(findings.errors, Path(), str(place), value, ""), (where, [str(p) for p in findings.errors])
    assert len(findings.errors) == len(errors)
    warnings = [
        ("images/train8.jpg", "both in train"),
        ("images/spare.jpg", "in no split"),
        ("labels/train10.png", "no pixel of any class"),
    ]
    for where, value in warnings:
        assert has(findings.warnings, root, where, value, ""), (where, [str(p) for p in findings.warnings])
    assert len(findings.warnings) == len(warnings)
    assert findings.problems == findings.errors + findings.warnings


def test_copies_between_a_train_and_another_domains_test(tmp_path: Path) -> None:
    a, b = trees.folder(tmp_path / "a"), trees.folder(tmp_path / "b")
    shutil.copy(a / "images/train0.jpg", b / "images/test0.jpg")
    shutil.copy(a / "images/train1.jpg", b / "images/train2.jpg")  # both train: no harm to any score
    findings = check_domains({"a": FolderDomain(root=a), "b": FolderDomain(root=b)})
    assert findings.errors == ()
    (line,) = findings.warnings
    assert line.where == str(b / "images/test0.jpg")
    assert "train of domain a while this is test of domain b" in line.value


def test_missing_classes_are_those_of_the_images_that_the_run_will_draw(tmp_path: Path) -> None:
    root = trees.folder(tmp_path, train=6)
    for number in range(1, 6):
        trees.mask(root / f"labels/train{number}.png", (0,))
    settings = FolderDomain(root=root)
    outcomes = set()
    for seed in range(12):
        drawn = load_domain("mine", settings).with_labelled(2, seed).labelled
        missing = any("class 'sky'" in p.value for p in check_domains({"mine": settings}, 2, seed).warnings)
        assert missing == ("train0" not in drawn)
        outcomes.add(missing)
    assert outcomes == {True, False}


def test_statistics(tmp_path: Path) -> None:
    root = trees.folder(tmp_path, train=2, val=1, test=1, pool=2)
    trees.mask(root / "labels/train1.png", (0, 0, 254, 255))
    statistics = report(root, labelled=1).statistics["mine"]
    assert statistics.splits == {"train": 4, "val": 1, "test": 1}
    assert (statistics.masks, statistics.in_part, statistics.labelled) == (4, 1, 1)
    assert statistics.sizes == {"8×6": 6}
    # Three masks of (0, 1, 1, void) and one of (0, 0, not labelled, void).
    assert statistics.pixels == pytest.approx({"road": 5 / 16, "sky": 6 / 16})
    assert statistics.occurs == {"road": 4, "sky": 3}
    assert statistics.not_labelled == pytest.approx(1 / 16)
    assert statistics.void == pytest.approx(4 / 16)


def test_the_report_is_plain_data_for_json(tmp_path: Path) -> None:
    root = trees.folder(tmp_path / "data")
    unknown_ids(root)
    image_in_no_split(root)
    data = json.loads(json.dumps(report(root).to_dict()))
    assert [e["where"] for e in data["errors"]] == [str(root / "labels/train1.png")]
    assert [set(w) for w in data["warnings"]] == [{"where", "value", "fix"}]
    assert data["statistics"]["mine"]["splits"]["train"] == 4


def test_progress_counts_every_image_once(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    check_domains(
        {"mine": FolderDomain(root=trees.folder(tmp_path))}, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(i, 6) for i in range(1, 7)]


def test_two_runs_say_the_same_and_change_nothing(tmp_path: Path) -> None:
    root = trees.folder(tmp_path / "data", train=20)
    for number in range(0, 20, 2):
        trees.mask(root / f"labels/train{number}.png", (0, 50 + number))
    before = {p: p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
    assert report(root) == report(root)
    assert {p: p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()} == before


def test_scenes_are_examined_too() -> None:
    settings = ScenesDomain(layout="scenes", kind="rooms", size=(48, 64), train=6, val=2, test=2)
    findings = check_domains({"rooms": settings}, 4)
    assert findings.errors == ()
    statistics = findings.statistics["rooms"]
    assert (statistics.masks, statistics.labelled, statistics.sizes) == (10, 4, {"64×48": 10})
    assert sum(statistics.pixels.values()) + statistics.void == pytest.approx(1)


@pytest.mark.parametrize("name", ["camvid", "labelmefacade", "msrc_v2"])
def test_real_domains_have_no_errors(name: str) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"{name} is not beside the repository, see docs/formats.md")
    findings = check_domains({name: FolderDomain(root=DATA / name)})
    assert findings.errors == ()
    statistics = findings.statistics[name]
    assert statistics.masks == sum(statistics.splits.values())
    assert np.isclose(sum(statistics.pixels.values()) + statistics.void + statistics.not_labelled, 1)
