"""Export of a run's network as one ONNX file that takes images of any number and size.

PyTorch's exporter turns F and the heads into a graph for sizes that are multiples of the stride. Normalisation, padding
and the final crop depend on the remainder of the size. This module adds them around the graph as eight operators. The
exporter would write every layer's padding as a formula of that remainder, which takes minutes and thousands of
operators.

Shapes: B images · H×W pixels · C_k classes of domain k · m the stride that the network needs.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewmask import card
from fewmask.config.inputs import RGB
from fewmask.engine.run import load_model, versions
from fewmask.files import write_atomically
from fewmask.models.universal import UniversalSegmenter
from fewmask.paths import AnyPath
from fewmask.randomness import generator
from fewmask.runs import RunFolder

OPSET = 18
# The largest size of a protobuf file.
LARGEST = 2**31 - 2**20
# The largest difference to PyTorch's logits, as a fraction of the largest logit (or of 1, if that is more).
TOLERANCE = 1e-3


def export(run: AnyPath, out: AnyPath, domain: str | None = None, seeds: Sequence[AnyPath] = ()) -> dict[str, Any]:
    """Write the trained network of a run as ONNX: all its heads, or that of `domain` alone.

    Input `image`, float32 (B,3,H,W), RGB in 0–255, any B, H and W; one output `logits_<domain>`, float32 (B,C_k,H,W),
    for each head. Normalisation, padding and cropping are inside the graph; the embedding head is left out. The file's
    metadata hold the label spaces, see `metadata`.

    A model card is written beside it, `model-card.md` for `model.onnx`, unless there is one that somebody changed.
    `seeds` are runs of the same training with other seeds, from which the card computes the standard deviation.

    Before the file is written, ONNX Runtime runs it on images of several sizes, and the results are compared with
    PyTorch's. Returns a description of the file with the largest difference. Raises ValueError for a run without a
    model, an unknown domain, a file that exists, a missing package, and a network that cannot be exported.
    """
    _check_packages()
    run, out = Path(run), Path(out)
    if out.exists():
        raise ValueError(f"{out}: exists already; give another name, or remove it")
    model = load_model(run)
    if domain is not None and domain not in model.domains:
        raise ValueError(f"no domain {domain!r} in {run}; it has {', '.join(model.domains)}")
    finished = RunFolder(run).summary.exists()
    trained = RunFolder(run).read_summary().trained if finished else model.domains
    if domain is not None and domain not in trained:
        raise ValueError(f"the run did not train a head for {domain!r}; it trained {', '.join(trained)}")
    domains = trained if domain is None else (domain,)
    record = card.read_record(run, [Path(seed) for seed in seeds]) if seeds or finished else None
    data = to_onnx(model, domains).SerializeToString()
    difference = compare(model, data, domains)
    write_atomically(out, lambda file: file.write(data))
    card_path = out.with_name(f"{out.stem}-card.md")
    return {
        "file": str(out),
        "card": str(card_path) if record and card.write_card(card_path, record) else None,
        "bytes": len(data),
        "input": "image",
        "outputs": {d: f"logits_{d}" for d in domains},
        "opset": OPSET,
        "difference": difference,
    }


def to_onnx(model: UniversalSegmenter, domains: Sequence[str]) -> Any:
    """The network of these domains as an `onnx.ModelProto`. Raises ValueError when it cannot be exported."""
    import onnx

    if len({model.stems.of[d] for d in domains}) > 1:
        raise ValueError(
            f"the domains {', '.join(domains)} have images of different channels, and one ONNX file has one input; "
            "name one domain (--domain)"
        )
    size = sum(p.numel() * 4 for p in model.features.parameters())
    if size > LARGEST:
        raise ValueError(f"{model.settings.encoder}: {size >> 20} MiB of weights; one ONNX file holds less than 2 GiB")
    core = _Core(model, domains).to("cpu", torch.float32).eval()
    multiple = model.multiple
    example = torch.zeros(2, _channels(model, domains), 3 * multiple, 5 * multiple)
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    with _quiet():
        try:
            program = torch.onnx.export(
                core,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: batch, 2: multiple * height, 3: multiple * width},),
                input_names=["padded"],
                output_names=[f"padded_{d}" for d in domains],
                opset_version=OPSET,
                verbose=False,
            )
        except Exception as error:  # the exporter raises many types of exceptions
            raise ValueError(
                f"{model.settings.encoder} with {model.settings.decoder} cannot be exported to ONNX for any size: "
                f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            ) from error
    assert program is not None
    proto = program.model_proto
    _take_any_size(proto, model, domains)
    onnx.helper.set_model_props(proto, metadata(model, domains))
    onnx.checker.check_model(proto)
    return proto


def metadata(model: UniversalSegmenter, domains: Sequence[str]) -> dict[str, str]:
    """The metadata of the file as text: `fewmask.version`, `fewmask.stride` (the multiple to which sizes are padded),
    `fewmask.input`, and as JSON `fewmask.domains`. For each domain it holds the output, names, colours, raw and void
    ids, and `size`, to which images were resized in training (a factor, `[height, width]`, or null). Of other images
    than 8-bit RGB it also holds `channels`, `depth` and `stretch`. The graph does not resize images. Its caller does,
    by the mean of the pixels."""
    spaces = {
        d: {"output": f"logits_{d}", "size": model.sizes[d], **model.spaces[d].to_dict(), **_input_of(model, d)}
        for d in domains
    }
    channels = model.inputs[domains[0]].channels
    pixels = "RGB" if channels == RGB else ", ".join(channels)
    return {
        "fewmask.version": versions()["fewmask"],
        "fewmask.stride": str(model.multiple),
        "fewmask.input": f"{pixels}, 0 to 255, any height and width, resized as `size` in fewmask.domains says",
        "fewmask.domains": json.dumps(spaces, ensure_ascii=False),
    }


def _input_of(model: UniversalSegmenter, domain: str) -> dict[str, Any]:
    one = model.inputs[domain]
    return {} if one.plain else one.model_dump(mode="json")


def _channels(model: UniversalSegmenter, domains: Sequence[str]) -> int:
    """How many channels the images of these domains have."""
    return len(model.inputs[domains[0]].channels)


def compare(model: UniversalSegmenter, data: bytes, domains: Sequence[str]) -> float:
    """The largest difference of logits between an ONNX file and the model, over some batches and sizes.

    Raises ValueError when it is beyond rounding, or when the file does not run.
    """
    import onnxruntime

    m, channels = model.multiple, _channels(model, domains)
    largest = 0.0
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # the error below holds the failure
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        for row, (count, height, width) in enumerate([(1, m, m), (2, 2 * m + 1, 3 * m - 1), (1, 5 * m - 3, m // 2)]):
            image = generator(0, "probe", row=row).uniform(0, 255, (count, channels, height, width)).astype(np.float32)
            answers = session.run([f"logits_{d}" for d in domains], {"image": image})
            for domain, answer in zip(domains, answers, strict=True):
                with torch.inference_mode():
                    expected = model(torch.from_numpy(image).to(model.mean.device), domain).cpu().numpy()
                difference = float(np.abs(answer - expected).max())
                if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
                    shape = f"{count}×{channels}×{height}×{width}"
                    raise ValueError(f"its logits of {domain} at {shape} differ by {difference:.3g}")
                largest = max(largest, difference)
    except Exception as error:  # ONNX Runtime's exceptions have no other common base class
        raise ValueError(
            f"{model.settings.encoder} with {model.settings.decoder}: the exported graph is not the network "
            f"({' '.join(str(error).split())[:300]}); nothing was written. Take the decoder deeplabv3plus or unet"
        ) from error
    return largest


class _Core(nn.Module):
    """F and some heads: normalised image (B,C,H,W), H and W multiples of m → logits (B,C_k,H,W) of each."""

    def __init__(self, model: UniversalSegmenter, domains: Sequence[str]) -> None:
        from timm.layers import Conv2dSame  # this import must follow that of torchvision in fewmask.models

        super().__init__()
        self.model = copy.deepcopy(model)
        self.domains = tuple(domains)
        for name, module in list(self.model.features.named_modules()):
            if getattr(module, "inplace", False):
                module.inplace = False  # in-place operators make the export half as long again
            if type(module) is Conv2dSame:
                self.model.features.set_submodule(name, _FixedSame(module))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        if self.model.stems.several:  # 0 is what the channels of other kinds are
            places = self.model.stems.places(self.model.stems.of[self.domains[0]])
            image = F.pad(image, (0, 0, 0, 0, places.start, self.model.stems.total - places.stop))
        features, size = self.model.features(image), (image.shape[-2], image.shape[-1])
        return tuple(self.model.upsample(self.model.decode(features, d), size) for d in self.domains)


class _FixedSame(nn.Module):
    """timm's Conv2dSame for sizes that the convolution's stride divides, for which the padding is constant."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        c = convolution
        whole = [max((k - 1) * d + 1 - s, 0) for k, d, s in zip(c.kernel_size, c.dilation, c.stride, strict=True)]
        (top, bottom), (left, right) = ((n // 2, n - n // 2) for n in whole)
        self.padding = (left, right, top, bottom)

    def forward(self, x: Tensor) -> Tensor:
        c = self.convolution
        return F.conv2d(F.pad(x, self.padding), c.weight, c.bias, c.stride, 0, c.dilation, c.groups)


def _take_any_size(proto: Any, model: UniversalSegmenter, domains: Sequence[str]) -> None:
    """Add to the graph of a ModelProto the operators of `UniversalSegmenter.encode` and `upsample`: normalisation,
    padding to m, and cropping."""
    from onnx import TensorProto, helper, numpy_helper

    graph, node = proto.graph, helper.make_node
    places = model.stems.places(model.stems.of[domains[0]])
    constants = {
        "mean": model.mean[:, places].cpu().numpy(),
        "std": model.std[:, places].cpu().numpy(),
        "multiple": np.array([model.multiple]),
        "no_padding": np.zeros(6, np.int64),
        "origin": np.zeros(2, np.int64),
        "spatial": np.array([2, 3]),
    }
    before = [
        node("Sub", ["image", "fewmask_mean"], ["fewmask_centred"]),
        node("Div", ["fewmask_centred", "fewmask_std"], ["fewmask_normalised"]),
        node("Shape", ["image"], ["fewmask_size"], start=2, end=4),
        node("Neg", ["fewmask_size"], ["fewmask_negative"]),
        node(
            "Mod", ["fewmask_negative", "fewmask_multiple"], ["fewmask_rest"]
        ),  # with the divisor's sign, as in Python
        # (before, after) of B, C, H, W: all 0 but the last two.
        node("Concat", ["fewmask_no_padding", "fewmask_rest"], ["fewmask_padding"], axis=0),
        node("Pad", ["fewmask_normalised", "fewmask_padding"], ["padded"]),
    ]
    after = [
        node("Slice", [f"padded_{d}", "fewmask_origin", "fewmask_size", "fewmask_spatial"], [f"logits_{d}"])
        for d in domains
    ]
    inner = list(graph.node)
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend([*before, *inner, *after])
    graph.initializer.extend(numpy_helper.from_array(a, f"fewmask_{n}") for n, a in constants.items())
    graph.input.append(
        helper.make_tensor_value_info(
            "image", TensorProto.FLOAT, ["batch", _channels(model, domains), "height", "width"]
        )
    )
    graph.output.extend(
        helper.make_tensor_value_info(
            f"logits_{d}", TensorProto.FLOAT, ["batch", model.spaces[d].num_classes, "height", "width"]
        )
        for d in domains
    )
    # The exporter's notes hold shapes of removed names, and stack traces with the paths of this machine.
    del graph.value_info[:], graph.metadata_props[:]
    for operator in graph.node:
        del operator.metadata_props[:]


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f'export needs the package {error.name}; pip install "fewmask[onnx]"') from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what the exporter prints, logs and warns of. Its errors pass."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
