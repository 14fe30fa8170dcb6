"""ViTs as encoders: the maps of their tokens, the two decoders, what is trained of them, and files of weights.

Shapes: B images · H×W pixels · p side of a patch · h×w patches · D width of a token.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import helpers
import pytest
import torch
import torch.nn.functional as F
from helpers import domains, model_settings, space
from ondisk import Stop, assert_same_run, plain, stop_at, two_domains, weights_of
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fewmask.config import ModelSettings, OptimiserSettings
from fewmask.engine.fit import train
from fewmask.engine.optimiser import Optimisers
from fewmask.engine.run import load_model
from fewmask.methods import SETTINGS, build, parse_config
from fewmask.methods.common.teacher import Teacher
from fewmask.models import encoders
from fewmask.models.lora import merge_lora
from fewmask.models.universal import UniversalSegmenter
from fewmask.onnx_export import compare, to_onnx

SMALL = {"embed_dim": 48, "depth": 4, "num_heads": 2}
# Positions embedded for 4×4 patches and no registers; for patches alone, and registers; rotary, of two kinds.
ENCODERS = {
    "dinov2": {"encoder": "tu-vit_small_patch14_dinov2", "encoder_options": {**SMALL, "img_size": 56}},
    "dinov2, registers": {"encoder": "tu-vit_small_patch14_reg4_dinov2", "encoder_options": {**SMALL, "img_size": 56}},
    "dinov3": {"encoder": "tu-vit_small_patch16_dinov3", "encoder_options": SMALL},
    "dinov3, biases": {"encoder": "tu-vit_small_patch16_dinov3_qkvb", "encoder_options": SMALL},
}
LORA = {"name": "lora", "rank": 2, "targets": ["qkv", "proj", "fc1"]}
TUNINGS: list[Any] = ["frozen", LORA, {"name": "last-blocks", "blocks": 1}]
SPACES = {"a": space(3), "b": space(4)}
each_encoder = pytest.mark.parametrize("name", ENCODERS)


def build_vit(name: str = "dinov2", seed: int = 0, **changes: Any) -> UniversalSegmenter:
    settings = {**ENCODERS[name], "decoder": "dpt", "embedding": {"dim": 8}, **changes}
    return UniversalSegmenter(ModelSettings.model_validate(settings), SPACES, seed)


def image(height: int = 61, width: int = 90, count: int = 2) -> Tensor:
    size = (count, 3, height, width)
    return torch.randint(0, 256, size, generator=torch.Generator().manual_seed(0)).float()


def train_a_little(network: UniversalSegmenter, steps: int = 3, rate: float = 1e-2) -> Optimisers:
    method = build(SETTINGS["joint"](), domains(3, 4), 4)
    optimisers = Optimisers(OptimiserSettings(lr=rate, head_lr=rate), network, method)
    network.train()
    for _ in range(steps):
        optimisers.zero_grad()
        features = network.encode(image())
        (network.decode(features, "a") - 1).square().mean().backward()
        optimisers.step()
    return optimisers


# ── Maps and decoders ────────────────────────────────────────────────────────────────────────────────────────────────


@each_encoder
@pytest.mark.parametrize("decoder", ["dpt", "linear"])
def test_any_size_gives_what_the_padded_image_gives(name: str, decoder: str) -> None:
    network = build_vit(name, decoder=decoder).eval()
    p = network.multiple
    assert p == (14 if name.startswith("dinov2") else 16)
    assert network.stride == (2 if decoder == "dpt" else p)
    for height, width in ((61, 90), (1, 1), (3 * p, p)):
        full = (-(-height // p) * p, -(-width // p) * p)
        padded = network.mean.expand(2, 3, *full).clone()
        padded[..., :height, :width] = image(height, width)
        with torch.no_grad():
            got, expected = network(image(height, width), "b"), network(padded, "b")
            features = network.encode(image(height, width))
        assert got.shape == (2, 4, height, width)
        torch.testing.assert_close(got, expected[..., :height, :width])
        assert features.shape[-2:] == tuple(n // network.stride for n in full)
        assert network.embed(features).shape == (2, 8, *(n // network.embedding_stride for n in full))


@each_encoder
def test_linear_is_batch_normalisation_and_a_convolution_of_the_patch_tokens(name: str) -> None:
    network = build_vit(name, decoder="linear", decoder_options={"blocks": 2}).eval()
    vit, norm, head = network.encoder.model, network.features.decoder.norm, network.heads["of_a"]
    norm.running_mean.normal_(generator=torch.Generator().manual_seed(1))
    x = (image(28 if vit.patch_embed.patch_size[0] == 14 else 32, 64) - network.mean) / network.std
    x = F.pad(x, (0, -x.shape[-1] % network.multiple, 0, -x.shape[-2] % network.multiple))
    with torch.no_grad():
        outputs: list[Tensor] = []
        handles = [block.register_forward_hook(lambda _, __, out: outputs.append(out)) for block in vit.blocks[-2:]]
        vit.forward_features(x)
        for handle in handles:
            handle.remove()
        tokens = torch.cat([vit.norm(out)[:, vit.num_prefix_tokens :] for out in outputs], 2)
        tokens = F.batch_norm(tokens.flatten(0, 1), norm.running_mean, norm.running_var, norm.weight, norm.bias)
        expected = F.linear(tokens, head.weight[:, :, 0, 0], head.bias)
        got = network.decode(network.features(x), "a")
    torch.testing.assert_close(got.permute(0, 2, 3, 1).reshape(expected.shape), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["dinov2", "dinov3"])
def test_dpt_makes_a_pyramid_of_any_number_of_patches(name: str) -> None:
    network = build_vit(name).eval()
    sizes: list[tuple[int, ...]] = []
    for level in network.features.decoder.levels:
        level.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[-2:])))
    p = network.multiple
    with torch.no_grad():
        assert network.features(torch.zeros(1, 3, 3 * p, 5 * p)).shape[-2:] == (3 * p // 2, 5 * p // 2)
    assert sizes == [(12, 20), (6, 10), (3, 5), (2, 3)]  # odd ones too
    assert network.encoder.taken == (0, 1, 2, 3)


def test_dpt_has_the_size_of_unimatch_v2s() -> None:
    """Its logs say 10.9 million for DINOv2-B and 19 classes. The source's coarsest fusion has two convolutions that
    nothing uses: 2 · (9 · 128² + 128)."""
    with torch.device("meta"):
        network = encoders.build(ModelSettings(encoder="tu-vit_base_patch14_dinov2", decoder="dpt"))
    decoder = sum(p.numel() for p in network.decoder.parameters()) + 19 * 129
    assert network.encoder.taken == (2, 5, 8, 11)
    assert round((decoder + 2 * (9 * 128**2 + 128)) / 1e6, 1) == 10.9


@each_encoder
def test_every_parameter_of_encoder_and_decoder_is_reached_under_autocast_too(name: str) -> None:
    network = build_vit(name).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(image(), "a")
    logits.float().square().mean().backward()
    assert [n for n, p in network.features.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


# ── What is trained ──────────────────────────────────────────────────────────────────────────────────────────────────


def moved(network: UniversalSegmenter, before: dict[str, Tensor]) -> set[str]:
    return {n for n, v in network.encoder.state_dict().items() if not torch.equal(v, before[n])}


def state(network: UniversalSegmenter) -> dict[str, Tensor]:
    return {n: v.clone() for n, v in network.encoder.state_dict().items()}


@pytest.mark.parametrize("tuning", TUNINGS, ids=str)
@pytest.mark.parametrize("name", ["dinov2, registers", "dinov3, biases"])
def test_what_is_frozen_stays_and_has_no_state_in_the_optimiser(name: str, tuning: Any) -> None:
    network = build_vit(name, tuning=tuning)
    before = state(network)
    optimisers = train_a_little(network)
    changed = moved(network, before)
    if tuning == "frozen":
        assert not changed
    elif tuning is LORA:
        assert changed == {n for n in before if "lora_a." in n or "lora_b." in n}
        assert len(changed) == 4 * 3 * 2
    else:
        last = {n for n in before if n.startswith(("model.blocks.3.", "model.norm."))}
        assert changed == {n for n in last if "k_bias" not in n}
    held = {id(p) for p in optimisers.main.state}
    assert held == {id(p) for p in network.parameters() if p.requires_grad and p.grad is not None}
    assert held.isdisjoint(id(p) for p in network.encoder.parameters() if not p.requires_grad)


def test_what_is_frozen_has_neither_dropout_nor_moving_statistics() -> None:
    dropped = {**SMALL, "img_size": 56, "drop_path_rate": 0.5, "proj_drop_rate": 0.5, "pos_drop_rate": 0.5}
    frozen = build_vit(tuning="frozen", encoder_options=dropped).train()
    x = (image(28, 28) - frozen.mean) / frozen.std
    for network in (frozen, copy.deepcopy(frozen).train(), Teacher(frozen, 0.9).model):
        assert all(torch.equal(*two) for two in zip(network.encoder(x), network.encoder(x), strict=True))
    assert frozen.features.decoder.training
    free = build_vit(encoder_options=dropped).train()
    assert not torch.equal(free.encoder(x)[-1], free.encoder(x)[-1])
    last = build_vit(tuning={"name": "last-blocks", "blocks": 1}, encoder_options=dropped).train()
    assert [block.training for block in last.encoder.model.blocks] == [False, False, False, True]
    assert torch.equal(last.encoder(x)[2], last.encoder(x)[2])
    convolutions = UniversalSegmenter(model_settings(tuning=frozen.settings.tuning), SPACES)
    before = state(convolutions)
    train_a_little(convolutions)
    assert not moved(convolutions, before)


@each_encoder
def test_lora_begins_as_the_identity_and_merges_into_a_network_that_says_the_same(name: str) -> None:
    plain_one, network = build_vit(name).eval(), build_vit(name, tuning=LORA).eval()
    assert torch.equal(network(image(), "a"), plain_one(image(), "a"))
    train_a_little(network)
    network.eval()
    taught = network(image(), "a")
    assert (taught - plain_one(image(), "a")).abs().max() > 1e-2
    weights = merge_lora(network.state_dict())
    assert weights.keys() == plain_one.state_dict().keys()
    plain_one.load_state_dict(weights)
    torch.testing.assert_close(plain_one(image(), "a"), taught, atol=1e-4, rtol=1e-4)
    again = build_vit(name, tuning=LORA, seed=1)
    again.load_state_dict(weights)
    assert torch.equal(again.eval()(image(), "a"), plain_one(image(), "a"))
    assert not any(v.any() for n, v in again.state_dict().items() if "lora_b" in n)


def test_lora_is_a_product_of_low_rank_times_alpha_over_rank() -> None:
    network = build_vit(tuning={**LORA, "alpha": 6.0})
    train_a_little(network)
    layer = network.encoder.model.blocks[1].attn.qkv
    x = torch.rand(5, 48, generator=torch.Generator().manual_seed(0))
    low = torch.stack([layer.lora_b.weight @ (layer.lora_a.weight @ row) for row in x])
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias) + 3 * low)
    difference = merge_lora(network.state_dict())["features.encoder.model.blocks.1.attn.qkv.weight"] - layer.weight
    assert torch.linalg.matrix_rank(difference.detach(), rtol=1e-4) == 2


@pytest.mark.parametrize("tuning", ["full", LORA], ids=str)
def test_heads_of_two_domains_learn_a_toy(tuning: Any) -> None:
    of = domains(3, 4)
    network = UniversalSegmenter(build_vit("dinov3", tuning=tuning).settings, {name: d.space for name, d in of.items()})
    method = build(SETTINGS["joint"](), of, 4)
    history = [step["supervised"] for step in helpers.run(method, network, of, 40, rate=3e-3)]
    assert sum(history[-5:]) < 0.9 * sum(history[:5])


# ── Runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_domains(tmp_path_factory.mktemp("data"))


V2 = {"name": "unimatch", "threshold": 0, "ema": 0.9, "features_weight": 0, "complementary": True}


def tiny(data: Path, method: Any, tuning: Any) -> Any:
    settings = plain(data, method, steps=3, checkpoint_every=2, evaluate_every=2)
    settings["model"] = {**ENCODERS["dinov2"], "decoder": "dpt", "tuning": tuning, "embedding": {"dim": 8}}
    return parse_config(settings)


@pytest.mark.parametrize(("method", "tuning"), [(V2, LORA), ("joint", "frozen")], ids=["unimatch, lora", "frozen"])
def test_a_run_goes_on_bit_for_bit_and_its_model_is_a_plain_one(
    method: Any, tuning: Any, data: Path, tmp_path: Path
) -> None:
    settings = tiny(data, method, tuning)
    train(settings, tmp_path / "whole")
    for step in (1, 3):
        with pytest.raises(Stop):
            train(settings, tmp_path / "run", stop_at(step))
    train(settings, tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    files = [load_file(file) for file in (tmp_path / "run").rglob("*.safetensors")]
    assert not [name for file in files for name in file if "lora" in name]
    network = load_model(tmp_path / "run")
    assert network.settings.tuning.name == "full"
    assert network(image(), "a").isfinite().all()
    # A next round may begin where this one ended.
    train(settings, tmp_path / "next", start=tmp_path / "run" / "model.safetensors")
    begun, ended = weights_of(tmp_path / "run"), weights_of(tmp_path / "next")
    assert torch.equal(begun["features.encoder.model.cls_token"], ended["features.encoder.model.cls_token"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "decoder"), [("dinov2", "dpt"), ("dinov2, registers", "linear"), ("dinov3", "dpt")])
def test_the_exported_file_says_what_the_network_says(name: str, decoder: str) -> None:
    pytest.importorskip("onnxruntime", reason="the extra fewmask[onnx] is not installed")
    network = build_vit(name, decoder=decoder).eval()
    with torch.no_grad():
        for head in network.heads.values():
            head.weight.mul_(100)
    data = to_onnx(network, network.domains).SerializeToString()
    assert network(image(), "a").std() > 1e-2, "the toy says nothing"
    assert compare(network, data, network.domains) < 1e-3


# ── Files of weights ─────────────────────────────────────────────────────────────────────────────────────────────────


def timms(name: str) -> dict[str, Tensor]:
    """A random encoder's weights in timm's naming, biases and all other than 0."""
    weights = build_vit(name, seed=3).encoder.model.state_dict()
    rng = torch.Generator().manual_seed(0)
    return {k: v + 0.1 * torch.randn(v.shape, generator=rng) for k, v in weights.items()}


def as_dinov2(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """As its authors name and shape them: positions with one for the class token, which timm adds to it beforehand
    where there are registers."""
    out = dict(weights, mask_token=torch.zeros(1, 48))
    if "reg_token" in out:
        out["register_tokens"] = out.pop("reg_token")
        out["pos_embed"] = torch.cat([torch.full((1, 1, 48), 0.5), out["pos_embed"]], 1)
        out["cls_token"] = out["cls_token"] - 0.5
    return out


def as_dinov3(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {"mask_token": torch.zeros(1, 48), "rope_embed.periods": torch.ones(6)}
    for key, value in weights.items():
        if key.endswith("q_bias"):
            v_bias = weights[key.replace("q_bias", "v_bias")]
            out[key.replace("q_bias", "qkv.bias")] = torch.cat([value, torch.ones(48), v_bias])
        elif not key.endswith("v_bias"):
            key = key.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
            out[key.replace("reg_token", "storage_tokens")] = value
    return out


@each_encoder
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_load_in_timms_naming_and_in_their_authors(name: str, suffix: str, tmp_path: Path) -> None:
    weights = timms(name)
    own = as_dinov2(weights) if name.startswith("dinov2") else as_dinov3(weights)
    for number, stored in enumerate((weights, own)):
        path = tmp_path / f"{number}.{suffix}"
        if suffix == "pth":
            torch.save({"teacher": stored} if number else stored, path)
        else:
            save_file({k: v.contiguous() for k, v in stored.items()}, path)
        got = build_vit(name, weights=path).encoder.model.state_dict()
        assert got.keys() == weights.keys()
        for key, value in weights.items():
            torch.testing.assert_close(got[key], value)


def test_embedded_positions_are_resampled_to_the_encoders_own_size(tmp_path: Path) -> None:
    save_file(timms("dinov2"), tmp_path / "w.safetensors")
    larger = {**SMALL, "img_size": 84}
    got = build_vit(encoder_options=larger, weights=tmp_path / "w.safetensors").encoder.model.pos_embed
    assert got.shape == (1, 1 + 36, 48)
    torch.testing.assert_close(got[:, 0], timms("dinov2")["pos_embed"][:, 0])


def cut(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in weights.items() if k != "blocks.2.mlp.fc1.bias"}


@pytest.mark.parametrize(
    ("of", "change", "into", "message"),
    [
        ("dinov2", cut, "dinov2", r"1 missing, such as blocks\.2\.mlp\.fc1\.bias"),
        ("dinov2", as_dinov2, "dinov2, registers", r"w\.pth: not the weights of tu-vit_small_patch14_reg4_dinov2"),
        ("dinov2, registers", as_dinov2, "dinov2", r"w\.pth: not the weights of tu-vit_small_patch14_dinov2"),
        ("dinov3", dict, "dinov2", r"patch_embed\.proj\.weight \(48, 3, 16, 16\) ≠ \(48, 3, 14, 14\)"),
        ("dinov3, biases", as_dinov3, "dinov3", r"take the encoder tu-vit_small_patch16_dinov3_qkvb"),
        ("dinov2", lambda w: {"model": w | {"epoch": 3}}, "dinov2", r"holds more than an encoder's tensors"),
        ("dinov2", lambda w: {"model": w, "run": nn.ReLU()}, "dinov2", r"damaged, or holds more than tensors"),
    ],
)
def test_weights_that_do_not_fit_are_refused(of: str, change: Any, into: str, message: str, tmp_path: Path) -> None:
    torch.save(change(timms(of)), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=message):
        build_vit(into, weights=tmp_path / "w.pth")


# ── Settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": helpers.ENCODER, "encoder_options": {}}, "test_efficientnet.* cannot be built"),
        ({"encoder": "tu-swin_tiny_patch4_window7_224", "encoder_options": {}}, "cannot be built"),
        ({"encoder": "resnet18"}, "model.decoder: dpt reads a ViT of timm, not resnet18"),
        ({"output_stride": 8}, "model.output_stride: .* leave it out with dpt"),
        ({"decoder_options": {"blocks": [0, 1, 2, 4]}}, r"blocks \[0, 1, 2, 4\] of an encoder with 4"),
        ({"decoder_options": {"blocks": [0, 1, 2]}}, "DPT takes 4 blocks"),
        ({"decoder": "linear", "decoder_options": {"blocks": 5}}, "of an encoder with 4"),
        ({"tuning": {"name": "last-blocks", "blocks": 5}}, "model.tuning.blocks: 5 of the 4 blocks"),
        ({"tuning": {**LORA, "targets": ["qkv", "fc3"]}}, "model.tuning.targets: no linear layer fc3"),
        ({"encoder": helpers.ENCODER, "encoder_options": {}, "decoder": "unet", "output_stride": 32, "tuning": "lora"},
         "model.tuning: lora is for a ViT"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_fix(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_vit(**changes)


def test_a_tuning_is_a_name_or_a_name_with_settings() -> None:
    lora = ModelSettings.model_validate({"tuning": "lora"})
    assert lora.tuning == ModelSettings.model_validate({"tuning": {"name": "lora", "rank": 8}}).tuning
    assert ModelSettings.model_validate(lora.model_dump(mode="json")) == lora
    with pytest.raises(ValueError, match=r"'half' .* expected tags: 'full', 'frozen', 'last-blocks', 'lora'"):
        ModelSettings.model_validate({"tuning": "half"})


@pytest.mark.parametrize(("wanted", "got"), [(4, 2), (8, 14), (16, 14)])
def test_the_embedding_takes_the_nearest_stride_that_fits_patches_of_14(wanted: int, got: int) -> None:
    network = build_vit(embedding={"dim": 8, "stride": wanted})
    assert (network.embedding_stride, network.multiple) == (got, 14)
