"""Domains of different channels in one network: a first convolution for each kind of input, and all else shared.

Shapes: H×W pixels · C channels · P planes of a batch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import tifffile
import torch
from helpers import model_settings, space
from ondisk import Stop, assert_same_run, plain, stop_at, write_bands, write_domain

from fewmask.config import METHODS as SETTINGS_OF_METHODS
from fewmask.config import InputSettings
from fewmask.data.reading import read_mask
from fewmask.engine.evaluation import count_predictions, evaluate
from fewmask.engine.fit import train
from fewmask.engine.guess import predictor
from fewmask.engine.prediction import predict
from fewmask.engine.prototypes import load_fused
from fewmask.engine.run import load_config, load_domains, load_model
from fewmask.engine.transfer import through_mapping, with_new_head
from fewmask.methods import parse_config
from fewmask.models.stems import Stems
from fewmask.models.universal import UniversalSegmenter
from fewmask.onnx_export import export
from fewmask.views.augment import jitter, padding
from fewmask.views.strong import cutout, strong_view

FOUR = ("red", "green", "blue", "nir")
INPUTS = {
    "streets": InputSettings(),
    "fields": InputSettings(channels=FOUR),
    "cells": InputSettings(channels=("grey",)),
    "false": InputSettings(channels=("nir", "red", "green")),
}


def network(*names: str, seed: int = 3, **settings: Any) -> UniversalSegmenter:
    spaces = {name: space(3) for name in names}
    return UniversalSegmenter(model_settings(**settings), spaces, seed, {n: INPUTS[n] for n in names}).eval()


def image(name: str, rows: int = 2, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    channels = len(INPUTS[name].channels)
    return torch.from_numpy(rng.integers(0, 256, (rows, channels, 33, 47), dtype=np.uint8))


def first(model: UniversalSegmenter) -> torch.nn.Conv2d:
    return next(m for m in model.encoder.modules() if isinstance(m, torch.nn.Conv2d))


def test_a_network_of_rgb_alone_is_what_it_always_was() -> None:
    spaces = {"streets": space(3), "more": space(4)}
    one = UniversalSegmenter(model_settings(), spaces, 3)
    other = UniversalSegmenter(model_settings(), spaces, 3, {n: InputSettings(depth=16) for n in spaces})
    for name, values in one.state_dict().items():
        assert torch.equal(values, other.state_dict()[name]), name
    assert one.mean.shape == (1, 3, 1, 1)
    assert not one.stems.several


def test_weights_of_rgb_are_carried_over_as_timm_does_it() -> None:
    rgb, many = network("streets"), network("streets", "fields", "cells", "false")
    weight, stem = first(rgb).weight, first(many)
    assert (stem.in_channels, stem.weight.shape[1]) == (11, 11)
    assert torch.equal(stem.weight[:, :3], weight)
    assert torch.equal(stem.weight[:, 3:4], weight.sum(1, keepdim=True))
    assert torch.equal(stem.weight[:, 4:7], weight)
    assert torch.equal(stem.weight[:, 7:], weight[:, [0, 1, 2, 0]] * 0.75)
    others = {n: v for n, v in rgb.state_dict().items() if n.startswith("features") and v.shape != weight.shape}
    assert others
    assert all(torch.equal(v, many.state_dict()[n]) for n, v in others.items())


def test_an_rgb_domain_sees_what_it_would_see_alone() -> None:
    rgb, many = network("streets"), network("streets", "fields", "cells")
    x = image("streets")
    with torch.inference_mode():
        torch.testing.assert_close(many.encode(x, "streets"), rgb.encode(x), rtol=1e-4, atol=1e-5)


def test_the_order_of_the_domains_does_not_change_a_stem() -> None:
    one, other = network("fields", "streets", "cells"), network("cells", "fields", "streets")
    other.load_state_dict(one.state_dict())
    with torch.inference_mode():
        for name in one.domains:
            assert torch.equal(one(image(name), name), other(image(name), name))


def test_rows_of_a_batch_are_those_of_their_domains() -> None:
    many = network("streets", "fields", "cells", "false")
    rows, expected = [], []
    with torch.inference_mode():
        for seed, name in enumerate(INPUTS):
            x = image(name, 1, seed)
            rows.append(many.stems.in_batch(x[0].permute(1, 2, 0).numpy(), name))
            expected.append(many.encode(x, name))
        batch = torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)
        assert batch.shape[1] == many.stems.planes == 5
        torch.testing.assert_close(many.encode(batch), torch.cat(expected), rtol=1e-4, atol=1e-5)
        # A black image is one, and no image of another kind.
        black = torch.zeros(1, 3, 33, 47)
        row = torch.from_numpy(many.stems.in_batch(np.zeros((33, 47, 3), np.uint8), "streets"))
        torch.testing.assert_close(many.encode(row.permute(2, 0, 1)[None]), many.encode(black, "streets"))


def test_which_kind_an_image_is_of() -> None:
    two = network("streets", "fields")
    assert torch.equal(two.encode(image("fields")), two.encode(image("fields"), "fields"))
    with pytest.raises(ValueError, match="images of 4 channels, of which the network has not one kind"):
        two.encode(image("fields"), "streets")
    alike = network("streets", "false")
    with pytest.raises(ValueError, match="of which the network has not one kind"):
        alike.encode(image("streets"))
    assert Stems.of_inputs({}).planes == 3


@pytest.mark.parametrize(
    "settings",
    [{"encoder": "resnet18", "decoder": "unet"}, {"encoder": "tu-vit_tiny_patch16_224", "decoder": "linear"}],
)
def test_other_encoders_have_stems_too(settings: dict[str, str]) -> None:
    changes = settings if settings["decoder"] == "linear" else {**settings, "output_stride": 32}
    many = network("streets", "cells", **changes)
    with torch.inference_mode():
        for name in ("streets", "cells"):
            assert many(image(name), name).shape == (2, 3, 33, 47)


def test_an_image_in_memory_has_the_values_of_its_files() -> None:
    deep = InputSettings(channels=FOUR, depth=16, stretch=((0, 1000),) * 4)
    own = UniversalSegmenter(model_settings(), {"fields": space(3)}, 0, {"fields": deep}).eval()
    values = np.random.default_rng(0).integers(0, 1000, (24, 30, 4)).astype(np.uint16)
    mask, probabilities = own.predict(values)
    pixels = torch.from_numpy(np.rint(values * 0.255).astype(np.uint8)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        np.testing.assert_allclose(probabilities, own(pixels, "fields")[0].softmax(0), atol=1e-6)
    assert mask.shape == (24, 30)
    with pytest.raises(ValueError, match="give numbers of \\(H,W,4\\), in red, green, blue, nir"):
        own.predict(values[..., :3])
    with pytest.raises(ValueError, match="values that are not finite"):
        own.predict(np.where(values == values[0, 0, 0], np.nan, values))


@pytest.mark.parametrize("channels", [1, 4, 7])
def test_an_image_in_memory_is_brought_to_the_size_of_its_domain(channels: int) -> None:
    names = tuple("abcdefg")[:channels]
    own = UniversalSegmenter(model_settings(), {"x": space(3)}, 0, {"x": InputSettings(channels=names)}).eval()
    own.sizes = {"x": (40, 44)}
    mask, _ = own.predict(np.random.default_rng(0).integers(0, 256, (64, 80, channels), np.uint8))
    assert mask.shape == (64, 80)


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_views_of_any_channels(channels: int) -> None:
    rng = np.random.default_rng(0)
    from fewmask.config import AugmentSettings, CutoutSettings, StrongSettings
    from fewmask.views.augment import weak_view

    pixels, label = rng.integers(0, 256, (30, 40, channels), np.uint8), np.zeros((30, 40), np.uint8)
    large = AugmentSettings(jitter=0.5, scale=(0.5, 0.6), flip_vertical=0.5, rotate=0.5)
    for seed in range(8):
        view, mask = weak_view(pixels, label, (32, 36), large, np.random.default_rng(seed))
        assert view.shape == (32, 36, channels)
        assert mask.shape == (32, 36)
        strong = strong_view(view, StrongSettings(), np.random.default_rng(seed))
        assert strong.shape == view.shape
    calm = AugmentSettings(jitter=0, scale=(0.5, 0.5))
    view, mask = weak_view(pixels, label, (32, 36), calm, np.random.default_rng(0))
    assert (view[mask == 255] == padding(channels)).all()
    holes = CutoutSettings(probability=1, holes=2, side=5)
    cut, void = cutout(pixels, label, holes, np.random.default_rng(0))
    assert (cut[void == 255] == padding(channels)).all()
    assert jitter(pixels, 0.5, np.random.default_rng(1)).shape == pixels.shape


def write_kinds(root: Path) -> dict[str, Any]:
    """The settings of RGB streets, fields of four bands of 16 bits, and grey cells of floating-point numbers."""
    write_domain(root / "streets", 3, seed=1)
    write_bands(root / "fields", 4, seed=2)
    write_bands(root / "cells", 1, "float32", seed=3)
    folders = {name: {"layout": "folder", "root": str(root / name)} for name in ("streets", "fields", "cells")}
    return {
        "streets": folders["streets"],
        "fields": {**folders["fields"], "channels": list(FOUR), "depth": 16},
        "cells": {**folders["cells"], "channels": ["grey"], "depth": "float"},
    }


def config_of(root: Path, method: str | dict[str, Any] = "joint", **changes: Any) -> Any:
    settings = plain(root, method, batch_size=6, unlabelled_batch_size=3, **changes)
    if method == "supervised":
        settings["method"]["domain"] = "fields"
    return parse_config({**settings, "domains": write_kinds(root)})


METHODS = sorted(SETTINGS_OF_METHODS.keys() - {"cycada", "souly2017", "distill", "s4al-plus"})


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_on_three_kinds_of_input(method: str, tmp_path: Path) -> None:
    given: Any = {"name": "adversarial-align"} if method == "adversarial-align" else method
    summary = train(config_of(tmp_path, given, steps=3), tmp_path / "run")
    assert summary["steps"] == 3
    trained = summary["trained"]
    assert set(summary["domains"]) == set(trained)


@pytest.mark.parametrize("method", ["souly2017", {"name": "cycada", "target": "cells"}])
def test_methods_that_make_images_refuse_other_channels(method: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="makes RGB images, and fields, cells have other channels"):
        train(config_of(tmp_path, method), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kinds")
    train(config_of(root, steps=4), root / "run")
    return root / "run"


def test_a_run_keeps_its_stretch_and_goes_on_with_it(run: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path, steps=4, checkpoint_every=1)
    whole = train(config, tmp_path / "whole")
    with pytest.raises(Stop):
        train(config, tmp_path / "parts", stop_at(2, "train"))
    kept = load_config(tmp_path / "parts").domains["fields"].stretch
    for path in (tmp_path / "fields" / "images").glob("train[45].tif"):  # of the pool, brighter than all that was seen
        bright = tifffile.imread(path)
        tifffile.imwrite(path, bright * 3, photometric="minisblack", planarconfig="contig")
    new = load_domains(config)["fields"].input.stretch
    assert kept != new
    train(config, tmp_path / "parts")
    assert load_model(tmp_path / "parts").inputs["fields"].stretch == kept
    assert whole["steps"] == 4


def test_a_run_in_parts_is_the_whole_run(tmp_path: Path) -> None:
    config = config_of(tmp_path, "fixmatch", steps=4, checkpoint_every=1)
    train(config, tmp_path / "whole")
    with pytest.raises(Stop):
        train(config, tmp_path / "parts", stop_at(2, "train"))
    train(config, tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_prediction_is_of_the_files_by_the_kept_stretch(run: Path, tmp_path: Path) -> None:
    model, root = load_model(run), run.parent
    fields = load_domains(load_config(run))["fields"]
    predict(model, root / "fields" / "images", tmp_path / "out", "fields")
    with torch.inference_mode():
        for stem in ("test0", "train5"):
            x = torch.from_numpy(fields.image(stem)).permute(2, 0, 1)[None]
            expected = model(x, "fields")[0].argmax(0).numpy()
            np.testing.assert_array_equal(read_mask(tmp_path / "out" / "masks" / f"{stem}.png"), expected)
    assert cv2.imread(str(tmp_path / "out" / "overlays" / "test0.jpg")).shape == (40, 48, 3)
    with pytest.raises(ValueError, match="`channels` are 1 \\(grey\\)"):
        predict(model, root / "fields" / "images", tmp_path / "other", "cells")
    with pytest.raises(ValueError, match="name it by `domain`"):
        load_fused(run)


def test_a_run_without_its_stretch_is_refused(run: Path, tmp_path: Path) -> None:
    data = json.loads((run / "model.json").read_text())
    assert data["inputs"]["fields"]["stretch"]
    data["inputs"]["fields"]["stretch"] = None
    for name in ("model.safetensors",):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    (tmp_path / "model.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match="fields: no `stretch`"):
        load_model(tmp_path)


def test_scores_of_a_run_and_of_its_heads_elsewhere(run: Path) -> None:
    model, domains = load_model(run), load_domains(load_config(run))
    scores = evaluate(model, domains, "val", workers=0)
    assert set(scores["domains"]) == {"streets", "fields", "cells"}
    assert count_predictions(model, domains["cells"], "val", workers=0).confusion.sum() > 0
    with pytest.raises(
        ValueError, match="its images have the channels grey, and the head of fields was trained on red"
    ):
        through_mapping(model, "fields", domains["cells"], workers=0)
    with pytest.raises(ValueError, match="its images have the channels grey"):
        with_new_head(model, domains["cells"], steps=2)


def test_the_page_gets_the_features_of_an_image_of_its_domain(tmp_path: Path) -> None:
    domains = write_kinds(tmp_path)
    write_domain(tmp_path / "false", 3, seed=4)
    domains = {"streets": domains["streets"], "false": {**domains["streets"], "root": str(tmp_path / "false")}}
    domains["false"]["channels"] = ["nir", "red", "green"]
    config = parse_config({**plain(tmp_path, steps=1), "domains": domains})
    train(config, tmp_path / "run")
    guesser, loaded = predictor(tmp_path / "run"), load_domains(config)
    assert guesser is not None and guesser.encode is not None
    for name, domain in loaded.items():
        pixels = domain.image(domain.splits["train"][0])
        assert np.isfinite(guesser.encode(name, pixels).values).all()


def test_the_card_names_the_channels(run: Path) -> None:
    assert "fields: red, green, blue, nir" in (run / "model-card.md").read_text(encoding="utf-8")


def test_onnx_takes_the_channels_of_one_domain(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name one domain \\(--domain\\)"):
        export(run, tmp_path / "all.onnx")
    export(run, tmp_path / "fields.onnx", "fields")
    session = onnxruntime.InferenceSession(str(tmp_path / "fields.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1] == 4
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["fewmask.input"].startswith("red, green, blue, nir, 0 to 255")
    own = json.loads(metadata["fewmask.domains"])["fields"]
    assert own["depth"] == 16
    assert len(own["stretch"]) == 4
    x = image("fields").float()
    (logits,) = session.run(None, {"image": x.numpy()})
    with torch.inference_mode():
        expected = load_model(run)(x, "fields").numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-3 * max(1, np.abs(expected).max()))


def test_a_teacher_of_other_channels_is_refused(run: Path, tmp_path: Path) -> None:
    given = {**plain(tmp_path), "method": {"name": "distill", "teachers": [str(run)]}, "domains": write_kinds(tmp_path)}
    train(parse_config(given), tmp_path / "same")
    given["domains"]["fields"]["stretch"] = [[0, 9000]] * 4
    with pytest.raises(ValueError, match="learnt fields from other `channels`, `depth` or `stretch`"):
        train(parse_config(given), tmp_path / "other")


def test_a_teacher_may_know_fewer_kinds_of_input(tmp_path: Path) -> None:
    domains = write_kinds(tmp_path)
    runs = []
    for name in domains:
        train(parse_config({**plain(tmp_path, steps=1), "domains": {name: domains[name]}}), tmp_path / f"run-{name}")
        runs.append(str(tmp_path / f"run-{name}"))
    given = {**plain(tmp_path, steps=2), "method": {"name": "distill", "teachers": runs}, "domains": domains}
    assert train(parse_config(given), tmp_path / "student")["steps"] == 2
