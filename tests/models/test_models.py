"""Encoders by name and by file, decoders, and the universal segmenter at any image size.

Shapes: B images · H×W pixels · C features · C_k classes of domain k.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import ENCODER, domains, model, model_settings, space
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fewmask.config import EmbeddingSettings, ModelSettings
from fewmask.labels import VOID
from fewmask.models import encoders
from fewmask.models.encoders import normalisation, stride_multiple
from fewmask.models.universal import UniversalSegmenter, at_stride

timm = encoders.timm  # imported there, beside a torchvision that may need help
WEIGHTS = Path(__file__).parents[2].parent / "shared/data/weights/mobilenetv2_100.imagenet.safetensors"
needs_weights = pytest.mark.skipif(not WEIGHTS.exists(), reason=f"pretrained weights are not at {WEIGHTS}")
SPACES = {"a": space(3), "b": space(4)}


def build(**changes: Any) -> UniversalSegmenter:
    return UniversalSegmenter(model_settings(**changes), SPACES)


# ── Pretrained weights ───────────────────────────────────────────────────────────────────────────────────────────────


def mobilenet(**options: Any) -> UniversalSegmenter:
    return UniversalSegmenter(
        ModelSettings(encoder="tu-mobilenetv2_100", encoder_options=options, weights=WEIGHTS), SPACES
    )


def reference(**options: Any) -> nn.Module:
    """timm's own classifier with the same file, loaded without any of our code."""
    network = timm.create_model("mobilenetv2_100", pretrained=False, **options)
    network.load_state_dict({k: v.float() for k, v in load_file(WEIGHTS).items()}, strict=False)
    return network.eval()


def first_layers(network: nn.Module, image: Tensor) -> Tensor:
    """Stem and first two stages, at stride 4."""
    x = network.bn1(network.conv_stem(image))  # type: ignore[operator]
    return network.blocks[1](network.blocks[0](x))  # type: ignore[index,no-any-return]


@needs_weights
def test_the_first_layers_outputs_are_the_pretrained_ones_and_the_padding_matters() -> None:
    image = torch.randint(0, 256, (1, 3, 64, 96), generator=torch.Generator().manual_seed(0)).float()
    same = mobilenet(pad_type="same").eval()
    normalised = (image / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    with torch.no_grad():
        expected = first_layers(reference(pad_type="same"), normalised)
        torch.testing.assert_close(same.encoder(normalised)[2], expected)
        images: list[Tensor] = []
        same.encoder.register_forward_pre_hook(lambda _, inputs: images.append(inputs[0]))
        same.encode(image)
        torch.testing.assert_close(images[0], normalised)
        symmetric = mobilenet().eval().encoder(normalised)[2]
    assert (symmetric - expected).abs().max() > 0.1 * expected.abs().max()


@needs_weights
def test_every_weight_of_the_encoder_comes_from_the_file() -> None:
    stored = load_file(WEIGHTS)
    own = mobilenet(pad_type="same").encoder.model.state_dict()  # type: ignore[union-attr,operator]
    for name, value in own.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, stored[name].to(value.dtype)), name


def stored(path: Path, change: Any = lambda state: None) -> Path:
    state = {k: v.clone() for k, v in timm.create_model(ENCODER.removeprefix("tu-")).state_dict().items()}
    change(state)
    save_file(state, path)
    return path


def test_weights_of_any_float_type_load(tmp_path: Path) -> None:
    def halve(state: dict[str, Tensor]) -> None:
        state.update({k: v.bfloat16() for k, v in state.items() if v.is_floating_point()})

    path = stored(tmp_path / "half.safetensors", halve)
    got = build(weights=path).encoder.model.state_dict()  # type: ignore[union-attr,operator]
    assert all(torch.equal(v, load_file(path)[k].to(v.dtype)) for k, v in got.items())


@pytest.mark.parametrize("name", ["test_convnext", "test_resnet", "test_byobnet", "mobilenetv4_conv_small"])
def test_timm_checkpoints_load_in_their_own_naming(tmp_path: Path, name: str) -> None:
    network = timm.create_model(name)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    made = build(encoder=f"tu-{name}", decoder="fpn", output_stride=32, weights=tmp_path / "w.safetensors")
    plain = build(encoder=f"tu-{name}", decoder="fpn", output_stride=32)
    kernels = [n for n, p in plain.encoder.named_parameters() if p.dim() == 4]
    flat = {k.replace(".", "_"): v for k, v in network.state_dict().items()}
    for kernel in kernels:
        value = made.encoder.get_parameter(kernel)
        assert torch.equal(value, flat[kernel.removeprefix("model.").replace(".", "_")]), kernel


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("conv_stem.weight"), r"1 missing, such as conv_stem\.weight"),
        (lambda s: s.update({"blocks.9.extra": torch.ones(1)}), r"1 surplus, such as blocks\.9\.extra"),
        (lambda s: s.update({"conv_stem.weight": torch.ones(2, 3, 3, 3)}), r"1 of another shape.*\(2, 3, 3, 3\) ≠"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_their_keys(tmp_path: Path, change: Any, message: str) -> None:
    path = stored(tmp_path / "wrong.safetensors", change)
    with pytest.raises(ValueError, match=f"wrong.safetensors: not the weights of {ENCODER}: .*{message}"):
        build(weights=path)


def test_a_weights_file_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.safetensors: not readable"):
        build(weights=tmp_path / "none.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(ValueError, match=r"cut\.safetensors: not readable"):
        build(weights=tmp_path / "cut.safetensors")


def test_images_are_normalised_as_the_encoder_was_trained() -> None:
    assert normalisation(ModelSettings(encoder="tu-mobilenetv2_100"))[0] == (0.485, 0.456, 0.406)
    assert normalisation(ModelSettings(encoder="tu-vit_tiny_patch16_224"))[0] == (0.5, 0.5, 0.5)
    assert normalisation(ModelSettings(encoder="resnet18"))[1] == (0.229, 0.224, 0.225)


# ── Names ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "tu-mobilenetv2_10"}, r"timm has no 'tu-mobilenetv2_10'; did you mean .*mobilenetv2_100"),
        ({"encoder": "resnet17"}, r"model.encoder: no encoder 'resnet17'; did you mean .*resnet1"),
        ({"decoder": "deeplab3"}, r"model.decoder: no decoder 'deeplab3'; did you mean .*deeplabv3"),
        ({"decoder": "unet"}, r"model.output_stride: unet runs its encoder at stride 32, not 16"),
        ({"decoder_options": {"nonsense": 1}}, r"nonsense.* cannot be built"),
    ],
)
def test_what_does_not_exist_or_fit_is_refused_with_the_fix(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**changes)


# ── The network ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stride", [8, 16])
def test_output_stride(stride: int) -> None:
    network = build(output_stride=stride)
    assert stride_multiple(network.features) == stride
    deepest = network.encoder(torch.zeros(1, 3, 64, 64))[-1]
    assert deepest.shape[-1] == 64 // stride
    assert network(torch.zeros(2, 3, 64, 64), "a").shape == (2, 3, 64, 64)


@pytest.mark.parametrize(
    ("decoder", "stride"),
    [("unet", 32), ("fpn", 32), ("upernet", 32), ("deeplabv3", 8), ("deeplabv3plus", 16), ("linknet", 32)],
)
def test_decoders_build_and_answer_at_the_images_size(decoder: str, stride: int) -> None:
    network = build(decoder=decoder, output_stride=stride).eval()
    features = network.encode(torch.zeros(1, 3, 45, 70))
    assert network(torch.zeros(1, 3, 45, 70), "b").shape == (1, 4, 45, 70)
    padded = [-(-n // network.multiple) * network.multiple for n in (45, 70)]
    assert features.shape[-2:] == tuple(n // network.stride for n in padded)
    assert network.embed(features).shape == (1, 16, *(n // network.embedding_stride for n in padded))


NETWORK = model(domains(3, 4)).eval()


@settings(max_examples=15)
@given(st.integers(1, 70), st.integers(1, 70))
def test_any_size_gives_what_the_padded_image_gives(height: int, width: int) -> None:
    """Padding is the mean colour, at the right and at the bottom."""
    image = torch.randint(0, 256, (1, 3, height, width), generator=torch.Generator().manual_seed(0)).float()
    full = (-(-height // 16) * 16, -(-width // 16) * 16)
    padded = NETWORK.mean.expand(1, 3, *full).clone()
    padded[..., :height, :width] = image
    with torch.no_grad():
        got, expected = NETWORK(image, "a"), NETWORK(padded, "a")
    assert got.shape == (1, 3, height, width)
    torch.testing.assert_close(got, expected[..., :height, :width])


def test_bytes_and_floats_are_the_same_image() -> None:
    image = torch.randint(0, 256, (1, 3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(NETWORK(image, "a"), NETWORK(image.float(), "a"))


def test_the_embedding_is_not_used_for_inference() -> None:
    network = build().eval()
    image = torch.full((1, 3, 32, 32), 90.0)
    before = network(image, "a")
    for p in network.embedding.parameters():
        p.data.fill_(float("nan"))
    assert torch.equal(network(image, "a"), before)
    network(image, "a").sum().backward()
    assert all(p.grad is None for p in network.embedding.parameters())


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_the_embedding_has_its_own_stride(stride: int) -> None:
    network = build(embedding=EmbeddingSettings(dim=7, stride=stride)).eval()
    assert network.embedding_stride == stride
    features = network.encode(torch.rand(1, 3, 40, 64))
    assert network.embed(features).shape == (1, 7, 48 // stride, 64 // stride)
    # Averaging before the 1×1 convolution is averaging after it, at a quarter of the work or less.
    fine = network.embedding[-1](features)
    side = stride // network.stride
    torch.testing.assert_close(network.embed(features), nn.functional.avg_pool2d(fine, side), atol=1e-5, rtol=1e-4)


def test_domains_of_any_name_have_their_own_head() -> None:
    names = ["a.b", "a·b", "a%2Eb", "items", "training", "π / 2"]
    network = UniversalSegmenter(model_settings(), {n: space(2 + i) for i, n in enumerate(names)}).eval()
    assert network.domains == tuple(names)
    for i, name in enumerate(names):
        assert network(torch.zeros(1, 3, 32, 32), name).shape[1] == 2 + i
    again = UniversalSegmenter(model_settings(), network.spaces, seed=1)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.eval()(torch.zeros(1, 3, 32, 32), "a.b"), network(torch.zeros(1, 3, 32, 32), "a.b"))


def test_initial_weights_are_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(1)
    one = build().state_dict()
    expected = torch.rand(2)
    torch.manual_seed(1)
    torch.rand(9)
    other = build().state_dict()
    assert all(torch.equal(one[k], other[k]) for k in one)
    torch.manual_seed(1)
    UniversalSegmenter(model_settings(), SPACES, seed=5)
    assert torch.equal(torch.rand(2), expected)  # and building leaves the global generator where it was
    different = UniversalSegmenter(model_settings(), SPACES, seed=5).state_dict()
    assert not torch.equal(one["heads.of_a.weight"], different["heads.of_a.weight"])


# ── Labels at the stride of the features ─────────────────────────────────────────────────────────────────────────────


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 4, 8, 16]), st.sampled_from([16, 32]))
def test_labels_at_a_stride_are_the_pixels_at_the_cells_centres(h: int, w: int, stride: int, multiple: int) -> None:
    label = torch.randint(0, 250, (2, h, w), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    got = at_stride(label, stride, multiple)
    if stride == 1:
        assert torch.equal(got, label)
        return
    assert got.shape == (2, -(-h // multiple) * multiple // stride, -(-w // multiple) * multiple // stride)
    for y in range(got.shape[1]):
        for x in range(got.shape[2]):
            row, column = y * stride + stride // 2, x * stride + stride // 2
            inside = row < h and column < w
            expected = label[:, row, column].tolist() if inside else [VOID, VOID]
            assert got[:, y, x].tolist() == expected


def test_the_forward_pass_stays_ten_lines() -> None:
    assert len(inspect.getsource(UniversalSegmenter.forward).splitlines()) <= 10
