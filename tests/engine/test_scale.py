"""A network knows the size that it was trained at: what is predicted from photographs is what was scored.

Shapes: H×W pixels · C classes.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command import Fewmask, is_refused
from ondisk import config, two_domains, write_domain
from PIL import Image

from fewmask.config import FolderDomain
from fewmask.config.scale import in_words, scaled
from fewmask.data.doctor import check_domains
from fewmask.data.domain import read_mask
from fewmask.data.layouts import load_domain
from fewmask.engine.evaluation import count_predictions, evaluate
from fewmask.engine.fit import train
from fewmask.engine.metrics import confusion
from fewmask.engine.prediction import predict
from fewmask.engine.prototypes import load_fused
from fewmask.engine.run import load_domains, load_model
from fewmask.engine.transfer import as_trained, through_mapping
from fewmask.methods import parse_config
from fewmask.models.universal import UniversalSegmenter
from fewmask.onnx_export import metadata

SIZE = (160, 192)
SCALES = {"a": 0.25, "b": [80, 96]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for name, classes in (("a", 3), ("b", 4)):
        write_domain(root / name, classes, size=SIZE, seed=classes)
    return root


def settings(data: Path, **scales: object) -> dict[str, object]:
    return {
        "name": "scaled",
        "domains": {n: {"layout": "folder", "root": str(data / n), "size": s} for n, s in scales.items()},
        "model": {"encoder": "tu-test_efficientnet", "embedding": {"dim": 8}},
        "method": "joint",
        "train": {"steps": 8, "batch_size": 4, "crop": [32, 32], "workers": 0, "precision": "fp32", "device": "cpu"},
    }


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "two"
    train(parse_config(settings(data, **SCALES)), folder)
    return folder


@pytest.fixture(scope="module")
def single(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    train(parse_config(settings(data, a=0.25)), folder)
    return folder


def test_a_trained_network_knows_its_sizes(run: Path) -> None:
    model = load_model(run)
    assert dict(model.sizes) == {"a": 0.25, "b": (80, 96)}
    assert dict(load_fused(run).sizes) == {"a": 0.25, "b": (80, 96)}
    assert json.loads((run / "model.json").read_text(encoding="utf-8"))["sizes"] == SCALES


@pytest.mark.parametrize("domain", SCALES)
def test_photographs_are_predicted_as_they_were_scored(run: Path, data: Path, tmp_path: Path, domain: str) -> None:
    model = load_model(run)
    dataset = load_domains(parse_config(settings(data, **SCALES)))[domain]
    out = tmp_path / "out"
    files = [data / domain / "images" / f"{stem}.png" for stem in dataset.splits["test"]]
    result = predict(model, files, out, domain, precision="fp32")
    assert result["sizes"] == {domain: model.sizes[domain]}
    matrix = torch.zeros(dataset.space.num_classes, dataset.space.num_classes, dtype=torch.long)
    for stem in dataset.splits["test"]:
        mask = dataset.space.encode(read_mask(out / "masks" / f"{stem}.png"))
        assert mask.shape == SIZE
        step = SIZE[0] // dataset.image(stem).shape[0]
        small = torch.from_numpy(mask[::step, ::step].copy())
        matrix += confusion(small, torch.from_numpy(dataset.mask(stem)), dataset.space.num_classes)
    scored = count_predictions(model, dataset, "test", workers=0, precision="fp32").confusion
    assert torch.equal(matrix, scored)
    unscaled = load_domain(domain, FolderDomain(root=data / domain))
    other = count_predictions(model, unscaled, "test", workers=0, precision="fp32").confusion
    assert not torch.equal(other // step**2, scored), "at every size the same: this test would see no mistake"


def test_another_domain_is_scored_at_the_size_of_the_head(run: Path, data: Path, single: Path) -> None:
    model = load_model(run)
    target = load_domain("c", FolderDomain(root=data / "a"))
    scored = through_mapping(model, "a", target, split="test", workers=0, precision="fp32")
    own = evaluate(model, load_domains(parse_config(settings(data, **SCALES))), "test", workers=0, precision="fp32")
    assert scored["domains"]["c"]["iou"] == own["domains"]["a"]["iou"]
    assert scored["size"] == 0.25
    resized = load_domain("c", FolderDomain(root=data / "a", size=0.5))
    assert as_trained(model, resized, ["a"]).size == 0.5, "a size that the settings say is taken"
    with pytest.raises(ValueError, match=r"different sizes \(a at 0.25 of .*, b at 96×80 pixels\).*choose one"):
        as_trained(model, target, model.domains)


def test_heads_of_different_sizes_each_see_an_image_at_their_own(run: Path, data: Path, tmp_path: Path) -> None:
    model, plain = load_fused(run), load_model(run)
    images = data / "b" / "images"
    result = predict(model, images, tmp_path / "auto", "auto", precision="fp32")
    chosen = {each["domain"] for each in result["each"].values()}
    for domain in chosen:
        predict(plain, images, tmp_path / domain, domain, precision="fp32")
    for image, each in result["each"].items():
        one = read_mask(tmp_path / "auto" / each["domain"] / "masks" / f"{image}.png")
        assert np.array_equal(one, read_mask(tmp_path / each["domain"] / "masks" / f"{image}.png"))
    with pytest.raises(ValueError, match="different sizes"):
        predict(model, images, tmp_path / "fused", "fused")


def test_the_size_is_told_by_the_command_the_card_and_the_file(
    single: Path, data: Path, tmp_path: Path, fewmask: Fewmask
) -> None:
    done = fewmask("predict", single, data / "a" / "images", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "a: the network saw images at 0.25 of their height and width, as in training" in done.out
    done = fewmask("evaluate", single, "--on", data / "a", "--split", "test")
    assert "images were read at 0.25 of their height and width, as in training" in done.out
    card = (single / "model-card.md").read_text(encoding="utf-8")
    assert "a at 0.25 of their height and width" in card and "resize" in card
    properties = metadata(load_model(single), ["a"])
    assert json.loads(properties["fewmask.domains"])["a"]["size"] == 0.25
    assert "resized as `size`" in properties["fewmask.input"]


def test_a_run_at_the_files_own_size_says_nothing_of_sizes(tmp_path: Path, fewmask: Fewmask) -> None:
    train(config(two_domains(tmp_path), steps=1), tmp_path / "run")
    assert "Image size" not in (tmp_path / "run" / "model-card.md").read_text(encoding="utf-8")
    done = fewmask("predict", tmp_path / "run", tmp_path / "a" / "images", "--domain", "a", "--out", tmp_path / "out")
    assert "as in training" not in done.out


@pytest.mark.parametrize(
    ("scale", "left"), [(0.5, (50, 100)), (None, (100, 200)), ((40, 30), (40, 30)), (0.08, (8, 16))]
)
def test_a_scale_gives_a_size(scale: float | tuple[int, int] | None, left: tuple[int, int]) -> None:
    assert scaled((100, 200), scale) == left
    assert scaled((5, 7), None) == (5, 7)
    assert scaled((5, 7), 1.0) == (5, 7), "what is small itself is not the setting's fault"
    assert in_words(scale).startswith("at ")


@pytest.mark.parametrize("scale", [0.01, (4, 400)])
def test_a_scale_that_leaves_nothing_is_refused(data: Path, tmp_path: Path, scale: object, fewmask: Fewmask) -> None:
    domain = load_domain("a", FolderDomain(root=data / "a", size=scale))
    with pytest.raises(ValueError, match=r"images.test0\.png: `size: .*needs at least 8 a side; write a larger `size`"):
        domain.image("test0")
    (problem,) = check_domains({"a": FolderDomain(root=data / "a", size=scale)}).errors
    assert problem.where == "domain a" and "a network needs at least" in problem.value
    given = json.dumps(settings(data, a=scale))
    (tmp_path / "c.yaml").write_text(given, encoding="utf-8")
    is_refused(fewmask("train", tmp_path / "c.yaml", "--out", tmp_path / "run"), "write a larger `size`")


def test_the_doctor_warns_of_a_scale_that_leaves_little(data: Path) -> None:
    (problem,) = check_domains({"a": FolderDomain(root=data / "a", size=0.25)}).warnings
    assert problem.where == "domain a" and "leaves less than 64 a side of 10 images, down to 48×40" in problem.value
    assert not check_domains({"a": FolderDomain(root=data / "a", size=0.5)}).warnings


def test_classes_in_strips_are_the_classes_of_the_whole(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    model = load_model(run)
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 157, 93), dtype=np.uint8))
    with torch.inference_mode():
        features = model.encode(image)
        whole = model.logits(features, "b", (157, 93)).argmax(1)
        for strip in (1, 3000, 60_000, 2**24):
            monkeypatch.setattr("fewmask.models.universal.STRIP", strip)
            assert torch.equal(model.classes(features, "b", (157, 93)).long(), whole), strip


def test_a_network_of_no_run_sees_images_as_they_are(tmp_path: Path) -> None:
    from helpers import model_settings, space

    model = UniversalSegmenter(model_settings(), {"x": space(3)})
    assert dict(model.sizes) == {"x": None}
    Image.fromarray(np.zeros((5, 9, 3), np.uint8)).save(tmp_path / "tiny.png")
    predict(model, tmp_path / "tiny.png", tmp_path / "out")
    assert read_mask(tmp_path / "out" / "masks" / "tiny.png").shape == (5, 9)
