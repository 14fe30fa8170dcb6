"""Prediction of folders: every image at its own size, the dataset's ids in the files, nothing skipped or half written.

Shapes: H×W pixels · C classes.
"""

from __future__ import annotations

import re

import helpers
import numpy as np
import pytest
import torch
from PIL import Image

from fewmask.data.domain import read_image, read_mask
from fewmask.engine.image_files import find_images
from fewmask.engine.prediction import predict
from fewmask.engine.run import load_model, save_model
from fewmask.labels import LabelSpace
from fewmask.models.universal import UniversalSegmenter
from fewmask.runs import RunFolder

# Ids in another order than the classes, two ids for one class, and a void id of its own.
ODD = LabelSpace(
    names=("road", "sky", "tree", "car"),
    colours=((128, 64, 128), (70, 130, 180), (107, 142, 35), (0, 0, 142)),
    raw_ids={7: 0, 3: 1, 200: 2, 4: 2, 26: 3},
    void_ids=frozenset({0}),
)
SIZES = {"b": (40, 52), "a": (33, 47), "sub/c": (40, 52), "sub/deeper/d.e": (17, 90), "z": (40, 52), "one": (1, 5)}


@pytest.fixture(scope="module")
def network():
    model = UniversalSegmenter(helpers.model_settings(), {"odd": ODD, "other": helpers.space(3)}, seed=1).eval()
    with torch.no_grad():  # random heads answer with one class everywhere; make all of them occur
        for head in model.heads.values():
            head.weight.mul_(50)
        features = model.encode(torch.from_numpy(picture((40, 52), 0)).permute(2, 0, 1)[None])
        for name in model.domains:
            logits = model.decode(features, name)
            model.get_submodule(f"heads.{list(model.heads)[model.domains.index(name)]}").bias.sub_(
                logits.mean((0, 2, 3))
            )
    return model


def picture(size, seed):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-size[0] // 8), -(-size[1] // 8), 3))
    return np.kron(coarse, np.ones((8, 8, 1)))[: size[0], : size[1]].astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    for seed, (name, size) in enumerate(SIZES.items()):
        path = root / (name + (".jpg" if seed == 1 else ".png"))
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(size, seed)).save(path)
    (root / ".DS_Store").write_bytes(b"not an image, and not looked at")
    return root


def logits_of(model, path, domain):
    image = torch.from_numpy(read_image(path)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        return model(image, domain)[0]


def assert_same_classes(mask, logits):
    """The mask (H,W) is the argmax of logits (C,H,W), but for pixels where rounding decides."""
    best = logits.topk(2, dim=0).values
    certain = (best[0] - best[1] > 1e-3 * logits.abs().max()).numpy()
    assert certain.mean() > 0.9
    np.testing.assert_array_equal(mask[certain], logits.argmax(0).numpy()[certain])


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_each_file_holds_what_the_model_says_of_its_image(network, folder, tmp_path, batch_size):
    out = tmp_path / "out"
    result = predict(network, folder, out, "odd", batch_size=batch_size, precision="fp32")
    assert (result["images"], result["domain"]) == (len(SIZES), "odd")
    for item in find_images(folder).items:
        mask = ODD.encode(read_mask(out / "masks" / f"{item.name}.png"))
        assert mask.shape == SIZES[str(item.name)]
        assert_same_classes(mask, logits_of(network, item.path, "odd"))
        drawn = read_image(out / "overlays" / f"{item.name}.jpg")
        assert drawn.shape == (*mask.shape, 3)
    written = {str(p.relative_to(out / "masks")) for p in out.rglob("masks/**/*") if p.is_file()}
    assert written == {f"{name}.png" for name in SIZES}


def test_the_files_hold_the_datasets_ids_and_read_back_as_labels(network, folder, tmp_path):
    out = tmp_path / "out"
    result = predict(network, folder, out, "odd", precision="fp32", overlays=False)
    assert not (out / "overlays").exists()
    back = LabelSpace.from_yaml(out / "classes.yaml")
    counts = dict.fromkeys(ODD.names, 0)
    for name in SIZES:
        raw = read_mask(out / "masks" / f"{name}.png")
        assert set(np.unique(raw)) <= {7, 3, 4, 26}  # of two ids for one class the smaller
        ours, theirs = ODD.encode(raw), back.encode(raw)
        assert [ODD.names[i] for i in ours.flat] == [back.names[i] for i in theirs.flat]
        for i, count in enumerate(np.bincount(ours.flat, minlength=4)):
            counts[ODD.names[i]] += count
        with Image.open(out / "masks" / f"{name}.png") as image:
            np.testing.assert_array_equal(np.array(image.convert("RGB")), ODD.colourise(ours))
    assert sum(c > 0 for c in counts.values()) > 1, "all pixels are of one class: this test would see no mistake"
    assert result["pixels"] == pytest.approx({n: c / sum(counts.values()) for n, c in counts.items()})


def test_a_saved_model_predicts_the_same_files(network, folder, tmp_path):
    run = RunFolder(tmp_path / "run")
    save_model(run, network)
    again = load_model(run.folder)
    image = torch.from_numpy(picture((37, 50), 9)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        for name in network.domains:
            assert torch.equal(again(image, name), network(image, name))
    assert again.spaces == network.spaces
    predict(network, folder, tmp_path / "one", "odd", precision="fp32")
    predict(again, folder, tmp_path / "two", "odd", precision="fp32", workers=0)
    endings = (".png", ".jpg", ".yaml")
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.suffix in endings)
    assert len(files) == 2 * len(SIZES) + 1
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_files_may_be_listed_and_progress_is_told(network, folder, tmp_path):
    calls = []
    network.train()
    try:
        predict(
            network, [folder / "b.png", folder / "sub" / "c.png"], tmp_path / "out", "other",
            precision="fp32", progress=lambda done, total: calls.append((done, total)),
        )  # fmt: skip
        assert network.training, "the model was not left as it was found"
    finally:
        network.eval()
    assert calls == [(1, 2), (2, 2)]
    assert sorted(p.name for p in (tmp_path / "out" / "masks").iterdir()) == ["b.png", "c.png"]
    predict(network, folder / "b.png", tmp_path / "single", "other", precision="fp32")
    one, other = ((tmp_path / f / "masks" / "b.png").read_bytes() for f in ("out", "single"))
    assert one == other


def test_a_domain_has_to_be_chosen_and_to_exist(network, folder, tmp_path):
    with pytest.raises(ValueError, match=r"several domains.*odd, other"):
        predict(network, folder, tmp_path / "out")
    with pytest.raises(ValueError, match=r"no domain 'x'.*odd, other"):
        predict(network, folder, tmp_path / "out", "x")
    single = UniversalSegmenter(helpers.model_settings(), {"a": helpers.space(2)})
    assert predict(single, [folder / "b.png"], tmp_path / "out")["domain"] == "a"


def test_everything_that_is_wrong_beforehand_is_listed_at_once(network, folder, tmp_path):
    (folder / "sub" / "b.jpg").write_bytes(b"")
    (folder / "b.jpg").write_bytes((folder / "a.jpg").read_bytes())
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "sub" / "loop").symlink_to(folder)
    with pytest.raises(ValueError, match="cannot be predicted") as caught:
        predict(network, folder, tmp_path / "out", "odd")
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 4
    for name, what in {
        "sub/b.jpg": "not an image",
        "b.jpg": "all would be written as b.png",
        "gone.png": "cannot be read",
        "sub/loop": "a link back",
    }.items():
        assert any(str(folder / name) in line and what in line for line in lines), name
    assert not (tmp_path / "out").exists(), "something was written"


def test_an_image_that_claims_too_many_pixels_is_refused_beforehand(network, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name, side in (("huge", 15_000), ("absurd", 60_000)):
        header = bytearray(b"BM" + bytes(52))
        header[10:14], header[14:18] = (54).to_bytes(4, "little"), (40).to_bytes(4, "little")
        header[18:22], header[22:26] = side.to_bytes(4, "little"), side.to_bytes(4, "little")
        header[26:28], header[28:30] = (1).to_bytes(2, "little"), (24).to_bytes(2, "little")
        (images / f"{name}.bmp").write_bytes(bytes(header))
    with pytest.raises(ValueError, match="pixels; cut it into tiles") as caught:
        predict(network, images, tmp_path / "out", "odd")
    assert "huge.bmp" in str(caught.value) and "absurd.bmp" in str(caught.value)


def test_no_images_is_an_error(network, tmp_path):
    (tmp_path / "empty" / "inside").mkdir(parents=True)
    with pytest.raises(ValueError, match="no images in it"):
        predict(network, tmp_path / "empty", tmp_path / "out", "odd")
    with pytest.raises(ValueError, match="no images are given"):
        predict(network, [], tmp_path / "out", "odd")
    with pytest.raises(ValueError, match=r"missing\.png: cannot be read"):
        predict(network, [tmp_path / "missing.png"], tmp_path / "out", "odd")
    with pytest.raises(ValueError, match="inside: a folder"):
        predict(network, [tmp_path / "empty" / "inside"], tmp_path / "out", "odd")
    assert not (tmp_path / "out").exists()


def test_nothing_that_is_there_is_overwritten(network, folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("keep")
    with pytest.raises(ValueError, match="nor an empty folder"):
        predict(network, folder, out, "odd")
    with pytest.raises(ValueError, match="nor an empty folder"):
        predict(network, folder, out / "mine", "odd")
    with pytest.raises(ValueError, match="inside the images' folder"):
        predict(network, folder, folder / "predictions", "odd")
    assert [p.name for p in out.iterdir()] == ["mine"]
    assert not (folder / "predictions").exists()


def test_a_damaged_file_stops_with_its_name_and_what_was_done_stays(network, tmp_path):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for i in range(12):
        Image.fromarray(picture((32, 32), i)).save(images / f"{i:02d}.png")
    data = (images / "09.png").read_bytes()
    (images / "09.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"09\.png.*truncated") as caught:
        predict(network, images, out, "odd", batch_size=2, workers=1, precision="fp32")
    done = sorted(p for p in (out / "masks").iterdir())
    (count,) = re.findall(r"(\d+) of 12 images were predicted", str(caught.value))
    assert int(count) == len(done) > 0
    assert [p.name for p in done] == [f"{i:02d}.png" for i in range(len(done))]
    for path in done:
        assert_same_classes(ODD.encode(read_mask(path)), logits_of(network, images / path.name, "odd"))
    assert not list(out.rglob(".*.tmp")), "a file was left half written"
