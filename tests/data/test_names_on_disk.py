"""File names that meet no partner or two, and classes that no mask shows: told in one pass, by kind."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import trees
from command import Fewmask
from ondisk import plain, two_domains, write_config
from PIL import Image

from fewmask.config import CityscapesDomain, FolderDomain
from fewmask.data.doctor import Report, check_domains
from fewmask.data.layouts import load_domain

NFC = unicodedata.normalize("NFC", "müller")
NFD = unicodedata.normalize("NFD", "müller")


def report(root: Path, **settings: object) -> Report:
    return check_domains({"d": FolderDomain.model_validate({"root": root, **settings})})


def errors(root: Path) -> str:
    return "\n".join(map(str, report(root).errors))


@pytest.mark.parametrize("other", ["train0.PNG", "train0.png", "train0.tiff", "train0.JPG"])
def test_two_images_of_one_stem(other: str, tmp_path: Path) -> None:
    root = trees.folder(tmp_path)
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(root / "images" / other)
    (problem,) = [p for p in report(root).errors if "same stem" in p.value]
    assert {Path(problem.where).name, Path(problem.value.split()[-1]).name} == {"train0.jpg", other}


@pytest.mark.parametrize("other", ["train0.PNG", "train0.Png", "train0.tif", "train0.bmp"])
def test_two_masks_of_one_stem(other: str, tmp_path: Path) -> None:
    root = trees.folder(tmp_path)
    (root / "labels" / other).write_bytes((root / "labels" / "train1.png").read_bytes())
    (problem,) = [p for p in report(root).errors if "same stem" in p.value]
    assert {Path(problem.where).name, Path(problem.value.split()[-1]).name} == {"train0.png", other}
    with pytest.raises(ValueError, match="same stem as"):
        load_domain("d", FolderDomain(root=root))


def test_a_stem_in_two_folders_of_masks(tmp_path: Path) -> None:
    root = trees.cityscapes(tmp_path)
    mask = root / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"
    (root / "gtFine/train/bochum" / mask.name).write_bytes(mask.read_bytes())
    problems = check_domains({"d": CityscapesDomain(layout="cityscapes", root=root)}).errors
    assert [p.where for p in problems if "same stem" in p.value] == [str(root / "gtFine/train/bochum" / mask.name)]


@pytest.mark.parametrize(("there", "listed", "form"), [(NFD, NFC, "decomposed, as macOS"), (NFC, NFD, "composed")])
def test_a_line_in_another_unicode_form(there: str, listed: str, form: str, tmp_path: Path) -> None:
    root = trees.folder(tmp_path)
    trees.picture(root / "images" / f"{there}.jpg")
    trees.mask(root / "labels" / f"{listed}.png")
    trees.lines(root / "splits" / "train.txt", "train0", listed)
    text = errors(root)
    assert f"train.txt:2: {listed!r} has no image: '{there}.jpg' looks equal, but is in another Unicode form" in text
    assert f"{listed}.png: a mask without an image {listed!r}: '{there}.jpg' looks equal" in text
    assert form in text


def test_a_line_in_another_case(tmp_path: Path) -> None:
    root = trees.folder(tmp_path)
    trees.lines(root / "splits" / "train.txt", "Train0", "train1")
    assert (
        "'Train0' has no image: 'train0.jpg' is equal but for its case; rename the file or write the line again"
        in errors(root)
    )


def test_two_stems_that_are_one_elsewhere(tmp_path: Path) -> None:
    root = trees.folder(tmp_path)
    for name in ("Train0", NFC, NFD):
        trees.picture(root / "images" / f"{name}.jpg")
    problems = report(root).problems
    (case,) = [p for p in problems if "equal but for its case" in p.value]
    (form,) = [p for p in problems if "another Unicode form" in p.value]
    assert (case.severity, form.severity) == ("warning", "error")
    assert form.fix == "rename one: nothing distinguishes them"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (b"m\xfcller.jpg", r"cannot be encoded in UTF-8 ('m\udcfcller')"),
        (b"two\nlines.jpg", r"control characters ('two\nlines')"),
        (b" blank.jpg", "a blank begins or ends its name"),
        (b"x" * 250 + b".jpeg", ""),
    ],
)
def test_names_that_cannot_be_used_are_named_and_the_rest_is_examined(name: bytes, says: str, tmp_path: Path) -> None:
    root = trees.folder(tmp_path)
    path = os.fsencode(root / "images") + b"/" + name
    with open(path, "wb") as file:
        file.write((root / "images" / "train0.jpg").read_bytes())
    findings = report(root)
    text = "\n".join(map(str, findings.problems))
    text.encode()  # it can be printed
    assert says in text
    assert findings.statistics["d"].splits["train"] == 4


# ── Classes that no mask shows ───────────────────────────────────────────────────────────────────────────────────────


def black_and_white(root: Path, classes: str) -> Path:
    trees.folder(root)
    for mask in (root / "labels").iterdir():
        trees.mask(mask, (0, 0, 0, 255))
    (root / "classes.yaml").write_text(classes, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("classes", "fix"),
    [
        ("classes: {0: soil, 1: plant}", "Write `255: plant` in classes.yaml"),
        ("ignore: [255]\nclasses: {0: soil, 1: plant}", "`255: plant` in classes.yaml and take 255 out of `ignore`"),
    ],
)
def test_masks_of_0_and_255_are_recognised(classes: str, fix: str, tmp_path: Path) -> None:
    root = black_and_white(tmp_path, classes)
    (problem,) = report(root).errors
    assert problem.value == (
        "class 'plant' is in none of the 3 labelled images and in no other mask, and 255 fills 25.0 % of the pixels"
    )
    assert fix in problem.fix
    (root / "classes.yaml").write_text("classes: {0: soil, 255: plant}", encoding="utf-8")
    assert not report(root).errors


def test_a_class_that_no_mask_shows_is_an_error_unless_it_is_meant(tmp_path: Path) -> None:
    root = trees.folder(tmp_path)
    (root / "classes.yaml").write_text("ignore: [9]\nclasses: {0: road, 1: sky, 2: tram, 3: bus}", encoding="utf-8")
    assert [p.value.split("'")[1] for p in report(root).errors] == ["tram", "bus"]
    assert [p.value.split("'")[1] for p in report(root, absent=["bus"]).errors] == ["tram"]
    assert not report(root, absent=["bus", "tram"]).errors
    assert "`absent` names ship, which its classes lack" in str(report(root, absent=["bus", "tram", "ship"]).errors[0])
    findings = check_domains({"d": FolderDomain(root=root)}, asks=True)
    assert not findings.errors
    assert sum("in no other mask" in p.value for p in findings.warnings) == 2


def test_a_class_that_only_other_masks_show_is_a_warning(tmp_path: Path) -> None:
    root = trees.folder(tmp_path)
    trees.mask(root / "labels" / "val0.png", (0, 1, 2))
    (root / "classes.yaml").write_text("ignore: [9]\nclasses: {0: road, 1: sky, 2: tram}", encoding="utf-8")
    assert not report(root).errors
    assert any("'tram' is in none of the 3 labelled images" in p.value for p in report(root).warnings)


def test_training_says_which_classes_had_no_pixel(tmp_path: Path, fewmask: Fewmask) -> None:
    root = two_domains(tmp_path / "data")
    (root / "a" / "classes.yaml").write_text("classes: {0: c0, 1: c1, 2: c2, 3: nowhere}", encoding="utf-8")
    done = fewmask("train", write_config(tmp_path / "c.yaml", plain(root, steps=1)), "--out", tmp_path / "run")
    assert "none of the labelled masks has a pixel of nowhere" in done.out
    assert "these masks have no pixel of nowhere" in done.out


# ── What check prints ────────────────────────────────────────────────────────────────────────────────────────────────


def test_many_of_a_kind_are_one_line_and_the_whole_comes_first(tmp_path: Path, fewmask: Fewmask) -> None:
    root = two_domains(tmp_path / "data", train=12) / "a"
    for mask in sorted((root / "labels").iterdir()):
        mask.rename(mask.with_name(f"mask_{mask.name}"))
    Image.fromarray(np.full((40, 48), 77, np.uint8)).save(root / "labels" / "mask_train0.png")
    (root / "classes.yaml").unlink()
    config = write_config(tmp_path / "c.yaml", plain(root.parent))
    lines = [line for line in fewmask("check", config).out.splitlines() if line.startswith("error")]
    assert "classes.yaml: not found" in lines[0]
    (many,) = [line for line in lines if "a mask without an image" in line]
    assert many.startswith("error 16 × a mask without an image")
    assert many.count(".png") == 3
    assert "and 13 more (--json lists them)" in many


def test_misnamed_masks_are_opened_too(tmp_path: Path) -> None:
    root = trees.folder(tmp_path)
    for mask in sorted((root / "labels").iterdir()):
        mask.rename(mask.with_name(f"mask_{mask.name}"))
    trees.mask(root / "labels" / "mask_train0.png", (0, 77))
    assert "mask_train0.png: ids outside the label space: 77 (24 pixels)" in errors(root)
