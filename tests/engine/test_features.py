"""Cached features of a frozen encoder: their crops are windows, training on them is training on the images, and what
they cannot stand for is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shutil import _ntuple_diskusage as Usage
from typing import Any

import numpy as np
import pytest
import torch
from ondisk import Stop, assert_same_run, plain, stop_at, two_domains, weights_of, write_domain
from torch import Tensor

from fewmask.config import AugmentSettings, Config, FolderDomain, Frozen, ModelSettings, TrainSettings
from fewmask.data.batch import Phase
from fewmask.data.batches import Steps
from fewmask.data.domain import Domain
from fewmask.data.layouts import load_domain
from fewmask.engine.features import cache_features
from fewmask.engine.fit import train
from fewmask.engine.preflight import check_configs
from fewmask.engine.run import build_network, load_domains
from fewmask.methods import parse_config
from fewmask.models.universal import UniversalSegmenter
from fewmask.runs import RunFolder

VIT = {"encoder": "tu-vit_tiny_patch16_224", "encoder_options": {"depth": 4, "embed_dim": 24, "num_heads": 3}}
UNET = {"decoder": "unet", "output_stride": 32, "decoder_options": {"decoder_channels": [16, 16, 8, 8, 8]}}
MODELS: dict[str, dict[str, Any]] = {
    "mobilenet, deeplabv3plus": {"encoder": "tu-mobilenetv2_035"},
    "resnet18, unet": {"encoder": "resnet18", **UNET},
    "vit, linear": {**VIT, "decoder": "linear"},
    "vit, dpt": {**VIT, "decoder": "dpt", "decoder_options": {"features": 8, "channels": [8, 8, 8, 8]}},
}


def cached(root: Path, method: str | Mapping[str, Any] = "joint", on: bool = True, **train: Any) -> Config:
    settings = plain(root, method, **{"augment": {"scale": [1, 1]}, **train})
    settings["model"]["tuning"] = {"name": "frozen", "cached": on}
    return parse_config(settings)


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Domain:
    return load_domain("a", FolderDomain(root=write_domain(tmp_path_factory.mktemp("a"), 3, size=(72, 90))))


def batches(domain: Domain, model: UniversalSegmenter, settings: TrainSettings, folder: Path) -> Steps:
    phases = [Phase("train", 0, 9, ("a",), ("a",))]
    model.keep_features()
    steps = Steps({"a": domain}, settings, phases, [1], model.multiple, 0)
    steps.features = cache_features(model, {"a": domain}, phases, settings, folder)
    return steps


@pytest.mark.parametrize("name", MODELS)
def test_the_features_of_a_crop_are_a_window_of_those_of_the_whole_image(
    name: str, domain: Domain, tmp_path: Path
) -> None:
    """Every row of a batch is found in the decoder's input for its whole image, or for that image mirrored."""
    settings = TrainSettings(batch_size=3, crop=(32, 64), augment=AugmentSettings(scale=(1, 1)))
    model = build_network(ModelSettings(**MODELS[name], tuning=Frozen(cached=True)), {"a": domain}, 0).eval()
    steps, (height, width) = batches(domain, model, settings, tmp_path), (72, 90)
    whole, side = {}, model.multiple
    for stem in domain.splits["train"]:
        image = torch.from_numpy(domain.image(stem)).permute(2, 0, 1)[None]
        for turned in (image, image.flip(3)):
            with torch.no_grad():
                whole[f"{stem} {len(whole) % 2}"] = model.encoder(model._padded(turned, None, (0, 0)))
    assert model.packing is not None
    seen = set()
    for step in range(6):
        (batch,) = steps[step]
        assert batch.image.shape == (6, model.packing.channels, 32 // side, 64 // side)
        maps = model.packing.unpack(batch.image, torch.float32)
        for row in range(6):
            places = [
                (key, top, left)
                for key, of_image in whole.items()
                for top in range(0, height + -height % side - 32 + 1, side)
                for left in range(0, width + -width % side - 64 + 1, side)
                if _is_window([m[row] for m in maps], [m[0] for m in of_image], top, left, model)
            ]
            assert len(places) == 1
            seen.add(places[0][0][-1])
    assert seen == {"0", "1"}


def _is_window(maps: list[Tensor], whole: list[Tensor], top: int, left: int, model: UniversalSegmenter) -> bool:
    assert model.packing is not None
    for part, of_image, one in zip(maps, whole, model.packing.maps, strict=True):
        y, x = top // one.stride, left // one.stride
        window = of_image[:, y : y + part.shape[1], x : x + part.shape[2]]
        if one.used and not torch.allclose(part, window, rtol=2e-3, atol=2e-3):
            return False
    return True


@pytest.mark.parametrize("name", MODELS)
def test_packed_features_decode_to_the_features_of_the_image(name: str, domain: Domain) -> None:
    model = build_network(ModelSettings(**MODELS[name], tuning=Frozen(cached=True)), {"a": domain}, 0).eval()
    packing = model.keep_features()
    image = torch.from_numpy(domain.image(domain.labelled[0])).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected, packed = model.encode(image), model.pack(image, "a", (0, 0))
        assert packed.dtype == torch.float16
        torch.testing.assert_close(model.encode(packed), expected, rtol=1e-2, atol=1e-2)
    used = [one for one in packing.maps if one.used]
    assert packed.shape[1] == sum(one.channels * (packing.stride // one.stride) ** 2 for one in used)
    if name == "mobilenet, deeplabv3plus":  # the skip connection at stride 4, and the last map
        assert [one.stride for one in used] == [4, 16]


def test_labels_are_cropped_with_the_features_and_padding_is_void(domain: Domain, tmp_path: Path) -> None:
    """Of a crop larger than the image all labels are shown, mirrored where the features are."""
    settings = TrainSettings(batch_size=4, crop=(96, 128), augment=AugmentSettings(scale=(1, 1)))
    model = build_network(ModelSettings(encoder="tu-mobilenetv2_035", tuning=Frozen(cached=True)), {"a": domain}, 0)
    (batch,) = batches(domain, model, settings, tmp_path)[0]
    masks = {stem: domain.mask(stem) for stem in domain.labelled}
    for row in range(batch.pool):
        mask = masks[Path(batch.names[row]).stem]
        label = batch.label[row].numpy()
        assert any(np.array_equal(label[:72, :90], m) for m in (mask, mask[:, ::-1]))
        assert (label[72:] == 255).all()
        assert (label[:, 90:] == 255).all()
    assert (batch.label[batch.pool :, :72, :90] == 254).all()


@pytest.mark.parametrize("method", ["supervised", "joint", "entropy-min", "mmd", "univ-cross", "univ-full"])
def test_training_on_cached_features_is_training_on_whole_images(method: str, tmp_path: Path) -> None:
    """Crops are whole images, so that both see the same pixels; the losses are equal but for half precision."""
    two_domains(tmp_path, size=(32, 48), pool=2)
    of = {"name": method, "pretrain": 0.5} if method.startswith("univ") else method
    logs = []
    for on in (True, False):
        out = tmp_path / f"{on}"
        train(cached(tmp_path, of, on, crop=[32, 48], optimiser={"name": "sgd", "lr": 0.01, "head_lr": 0.01}), out)
        logs.append([line.terms for line in RunFolder(out).read_steps()])
    assert len(logs[0]) == len(logs[1]) == 4
    for one, other in zip(*logs, strict=True):
        assert one == pytest.approx(other, rel=5e-3, abs=5e-3)


def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """It goes on with the features on the disk, or with those that it has to make again."""
    two_domains(tmp_path, pool=2)
    settings = cached(tmp_path, {"name": "univ-full", "pretrain": 0.5}, checkpoint_every=1)
    train(settings, tmp_path / "whole")
    for step, stage in ((3, "features"), (1, "pretrain"), (3, "align")):
        with pytest.raises(Stop):
            train(settings, tmp_path / "run", stop_at(step, stage))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "features").iterdir()}
    next(iter(before)).unlink()
    train(settings, tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "features").iterdir()}
    assert after.keys() == before.keys()
    assert sum(after[path] != before[path] for path in before) == 1


def test_workers_do_not_change_the_result(tmp_path: Path) -> None:
    two_domains(tmp_path)
    for workers in (0, 2):
        train(cached(tmp_path, workers=workers), tmp_path / f"{workers}")
    one, other = (weights_of(tmp_path / f"{workers}") for workers in (0, 2))
    assert all(one[name].equal(other[name]) for name in one)


def test_features_of_other_pixels_or_weights_are_not_taken(domain: Domain, tmp_path: Path) -> None:
    settings = TrainSettings(batch_size=2, crop=(32, 32), augment=AugmentSettings(scale=(1, 1), flip=0))
    made = []
    for seed in (0, 1, 0):
        model = build_network(
            ModelSettings(encoder="tu-mobilenetv2_035", tuning=Frozen(cached=True)), {"a": domain}, seed
        )
        batches(domain, model, settings, tmp_path)
        made.append({path.name for path in tmp_path.iterdir()})
    images = len(domain.splits["train"])
    assert [len(names) for names in made] == [images, 2 * images, 2 * images]


REFUSED: dict[str, tuple[str | dict[str, Any], dict[str, Any], str]] = {
    "scale": ("joint", {"augment": {"scale": [0.5, 2]}}, r"train.augment.scale: \[0.5, 2.0\] .* set it to \[1, 1\]"),
    "jitter": ("joint", {"augment": {"scale": [1, 1], "jitter": 0.2}}, "train.augment.jitter: 0.2 .* set it to 0"),
    "rotate": ("joint", {"augment": {"scale": [1, 1], "rotate": 0.5}}, "train.augment.rotate: 0.5 .* set it to 0"),
    "crop": ("joint", {"crop": [40, 32]}, r"train.crop: 40 is no multiple of the 16 pixels .* take \[32, 32\]"),
    "fixmatch": ("fixmatch", {}, "model.tuning.cached: fixmatch .* take supervised, joint"),
    "cycada": ("cycada", {}, "model.tuning.cached: cycada"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_features_cannot_stand_for_is_refused_before_the_first_step(case: str, tmp_path: Path) -> None:
    two_domains(tmp_path, pool=2)
    method, changes, message = REFUSED[case]
    settings = cached(tmp_path, method, **changes)
    with pytest.raises(ValueError, match=message):
        check_configs([settings], load_domains(settings))
    with pytest.raises(ValueError, match=message):
        train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_only_a_frozen_encoder_has_the_key(tmp_path: Path) -> None:
    two_domains(tmp_path)
    settings = plain(tmp_path)
    settings["model"]["tuning"] = {"name": "full", "cached": True}
    with pytest.raises(ValueError, match=r"model.tuning.*cached"):
        parse_config(settings)


def test_a_disk_without_room_is_refused(domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10, 9, 1))
    model = build_network(ModelSettings(encoder="tu-mobilenetv2_035", tuning=Frozen(cached=True)), {"a": domain}, 0)
    settings = TrainSettings(batch_size=2, crop=(32, 32), augment=AugmentSettings(scale=(1, 1)))
    with pytest.raises(ValueError, match=r"model.tuning.cached: the features take about"):
        batches(domain, model, settings, tmp_path)
