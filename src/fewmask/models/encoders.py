"""F: an encoder and a decoder by name, and the encoder's pretrained weights.

Shapes: B images · H×W pixels · C channels · h×w feature cells (stride s = H/h).
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import segmentation_models_pytorch as smp
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fewmask.config import ModelSettings
from fewmask.models import vit
from fewmask.models.depthwise import keep_fast
from fewmask.models.fetching import fetching_weights
from fewmask.models.memory import is_out_of_memory

TIMM = "tu-"  # the prefix by which segmentation-models-pytorch marks timm's encoders
# Prefixes of the tensors that a classification checkpoint holds beside its encoder, as the packages name them.
CLASSIFIER = ("fc.", "classifier.", "head.", "last_linear.", "conv_head.", "bn2.", "norm_head.", "norm.")
_LFS = b"version https://git-lfs"
WRAPPED = ("state_dict", "model", "teacher")  # keys under which a file of torch may hold its tensors


def build(settings: ModelSettings) -> nn.Module:
    """F as one module, image (B,3,H,W) → features (B,C,h,w). It is a ViT with a decoder of `models.vit`, or smp's model
    of the decoder without its head.

    H and W must be multiples of `stride_multiple`. Raises ValueError that names the setting and the fix.
    """
    options = _options(settings)
    # For a timm encoder smp takes a truth value, since the encoder's name says which weights.
    imagenet = True if settings.encoder.startswith(TIMM) else "imagenet"
    pretrained = imagenet if settings.weights == "imagenet" else None
    from_hub = fetching_weights(f"imagenet weights of {settings.encoder}") if pretrained else contextlib.nullcontext()
    model: Any
    try:
        with from_hub:
            model = _constructed(settings, pretrained, options)
    except OSError as error:
        raise ValueError(
            f"model.weights: imagenet weights of {settings.encoder} cannot be fetched "
            f"({' '.join(str(error).split())[:200]}); give the path of a file with them"
        ) from None
    except Exception as error:  # a user's options may raise any exception in the packages' constructors
        if is_out_of_memory(error):
            raise RuntimeError(f"out of memory building {settings.encoder} ({error}); free memory") from error
        raise ValueError(
            f"model: {settings.encoder} with {settings.decoder} at output stride {settings.output_stride} and options "
            f"{options} cannot be built: {' '.join(str(error).split()) or type(error).__name__}; change the options, "
            "or leave `encoder_options` and `decoder_options` out"
        ) from None
    if isinstance(settings.weights, Path):
        try:
            load_weights(encoder_of(model), settings.encoder, settings.weights)
        except ValueError as error:
            raise ValueError(f"model.weights: {error}") from None
    return keep_fast(cast(nn.Module, model))


def _constructed(settings: ModelSettings, pretrained: str | bool | None, options: Mapping[str, Any]) -> Any:
    if settings.decoder in vit.DECODERS:
        name = settings.encoder.removeprefix(TIMM)
        return vit.ViT(name, settings.decoder, bool(pretrained), settings.encoder_options, settings.decoder_options)
    model: Any = smp.create_model(settings.decoder, settings.encoder, encoder_weights=pretrained, classes=1, **options)
    model.segmentation_head = nn.Identity()
    return model


def encoder_of(model: nn.Module) -> nn.Module:
    return cast(nn.Module, model.encoder)


def stride_multiple(model: nn.Module) -> int:
    """The number that H and W must be multiples of."""
    return int(cast(Any, model.encoder).output_stride)


def normalisation(settings: ModelSettings) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (3,) of RGB in 0–1 with which the encoder was trained; ImageNet's if unknown."""
    mean: tuple[float, ...] = timm.data.IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = timm.data.IMAGENET_DEFAULT_STD
    if settings.encoder.startswith(TIMM):
        pretrained = timm.get_pretrained_cfg(settings.encoder.removeprefix(TIMM), allow_unregistered=True)
        if pretrained is not None:
            mean, std = pretrained.mean, pretrained.std
    return tuple(mean), tuple(std)


def load_weights(encoder: nn.Module, name: str, path: Path) -> None:
    """Load an encoder's weights from a file with timm's or smp's names, or for a ViT with the names of its authors
    (DINOv2, DINOv3). They may be stored in any float type. Position embeddings for another number of patches are
    resampled as in timm.

    The file must hold every weight of the encoder. Beside them it may only hold the classifier of the pretraining.
    Raises ValueError that lists every missing, surplus and misshapen key.
    """
    stored = _read(path)
    target = cast(nn.Module, encoder.model) if name.startswith(TIMM) else encoder
    if isinstance(encoder, vit.Encoder):
        stored = _in_timms_naming(stored, target, name, path)
    expected = target.state_dict()
    if not any(k in expected for k in stored) and all(k.startswith("model.") for k in stored):
        stored = {k.removeprefix("model."): v for k, v in stored.items()}
    # timm renames the stages of some networks in an encoder: the file's "stages.0.x" becomes "stages_0.x".
    flat = {k: re.sub(r"^(\w+?)\.(\d+)", r"\1_\2", k) for k in stored}
    stored = {flat[k] if k not in expected and flat[k] in expected else k: v for k, v in stored.items()}
    problems = _mismatch(expected, stored)
    if problems and (prefix := _prefix(expected, stored)):
        raise ValueError(f"{path}: every name in it begins with {prefix!r}; save it again without that prefix")
    if problems:
        raise ValueError(f"{path}: not the weights of {name}: " + "; ".join(problems))
    broken = [k for k, v in stored.items() if k in expected and v.is_floating_point() and not bool(v.isfinite().all())]
    if broken:
        raise ValueError(
            f"{path}: {len(broken)} of its tensors hold NaN or infinite values, such as {', '.join(broken[:3])}; take "
            "an undamaged file"
        )
    target.load_state_dict({k: v.to(expected[k].dtype) for k, v in stored.items() if k in expected}, strict=False)


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file. A file of torch is read without executing code in it."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise ValueError(f"{path}: this is a pointer of Git LFS; fetch the file with `git lfs pull`")
    try:
        if path.suffix not in (".pth", ".pt", ".bin"):
            return load_file(path)
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path}: not readable as safetensors ({error}); give the path of an encoder's weights"
        ) from None
    except Exception as error:  # torch raises several types for a damaged file, some with dangerous advice
        raise ValueError(
            f"{path}: the file is damaged, or holds more than tensors ({type(error).__name__}); convert it"
        ) from None
    while isinstance(stored, dict) and (inner := [stored[k] for k in WRAPPED if isinstance(stored.get(k), dict)]):
        stored = inner[0]
    if not isinstance(stored, dict) or not all(isinstance(v, Tensor) for v in stored.values()):
        raise ValueError(
            f"{path}: the file holds more than an encoder's tensors; give the path of an encoder's weights"
        )
    return stored


def _in_timms_naming(stored: dict[str, Tensor], target: nn.Module, name: str, path: Path) -> dict[str, Tensor]:
    """A ViT's weights with timm's names, by the function with which timm converts downloaded weights."""
    expected, kernel = target.state_dict(), "patch_embed.proj.weight"
    if kernel in stored and stored[kernel].dim() == 4 and stored[kernel].shape != expected[kernel].shape:
        shapes = f"{tuple(stored[kernel].shape)} ≠ {tuple(expected[kernel].shape)}"
        raise ValueError(f"{path}: not the weights of {name}: {kernel} {shapes}")  # timm would resample the patches
    biases = [v.chunk(3) for k, v in stored.items() if k.endswith("attn.qkv.bias") and "storage_tokens" in stored]
    if "blocks.0.attn.q_bias" not in expected and any(q.any() or v.any() for q, _, v in biases):
        raise ValueError(f"{path}: not the weights of {name}: it has biases of queries; take the encoder {name}_qkvb")
    convert = inspect.getmodule(type(target)).__dict__.get("checkpoint_filter_fn")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # timm prints about biases that are all 0
            return dict(convert(dict(stored), target)) if convert else stored
    except (KeyError, RuntimeError, ValueError, AttributeError, AssertionError) as error:
        raise ValueError(f"{path}: not the weights of {name} ({type(error).__name__}: {error})") from None


def _prefix(expected: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> str:
    """The common prefix of all names that a training wrapper added; empty if there is none."""
    first = next(iter(stored), "")
    ends = [i + 1 for i, letter in enumerate(first) if letter == "."]
    fits = (first[:i] for i in ends if all(k.startswith(first[:i]) for k in stored) and first[i:] in expected)
    return next(fits, "")


def _mismatch(expected: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> list[str]:
    counters = "num_batches_tracked"  # batch normalisation's count of batches; absent from converted checkpoints
    missing = [k for k in expected if k not in stored and not k.endswith(counters)]
    surplus = [k for k in stored if k not in expected and not k.startswith(CLASSIFIER)]
    shapes = [
        f"{k} {tuple(stored[k].shape)} ≠ {tuple(expected[k].shape)}"
        for k in expected
        if k in stored and stored[k].shape != expected[k].shape
    ]
    kinds = [("missing", missing), ("surplus", surplus), ("of another shape", shapes)]
    return [f"{len(keys)} {kind}, such as {', '.join(keys[:3])}" for kind, keys in kinds if keys]


def _options(settings: ModelSettings) -> dict[str, Any]:
    """Keyword arguments of smp's model. Raises ValueError for unknown names and for strides that the decoder lacks."""
    architectures = smp.MODEL_ARCHITECTURES_MAPPING
    if settings.decoder not in (decoders := [*architectures, *vit.DECODERS]):
        raise ValueError(f"model.decoder: no decoder {settings.decoder!r}; {_instead(settings.decoder, decoders)}")
    if settings.encoder.startswith(TIMM):
        if not timm.is_model(settings.encoder.removeprefix(TIMM)):
            names = [TIMM + n for n in timm.list_models()]
            raise ValueError(f"model.encoder: timm has no {settings.encoder!r}; {_instead(settings.encoder, names)}")
    elif settings.encoder not in smp.encoders.encoders:
        names = [*smp.encoders.encoders, *(TIMM + n for n in timm.list_models())]
        raise ValueError(f"model.encoder: no encoder {settings.encoder!r}; {_instead(settings.encoder, names)}")
    options = {**settings.encoder_options, **settings.decoder_options}
    if settings.decoder in vit.DECODERS:
        if not settings.encoder.startswith(TIMM):
            raise ValueError(f"model.decoder: {settings.decoder} reads a ViT of timm, not {settings.encoder}")
        if settings.output_stride != ModelSettings.model_fields["output_stride"].default:
            raise ValueError(
                f"model.output_stride: the stride of {settings.encoder} is the side of its patches; leave it out with "
                f"{settings.decoder}"
            )
    elif "encoder_output_stride" in inspect.signature(architectures[settings.decoder].__init__).parameters:
        options["encoder_output_stride"] = settings.output_stride
    elif settings.output_stride != 32:
        raise ValueError(
            f"model.output_stride: {settings.decoder} runs its encoder at stride 32, not {settings.output_stride}; "
            "set model.output_stride=32 or take deeplabv3plus"
        )
    return options


def _instead(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=4, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(sorted(names)[:12])}, …"
