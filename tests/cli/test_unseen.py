"""A domain that no training has seen, from the configuration to the files: `evaluate --domain`, `predict --domain`."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from command import Fewmask, is_refused
from ondisk import plain, write_config, write_domain
from PIL import Image

from fewmask.engine.fit import train
from fewmask.engine.prediction import predict
from fewmask.engine.prototypes import load_fused
from fewmask.engine.run import load_model
from fewmask.labels import LabelSpace
from fewmask.methods import parse_config


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Domains a (3 classes) and b (4) to train on; c (3) to be held out: its first class has another name."""
    root = tmp_path_factory.mktemp("data")
    for name, classes in (("a", 3), ("b", 4), ("c", 3)):
        write_domain(root / name, classes, seed=classes)
    classes = yaml.safe_load((root / "c" / "classes.yaml").read_text())
    classes["classes"][0]["name"] = "zero"
    (root / "c" / "classes.yaml").write_text(yaml.safe_dump(classes))
    return root


def settings(data: Path) -> dict[str, object]:
    return plain(data, "joint", steps=1) | {"held_out": {"c": {"layout": "folder", "root": str(data / "c")}}}


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(parse_config(settings(data)), folder)
    return folder


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    file = tmp_path / "a.yaml"
    file.write_text("{c0: zero, c3: null}")
    return file


def test_what_is_held_out_is_not_trained_on(trained: Path) -> None:
    assert load_model(trained).domains == ("a", "b")
    assert list(json.loads((trained / "summary.json").read_text())["domains"]) == ["a", "b"]


def test_what_is_held_out_cannot_be_trained_on_too(data: Path) -> None:
    both = settings(data) | {"held_out": {"a": {"layout": "folder", "root": "a"}, "d": {"layout": "nothing"}}}
    with pytest.raises(ValueError, match=r"held_out.d.layout: there is no such layout"):
        parse_config(both)
    del both["held_out"]["d"]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="held_out: a is in `domains` too"):
        parse_config(both)


def test_the_doctor_looks_at_what_is_held_out(data: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    done = fewmask("check", write_config(tmp_path / "config.yaml", settings(data)), "--json")
    assert list(json.loads(done.out)["statistics"]) == ["a", "b", "c"]


def test_every_head_is_scored_on_what_is_held_out(trained: Path, classes: Path, fewmask: Fewmask) -> None:
    done = fewmask("evaluate", trained, "--domain", "c", "--classes", classes, "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert list(report["heads"]) == ["a", "b", "fused", "auto"]
    assert list(report["domains"]) == ["c"]
    assert report["heads"]["b"]["without_counterpart"] == ["c3"]
    assert report["heads"]["a"]["classes"] == {"c0": "zero", "c1": "c1", "c2": "c2"}
    assert sum(report["chosen"].values()) == report["heads"]["fused"]["images"] == 2
    assert json.loads((trained / "evaluations.jsonl").read_text().splitlines()[-1])["split"] == "val"
    shown = fewmask("evaluate", trained, "--domain", "c", "--classes", classes)
    assert "best domain:" in shown.out
    assert all(word in shown.out for word in ("fused", "auto", "zero"))


def test_a_folder_is_a_domain_too(trained: Path, data: Path, classes: Path, fewmask: Fewmask) -> None:
    by_name = fewmask("evaluate", trained, "--domain", "c", "--classes", classes, "--json")
    by_path = fewmask("evaluate", trained, "--on", data / "c", "--classes", classes, "--json")
    assert json.loads(by_path.out) == json.loads(by_name.out)


def test_what_evaluate_is_not_told_is_asked_for(trained: Path, classes: Path, fewmask: Fewmask) -> None:
    is_refused(fewmask("evaluate", trained, "--domain", "z"), "--domain: give one of a, b, c")
    is_refused(fewmask("evaluate", trained, "--domain", "c"), "c0: say which class", "c3: say which class")
    is_refused(fewmask("evaluate", trained, "--classes", classes), "--on or --domain")


@pytest.fixture
def images(data: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "images" / "deeper"
    shutil.copytree(data / "c" / "images", folder)
    Image.fromarray(np.zeros((30, 70, 3), np.uint8)).save(folder.parent / "black.png")
    return folder.parent


def test_each_image_is_predicted_by_the_head_that_fits(
    trained: Path, images: Path, tmp_path: Path, fewmask: Fewmask
) -> None:
    out = tmp_path / "auto"
    done = fewmask("predict", trained, images, "--domain", "auto", "--out", out, "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    with open(out / "domains.csv", encoding="utf-8", newline="") as file:
        lines = {line["image"]: line for line in csv.DictReader(file)}
    assert lines.keys() == report["each"].keys()
    assert report["images"] == len(lines) == 11
    assert report["chosen"] == {n: sum(line["domain"] == n for line in lines.values()) for n in ("a", "b")}
    for image, line in lines.items():
        each = report["each"][image]
        assert (line["domain"], line["ambiguous"]) == (each["domain"], "yes" if each["ambiguous"] else "no")
        assert each["ambiguous"] == (each["margin"] < 1)
        assert each["domain"] == min(each["excess"], key=each["excess"].__getitem__)
        # The same mask as that head's alone, in the folder of its domain.
        alone = tmp_path / f"alone-{line['domain']}"
        if not alone.exists():
            predict(load_model(trained), images, alone, line["domain"], workers=0, precision="fp32")
        mask = np.array(Image.open(out / line["domain"] / "masks" / f"{image}.png"))
        np.testing.assert_array_equal(mask, np.array(Image.open(alone / "masks" / f"{image}.png")))
    assert LabelSpace.from_yaml(out / "b" / "classes.yaml").names == ("c0", "c1", "c2", "c3")
    shown = fewmask("predict", trained, images, "--domain", "auto", "--out", tmp_path / "again")
    assert "ambiguous" in shown.out


def test_fused_masks_have_the_classes_and_colours_of_the_union(
    trained: Path, images: Path, tmp_path: Path, fewmask: Fewmask
) -> None:
    out = tmp_path / "fused"
    done = fewmask("predict", trained, images, "--domain", "fused", "--out", out, "--json")
    assert done.code == 0, done.err
    space = LabelSpace.from_yaml(out / "classes.yaml")
    assert space == load_fused(trained).union.space
    assert list(json.loads(done.out)["pixels"]) == ["c0", "c1", "c2", "c3"]
    mask = Image.open(out / "masks" / "black.png")
    assert mask.size == (70, 30)
    palette = np.array(mask.getpalette()).reshape(-1, 3)
    for raw, index in space.raw_ids.items():
        assert tuple(palette[raw]) == space.colours[index]


def test_prediction_needs_no_training_data(trained: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(str(data), str(tmp_path / "gone")))
    assert load_fused(run).vectors.shape == load_fused(trained).vectors.shape
    (run / "prototypes.safetensors").unlink()
    with pytest.raises(ValueError, match=r"prototypes\.safetensors: not readable"):
        load_fused(run)
