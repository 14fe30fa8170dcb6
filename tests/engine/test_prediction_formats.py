"""Predictions in other programs' forms: what is written is read back as the mask, pixel for pixel.

Shapes: H×W pixels.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from ondisk import config, two_domains
from PIL import Image

from fewmask.config import FolderDomain
from fewmask.data.layouts import load_domain
from fewmask.data.pictures import write_mask
from fewmask.engine.image_files import Item
from fewmask.engine.prediction import predict
from fewmask.engine.prediction_formats import FORM_PATHS, Form, rings, write_form
from fewmask.formats.shapes import fill_rings
from fewmask.labels import LabelSpace
from fewmask.models.universal import UniversalSegmenter

SPACE = LabelSpace(("background", "cat", "dog"), ((0, 0, 0), (9, 9, 9), (7, 7, 7)), {0: 0, 4: 1, 7: 2})
H, W = 6, 8
MASKS = arrays.arrays(np.uint8, (H, W), elements=st.integers(0, 2))


@settings(max_examples=60, deadline=None)
@given(inside=arrays.arrays(bool, (H, W)))
def test_outlines_along_pixels_enclose_them_and_nothing_else(inside: np.ndarray) -> None:
    outlines = rings(inside)
    mask = np.zeros((H, W), np.uint8)
    if inside.any():
        fill_rings([ring[:-1].astype(float) for ring in outlines], mask, 1)
    np.testing.assert_array_equal(mask, inside)
    assert all((ring[0] == ring[-1]).all() for ring in outlines)
    if cv2.connectedComponents(inside.astype(np.uint8), connectivity=4)[0] == 2:  # as `write_form` calls it
        assert all(len({*map(tuple, ring.tolist())}) == len(ring) - 1 for ring in outlines)  # none touches itself


def write(out: Path, mask: np.ndarray, form: str) -> Path:
    (out / "images").mkdir(parents=True, exist_ok=True)
    image = out / "images/a.jpg"
    Image.fromarray(np.zeros((H, W, 3), np.uint8)).save(image)
    (out / "masks").mkdir(exist_ok=True)
    write_mask(out / "masks/a.png", mask, SPACE)
    written = write_form(out, [Item(image, Path("a"))], SPACE, form)  # type: ignore[arg-type]
    assert written is not None
    return written


@settings(max_examples=25, deadline=None)
@given(mask=MASKS, form=st.sampled_from(["coco", "labelme"]))
def test_what_is_written_is_read_as_the_mask(
    tmp_path_factory: pytest.TempPathFactory, mask: np.ndarray, form: str
) -> None:
    out = tmp_path_factory.mktemp("form")
    written = write(out, mask, form)
    SPACE.write_yaml(out / "classes.yaml")
    (out / "splits").mkdir()
    (out / "splits/train.txt").write_text("a\n", encoding="utf-8")
    options = {"masks": form, "labels": written.name}
    domain = load_domain("d", FolderDomain.model_validate({"layout": "folder", "root": out, **options}))
    np.testing.assert_array_equal(domain.mask("a"), mask)


@settings(max_examples=25, deadline=None)
@given(mask=MASKS)
def test_geojson_has_a_polygon_for_each_area(tmp_path_factory: pytest.TempPathFactory, mask: np.ndarray) -> None:
    written = write(tmp_path_factory.mktemp("form"), mask, "geojson")
    again = np.full((H, W), 9, np.uint8)
    for feature in json.loads((written / "a.geojson").read_text(encoding="utf-8"))["features"]:
        outlines = [np.array(ring[:-1], float) for ring in feature["geometry"]["coordinates"]]
        index = SPACE.index(feature["properties"]["class"])
        assert SPACE.raw_ids[feature["properties"]["id"]] == index
        fill_rings(outlines, again, index)
    np.testing.assert_array_equal(again, mask)


@pytest.mark.parametrize(
    ("form", "file"), [("labelme", "labelme/a.json"), ("geojson", "geojson/a.geojson"), ("coco", "coco.json")]
)
def test_what_somebody_corrected_is_not_written_over(form: str, file: str, tmp_path: Path) -> None:
    mask = np.eye(H, W, dtype=np.uint8)
    write(tmp_path, mask, form)
    write(tmp_path, mask, form)  # the same again
    corrected = (tmp_path / file).read_text(encoding="utf-8").replace("cat", "dog")
    (tmp_path / file).write_text(corrected, encoding="utf-8")
    with pytest.raises(ValueError, match="changed since it was written; move it away"):
        write(tmp_path, mask, form)
    assert (tmp_path / file).read_text(encoding="utf-8") == corrected


def test_labelme_finds_the_image(tmp_path: Path) -> None:
    write(tmp_path, np.zeros((H, W), np.uint8), "labelme")
    path = tmp_path / "labelme" / json.loads((tmp_path / "labelme/a.json").read_text(encoding="utf-8"))["imagePath"]
    assert path.resolve() == (tmp_path / "images/a.jpg").resolve()


@pytest.fixture
def network(tmp_path: Path) -> UniversalSegmenter:
    configuration = config(two_domains(tmp_path / "data"))
    spaces = {"a": load_domain("a", configuration.domains["a"]).space}
    return UniversalSegmenter(configuration.model, spaces, seed=0)


def test_predict_writes_a_form_and_overwrites_where_it_is_told_to(network: UniversalSegmenter, tmp_path: Path) -> None:
    images, out = tmp_path / "data/a/images", tmp_path / "out"
    result = predict(network, images, out, form="geojson")
    assert result["forms"] == [str(out / "geojson")]
    assert len(list((out / "geojson").iterdir())) == result["images"]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1)
    with pytest.raises(ValueError, match="another network; give another --out, or --overwrite"):
        predict(network, images, out)
    again = predict(network, images, out, overwrite=True)
    assert (again["images"], again["before"]) == (result["images"], 0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/kept.txt").write_text("x", encoding="utf-8")
    with pytest.raises(ValueError, match="neither a prediction nor an empty folder"):
        predict(network, images, tmp_path / "mine", overwrite=True)


@pytest.mark.parametrize(("first", "second"), [("coco", "geojson"), ("labelme", "coco"), ("geojson", "png")])
def test_forms_of_an_overwritten_prediction_are_named_and_kept(
    first: Form, second: Form, network: UniversalSegmenter, tmp_path: Path
) -> None:
    images, out = tmp_path / "data/a/images", tmp_path / "out"
    path = out / FORM_PATHS[first]
    assert predict(network, images, out, form=first)["older_forms"] == []
    assert predict(network, images, out, form=second)["older_forms"] == []  # both are of one prediction
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1)
    before = {file: file.read_bytes() for file in ([path] if path.is_file() else path.iterdir())}
    again = predict(network, images, out, form=second, overwrite=True)
    assert again["older_forms"] == [str(path)] and all(file.read_bytes() == data for file, data in before.items())
    assert predict(network, images, out, form=second)["older_forms"] == [str(path)]  # also when it is resumed
    assert predict(network, images, out, form=first)["older_forms"] == []


def test_images_are_turned_where_the_training_turned_them(network: UniversalSegmenter, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "turned").mkdir()
    Image.fromarray(np.zeros((40, 64, 3), np.uint8)).save(tmp_path / "turned/a.jpg", exif=exif)
    result = predict(network, tmp_path / "turned", tmp_path / "out", upright=True)
    assert not result["remarks"]
    assert Image.open(tmp_path / "out/masks/a.png").size == (40, 64)
    lying = predict(network, tmp_path / "turned", tmp_path / "other")
    assert Image.open(tmp_path / "other/masks/a.png").size == (64, 40)
    assert lying["remarks"]


@pytest.mark.parametrize("size", [None, 0.75, (32, 40)])
def test_an_image_in_memory_gets_the_mask_that_is_written(
    network: UniversalSegmenter, tmp_path: Path, size: object
) -> None:
    network.sizes = {"a": size}  # type: ignore[dict-item]
    images = tmp_path / "data/a/images"
    predict(network, images, tmp_path / "out", precision="fp32")
    space = network.spaces["a"]
    for path in sorted(images.iterdir())[:3]:
        mask, probabilities = network.predict(np.array(Image.open(path)))
        written = space.encode(np.array(Image.open(tmp_path / "out/masks" / path.name)))
        assert (mask == written).mean() > 0.999  # a batch of several adds up in another order
        assert probabilities.shape == (space.num_classes, *mask.shape)
        np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)
        np.testing.assert_array_equal(probabilities.argmax(0), mask)
    with pytest.raises(ValueError, match="no such head"):
        network.predict(np.zeros((8, 8, 3), np.uint8), "b")
    with pytest.raises(ValueError, match="give uint8"):
        network.predict(np.zeros((8, 8, 3)))
