"""The ONNX file is the network: at any number and size of images, with what it needs to be understood.

Shapes: B images · H×W pixels · C classes.
"""

from __future__ import annotations

import json
import sys

import helpers
import numpy as np
import pytest
import torch

from fewmask.config import ModelSettings
from fewmask.engine.run import save_model
from fewmask.labels import LabelSpace
from fewmask.models.universal import UniversalSegmenter
from fewmask.onnx_export import compare, export, metadata, to_onnx
from fewmask.runs import RunFolder

onnx = pytest.importorskip("onnx", reason="the extra fewmask[onnx] is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra fewmask[onnx] is not installed")

# A name with a dot and letters beyond ASCII, ids in another order than the classes.
SPACES = {
    "a": helpers.space(4),
    "stadt.süd": LabelSpace(("Straße", "sky"), ((1, 2, 3), (4, 5, 6)), {9: 0, 2: 1, 11: 1}, frozenset({0})),
}
# timm's smallest network shows what those of hundreds of layers repeat: to export them takes a minute.
SMALL = {"encoder": helpers.ENCODER, "encoder_options": {"pad_type": "same"}, "decoder_options": helpers.NARROW}
LARGE = {"encoder": "tu-mobilenetv2_050", "encoder_options": {"pad_type": "same"}}
RESNET = {"encoder": "resnet18", "output_stride": 16, "decoder_options": helpers.NARROW}
NETWORKS = [
    pytest.param(SMALL, id="same padding, stride 16"),
    pytest.param(RESNET, id="resnet"),
    pytest.param({**SMALL, "output_stride": 8}, id="same padding, stride 8", marks=pytest.mark.slow),
    pytest.param(LARGE, id="mobilenetv2, same padding, stride 16", marks=pytest.mark.slow),
    pytest.param({**LARGE, "output_stride": 8}, id="mobilenetv2, same padding, stride 8", marks=pytest.mark.slow),
]
# Batch, height and width: below the stride, a multiple of it, odd, and far from square.
SHAPES = [(1, 5, 7), (3, 48, 32), (2, 33, 95), (1, 64, 81), (2, 130, 17)]


def network(settings, seed=3):
    """A random network with statistics of batch normalisation that are not neutral, and heads that say something."""
    model = UniversalSegmenter(ModelSettings(**settings), SPACES, seed).eval()
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, value in model.named_buffers():
            if name.endswith("running_mean"):
                value.copy_(torch.from_numpy(rng.normal(0, 0.1, value.shape)))
            if name.endswith("running_var"):
                value.copy_(torch.from_numpy(rng.uniform(0.5, 1.5, value.shape)))
        for head in model.heads.values():
            head.weight.mul_(10)
    return model


@pytest.fixture(scope="module")
def exported():
    """A small network and its file, made once."""
    model = network(SMALL)
    return model, to_onnx(model, model.domains).SerializeToString()


@pytest.mark.parametrize("settings", NETWORKS)
def test_the_file_says_what_the_network_says(settings, exported):
    model, data = exported
    if settings is not SMALL:
        model = network(settings)
        data = to_onnx(model, model.domains).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("image", "tensor(float)", ["batch", 3, "height", "width"])
    ]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [
        ("logits_a", ["batch", 4, "height", "width"]),
        ("logits_stadt.süd", ["batch", 2, "height", "width"]),
    ]
    for seed, (count, height, width) in enumerate(SHAPES):
        image = np.random.default_rng(seed).uniform(0, 255, (count, 3, height, width)).astype(np.float32)
        answers = session.run(None, {"image": image})
        for domain, answer in zip(model.domains, answers, strict=True):
            with torch.inference_mode():
                expected = model(torch.from_numpy(image), domain).numpy()
            assert expected.std() > 1e-2, "the toy says nothing"
            assert answer.shape == expected.shape
            assert np.abs(answer - expected).max() < 1e-3
            assert (answer.argmax(1) == expected.argmax(1)).mean() > 0.999


def test_the_file_explains_itself_and_holds_no_more_than_it_needs(exported):
    model, data = exported
    proto = onnx.load_from_string(data)
    properties = {p.key: p.value for p in proto.metadata_props}
    assert properties == metadata(model, model.domains)
    assert properties["fewmask.stride"] == str(model.multiple)
    domains = json.loads(properties["fewmask.domains"])
    assert [d["output"] for d in domains.values()] == ["logits_a", "logits_stadt.süd"]
    assert {name: LabelSpace.from_dict(space) for name, space in domains.items()} == SPACES
    weights = {tuple(w.dims) for w in proto.graph.initializer}
    assert (model.embedding[1].out_channels, model.embedding[1].in_channels, 1, 1) not in weights
    assert not any(node.metadata_props for node in proto.graph.node), "paths of this machine are in the file"
    assert len(proto.graph.node) < 200  # formulas of padding would be thousands
    assert len(data) < 1.1 * sum(4 * p.numel() for p in model.features.parameters())


def test_a_file_that_is_not_the_network_is_noticed(exported):
    model, data = exported
    other = network(SMALL, seed=4)
    assert compare(model, data, model.domains) < 1e-3
    with pytest.raises(ValueError, match="differ by"):
        compare(other, data, model.domains)
    with pytest.raises(ValueError, match="is not the network"):
        compare(model, data[: len(data) // 2], model.domains)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_model(RunFolder(folder), UniversalSegmenter(helpers.model_settings(), SPACES))
    return folder


def test_a_run_is_exported_without_a_word(run, tmp_path, capfd, recwarn):
    out = tmp_path / "new" / "model.onnx"
    result = export(run, out, "stadt.süd")
    assert [p.name for p in out.parent.iterdir()] == ["model.onnx"]
    assert result["outputs"] == {"stadt.süd": "logits_stadt.süd"}
    assert result["bytes"] == out.stat().st_size
    assert result["difference"] < 1e-3
    assert [o.name for o in onnxruntime.InferenceSession(out).get_outputs()] == ["logits_stadt.süd"]
    assert list(json.loads({p.key: p.value for p in onnx.load(out).metadata_props}["fewmask.domains"])) == ["stadt.süd"]
    assert capfd.readouterr() == ("", "")
    assert not [str(w.message) for w in recwarn]
    with pytest.raises(ValueError, match="exists already"):
        export(run, out)


def test_a_graph_that_is_not_the_network_leaves_no_file(run, exported, tmp_path, monkeypatch):
    other = onnx.load_from_string(exported[1])
    # By its name in the table of modules: the package offers the function `export` where a module of that name lies.
    monkeypatch.setattr(sys.modules["fewmask.onnx_export"], "to_onnx", lambda model, domains: other)
    with pytest.raises(ValueError, match="nothing was written"):
        export(run, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_what_the_exporter_fails_on_is_said_in_a_line(run, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise NotImplementedError("aten::fancy has no counterpart\nwith many more lines")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ValueError, match=r"deeplabv3plus cannot be exported .*: aten::fancy has no counterpart$"):
        export(run, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_decoder_with_pooling_to_fixed_sizes_is_refused(tmp_path, capfd):
    settings = helpers.model_settings(decoder="upernet", output_stride=32)
    save_model(RunFolder(tmp_path / "run"), UniversalSegmenter(settings, {"a": helpers.space(2)}))
    with pytest.raises(ValueError, match="with upernet"):
        export(tmp_path / "run", tmp_path / "model.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert capfd.readouterr() == ("", "")


def test_wrong_input_is_refused_with_its_fix(run, tmp_path):
    with pytest.raises(ValueError, match=r"no domain 'x'.*a, stadt"):
        export(run, tmp_path / "model.onnx", "x")
    with pytest.raises(ValueError, match="no trained model"):
        export(tmp_path, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_the_command_that_brings_it(run, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf'{package}.*pip install "fewmask\[onnx\]"'):
        export(run, tmp_path / "model.onnx")
