"""Wrong settings of network, method and training are told by `check`, and by `campaign` before people are asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import helpers
import pytest
import torch
from campaigns import BY_CHANCE, SQUARES, settings_of
from command import Fewmask
from ondisk import two_domains, write_config
from safetensors.torch import save_file

from fewmask.config import ModelSettings
from fewmask.engine import preflight
from fewmask.engine.run import load_domains
from fewmask.methods import parse_config
from fewmask.models import encoders, fetching
from fewmask.models.memory import is_out_of_memory, memory_for

VIT = {"encoder": "tu-vit_tiny_patch16_224", "decoder": "linear", "decoder_options": {}}
# Settings, the key that the message begins with, and a word of what it says of it.
WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "an encoder that is none": ({"model.encoder": "resnett18"}, "model.encoder", "did you mean"),
    "an encoder of timm that is none": ({"model.encoder": "tu-mobilenetv9"}, "model.encoder", "timm has no"),
    "a decoder that is none": ({"model.decoder": "deeplab"}, "model.decoder", "did you mean"),
    "a stride that the decoder cannot make": ({"model.decoder": "unet"}, "model.output_stride", "set model.output_st"),
    "a stride that the encoder cannot make": (
        {"model.encoder": "tu-convnext_atto", "model.output_stride": 8, "model.decoder": "unet"},
        "model.output_stride",
        "32",
    ),
    "a stride of a ViT": ({**{f"model.{k}": v for k, v in VIT.items()}, "model.output_stride": 8}, "model.", "patches"),
    "a decoder of ViTs": ({"model.decoder": "dpt", "model.encoder": "resnet18"}, "model.decoder", "ViT"),
    "a network that is no ViT": ({"model.decoder": "linear"}, "model", "no ViT"),
    "weights that are not there": ({"model.weights": "/nowhere/w.safetensors"}, "model.weights", "/nowhere/w.saf"),
    "an option that does not exist": ({"model.encoder_options": {"drop_block": 1, "x": 2}}, "model", "options"),
    "a decoder option that does not exist": ({"model.decoder_options": {"channels_": 9}}, "model", "channels_"),
    "a decoder option out of range": ({"model.decoder_options": {"decoder_aspp_dropout": 7}}, "model", "dropout"),
    "a decoder option of no kind": ({"model.decoder_options": {"decoder_channels": "many"}}, "model", "options"),
    "a decoder option of nothing": ({"model.decoder_options": {"decoder_channels": 0}}, "model", "decoder_options"),
    "images that are no RGB": ({"model.decoder_options": {"in_channels": 5}}, "model", "decoder_options"),
    "classes given by hand": ({"model.decoder_options": {"classes": 5}}, "model", "classes"),
    "blocks of a convolutional network": ({"model.tuning": "last-blocks"}, "model.tuning", "ViT"),
    "LoRA of a convolutional network": ({"model.tuning": "lora"}, "model.tuning", "ViT"),
    "more blocks than there are": (
        {**{f"model.{k}": v for k, v in VIT.items()}, "model.tuning": {"name": "last-blocks", "blocks": 99}},
        "model.tuning.blocks",
        "99",
    ),
    "layers that LoRA does not find": (
        {**{f"model.{k}": v for k, v in VIT.items()}, "model.tuning": {"name": "lora", "targets": ["qqq"]}},
        "model.tuning",
        "qqq",
    ),
    "a batch of one": ({"train.batch_size": 1}, "train.batch_size", "two images"),
    "a first batch of one": ({"campaign.first_batch_size": 1}, "train.batch_size", "two images"),
    "a first batch that does not divide": (
        {"campaign.first_batch_size": 3, "train.accumulate": 2, "train.batch_size": 4},
        "train.batch_size",
        "divide",
    ),
    "a device that is not there": ({"train.device": "cuda:7"}, "train.device", "auto"),
    "a device that is none": ({"train.device": "gpu"}, "train.device", "cuda"),
    "a teacher that is not there": ({"method": {"name": "distill", "teachers": ["nowhere"]}}, "", "nowhere"),
    "a domain that is none": ({"method": {"name": "supervised", "domain": "c"}}, "method.domain", "there are a, b"),
    "scales that leave nothing": ({"campaign.pool.scales": [0.01, 1.0]}, "campaign.pool.scales", "larger"),
    "scales beyond all memory": ({"campaign.pool.scales": [1000.0]}, "campaign.pool.scales", "1000"),
    "a network that is not kept": ({"campaign.pool.network": "student"}, "campaign.pool.network", "student"),
    "dropout that is not there": (
        {
            "campaign.pool.dropout": 4,
            "model.decoder": "fpn",
            "model.output_stride": 32,
            "model.decoder_options": {"decoder_dropout": 0},
        },
        "campaign.pool.dropout",
        "dropout",
    ),
}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_domains(tmp_path_factory.mktemp("data"))


def changed(plain: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in changes.items():
        *rooms, last = key.split(".")
        at = plain
        for room in rooms:
            at = at.setdefault(room, {})
        at[last] = value
    return plain


def asking(data: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    made = settings_of(data, labelled=1, annotator="people", first=BY_CHANCE, ask=SQUARES)
    made["campaign"]["pool"] = {"scales": [1.0]}
    return changed(made, changes)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_settings_are_told_by_check_and_before_anybody_is_asked(
    name: str, data: Path, tmp_path: Path, fewmask: Fewmask
) -> None:
    changes, key, word = WRONG[name]
    config = write_config(tmp_path / "c.yaml", asking(data, changes))
    for done in (fewmask("check", config), fewmask("campaign", config, "--out", tmp_path / "run")):
        assert done.code == 2, done
        lines = [line for line in (done.err + done.out).splitlines() if key in line and word in line]
        assert lines, done
        assert "Traceback" not in done.err
    assert not (tmp_path / "run").exists()


def test_right_settings_are_none_of_it(data: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    done = fewmask("check", write_config(tmp_path / "c.yaml", asking(data, {})))
    assert done.code == 0, done
    assert "0 errors" in done.out


def test_check_tells_of_the_network_also_where_the_data_is_wrong(data: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    made = asking(data, {"model.encoder": "tu-nothing"})
    made["domains"]["a"]["root"] = str(tmp_path / "nowhere")
    done = fewmask("check", write_config(tmp_path / "c.yaml", made), "--json")
    assert done.code == 2
    assert "model.encoder" in done.out
    assert "nowhere" in done.out


def test_a_training_is_checked_too(data: Path, tmp_path: Path, fewmask: Fewmask) -> None:
    made = asking(data, {"train.batch_size": 1, "train.tensorboard": True, "method": "joint"})
    del made["campaign"]
    done = fewmask("check", write_config(tmp_path / "c.yaml", made))
    assert done.code == 2
    assert "train.batch_size" in done.out


# ── Weights ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def weights() -> dict[str, torch.Tensor]:
    import timm

    network = timm.create_model(helpers.ENCODER.removeprefix("tu-"), pretrained=False)
    return {name: value.clone() for name, value in network.state_dict().items()}


def refused(data: Path, path: Path) -> str:
    config = parse_config(asking(data, {"model.weights": str(path)}))
    with pytest.raises(ValueError, match=r"^model\.weights: ") as raised:
        preflight.check_configs([config], load_domains(config))
    assert str(path) in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_named_with_their_tensor(
    value: float, weights: dict[str, torch.Tensor], data: Path, tmp_path: Path
) -> None:
    name = next(n for n, v in weights.items() if v.dim() == 4 and v.shape[1] > 8)
    broken = weights[name].clone()
    broken[0, 0, 0, 0] = value
    save_file(weights | {name: broken}, tmp_path / "w.safetensors")
    message = refused(data, tmp_path / "w.safetensors")
    assert "1 of its tensors" in message
    assert name in message
    assert "NaN" in message


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module.encoder.", "net.a.b."])
def test_weights_with_a_prefix_are_refused_with_it(
    prefix: str, weights: dict[str, torch.Tensor], data: Path, tmp_path: Path
) -> None:
    save_file({prefix + name: value for name, value in weights.items()}, tmp_path / "w.safetensors")
    assert f"begins with {prefix!r}" in refused(data, tmp_path / "w.safetensors")


def test_a_pointer_of_git_lfs_is_no_file_of_weights(data: Path, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    assert "git lfs pull" in refused(data, tmp_path / "w.safetensors")


@pytest.mark.parametrize("encoder", ["tu-test_efficientnet", "resnet18"])
def test_weights_that_nobody_can_fetch_are_told_at_once(
    encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No request is tried: it would be tried again for a minute."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(fetching, "is_reachable", lambda address: False)
    fetching._say.cache_clear()
    settings = ModelSettings(encoder=encoder, weights="imagenet")
    with pytest.raises(ValueError, match=rf"model\.weights: imagenet weights of {encoder} cannot be .*; give the path"):
        encoders.build(settings)
    assert f"imagenet weights of {encoder} come from {constants.ENDPOINT}" in caplog.text
    assert "does not answer" in caplog.text
    assert "Retry" not in caplog.text
    assert constants.HF_HUB_OFFLINE is False


def test_nobody_answers_where_nobody_listens() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert fetching.is_reachable.__wrapped__(f"http://127.0.0.1:{port}")
    assert not fetching.is_reachable.__wrapped__(f"http://127.0.0.1:{port}")


# ── Memory ───────────────────────────────────────────────────────────────────────────────────────────────────────────

OUT_OF_IT = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9",
    "std::bad_alloc",
    "CUDA out of memory. Tried to allocate 20.00 MiB",
    "could not create a memory object",
)


@pytest.mark.parametrize("message", OUT_OF_IT)
def test_running_out_of_memory_is_told_apart(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))
    with pytest.raises(RuntimeError, match=r"^out of memory in step 3; lower it"), memory_for("in step 3", "lower it"):
        raise RuntimeError(message)


def test_what_has_nothing_to_do_with_memory_stays_as_it_is() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match=r"^shapes$"), memory_for("in step 3", "lower it"):
        raise RuntimeError("shapes")


def test_running_out_of_memory_is_not_blamed_on_the_encoder(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Starving(torch.nn.Module):
        encoder = torch.nn.Identity()

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            raise RuntimeError(OUT_OF_IT[0])

    Starving.encoder.output_stride = 16  # type: ignore[assignment]
    monkeypatch.setattr(encoders, "build", lambda settings: Starving())
    config = parse_config(asking(data, {}))
    with pytest.raises(RuntimeError, match=r"^out of memory on one image"):
        preflight.check_configs([config], load_domains(config))
