"""Normalisation layers in training: frozen statistics, and groups.

Shapes: B images · C channels · H×W pixels.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import ENCODER, domains, model_settings, same
from ondisk import NARROW, assert_same_run, plain, two_domains
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fewmask.config import NormSettings
from fewmask.engine import fit
from fewmask.engine.fit import train
from fewmask.engine.run import load_model
from fewmask.methods import parse_config
from fewmask.models.batch_norm import single_value_batch_norms
from fewmask.models.universal import UniversalSegmenter


def network(encoder: str = "batch", decoder: str = "batch", **changes: Any) -> UniversalSegmenter:
    norm = NormSettings.model_validate({"encoder": encoder, "decoder": decoder})
    return UniversalSegmenter(model_settings(norm=norm, **changes), {n: d.space for n, d in domains(3, 4).items()})


def images(rows: int = 3, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (rows, 3, 64, 64), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def norms(part: nn.Module) -> list[_BatchNorm]:
    return [m for m in part.modules() if isinstance(m, _BatchNorm)]


def decoder_norms(model: UniversalSegmenter) -> list[_BatchNorm]:
    inside = {id(m) for m in model.encoder.modules()}
    return [m for m in norms(model.features) if id(m) not in inside]


def test_a_frozen_encoder_keeps_its_statistics_and_trains_its_factors() -> None:
    model = network("frozen").train()
    assert norms(model.encoder)
    assert not any(m.training for m in norms(model.encoder))
    assert all(m.training for m in decoder_norms(model))
    before = {n: b.clone() for n, b in model.encoder.named_buffers()}
    model.encode(images()).square().mean().backward()
    assert same(dict(model.encoder.named_buffers()), before)
    factors = [p for m in norms(model.encoder) for p in m.parameters()]
    assert all(p.requires_grad for p in factors)
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in factors)
    other = copy.deepcopy(model).eval().train()
    assert not any(m.training for m in norms(other.encoder))


def test_a_frozen_layer_is_its_formula() -> None:
    torch.manual_seed(0)
    model = network(decoder="frozen").train()
    layer = decoder_norms(model)[0]
    for tensor in (layer.running_mean, layer.running_var, layer.weight, layer.bias):
        assert tensor is not None
        tensor.data.uniform_(0.5, 2)
    x = torch.randn(2, layer.num_features, 5, 7)
    column = [t[None, :, None, None] for t in (layer.running_mean, layer.running_var, layer.weight, layer.bias)]  # type: ignore[index]
    mean, variance, factor, offset = column
    torch.testing.assert_close(layer(x), (x - mean) / (variance + layer.eps).sqrt() * factor + offset)


@pytest.mark.parametrize("decoder", ["frozen", "group"])
def test_rows_do_not_see_each_other(decoder: str) -> None:
    model = network("frozen", decoder).train()
    for dropout in (m for m in model.modules() if isinstance(m, nn.Dropout)):
        dropout.p = 0.0
    model.encoder.apply(lambda m: setattr(m, "drop_prob", 0.0) if hasattr(m, "drop_prob") else None)
    together, alone = model.encode(images()), [model.encode(row[None]) for row in images()]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)
    mixed = network().train()
    for dropout in (m for m in mixed.modules() if isinstance(m, nn.Dropout)):
        dropout.p = 0.0
    part = mixed.encode(images()[:2])
    assert (mixed.encode(images())[:2] - part).abs().max() > 1e-3  # as batch normalisation has it


def test_group_normalisation_takes_the_place_of_the_decoders_alone() -> None:
    model = network(decoder="group")
    assert not decoder_norms(model)
    groups = [m for m in model.features.modules() if isinstance(m, nn.GroupNorm)]
    assert len(groups) == len(decoder_norms(network()))
    assert len(norms(model.encoder)) == len(norms(network().encoder))
    x = torch.randn(2, groups[0].num_channels, 4, 4)
    torch.testing.assert_close(groups[0](x), F.group_norm(x, groups[0].num_groups, eps=groups[0].eps))


@pytest.mark.parametrize(("encoder", "decoder"), [("batch", "batch"), ("frozen", "batch"), ("frozen", "frozen")])
def test_prediction_is_the_same_whatever_is_frozen(encoder: str, decoder: str) -> None:
    model = network(encoder, decoder).eval()
    reference = network().eval()
    reference.load_state_dict(model.state_dict())
    assert torch.equal(model(images(), "a"), reference(images(), "a"))


@pytest.mark.parametrize(("decoder", "few"), [("batch", True), ("frozen", False), ("group", False)])
def test_only_what_takes_statistics_of_a_batch_needs_two_rows(decoder: str, few: bool) -> None:
    model = network("frozen", decoder)
    assert bool(single_value_batch_norms(model, lambda: model.encode(images(1)))) == few
    assert model.training


@pytest.mark.parametrize("norm", [{"encoder": "frozen"}, {"encoder": "frozen", "decoder": "group"}])
def test_a_stopped_run_goes_on_bit_for_bit(
    norm: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = two_domains(tmp_path / "data")
    config = parse_config(
        plain(data, {"name": "fixmatch", "threshold": 0, "ema": 0.5}, steps=4, checkpoint_every=1)
        | {"model": {"encoder": ENCODER, "decoder_options": NARROW, "norm": norm}}
    )
    train(config, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(event: fit.ProgressEvent) -> None:
        if event.step == 2 and event.stage != "evaluate":
            raise Stop

    with pytest.raises(Stop):
        train(config, tmp_path / "parts", stop)
    train(config, tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    load_model(tmp_path / "parts")
