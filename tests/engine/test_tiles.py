"""Large images are predicted by tiles: as the whole image where nothing depends on the tile, and in bounded memory.

Shapes: H×W pixels of an image · C channels · K classes.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import helpers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ondisk import run_python
from PIL import Image
from torch import Tensor

from fewmask.data.domain import read_mask
from fewmask.engine import evaluation, prediction, tiles
from fewmask.engine.evaluation import count_predictions, predict_batch
from fewmask.engine.prediction import predict
from fewmask.engine.prototypes import make_prototypes
from fewmask.engine.tiles import classes_by_tiles, excess_by_tiles, tile_starts, tile_weights
from fewmask.models.fusion import AUTO, Fused
from fewmask.models.universal import UniversalSegmenter

SIZES = st.integers(1, 200)


class Pixelwise:
    """A network that looks at each pixel alone, so that no tile changes what it says."""

    mean = torch.zeros(1)

    def __init__(self, multiple: int, classes: int = 4) -> None:
        self.multiple, self.shapes = multiple, list[tuple[int, int]]()
        self.table = torch.randn(256, classes, generator=torch.Generator().manual_seed(multiple))

    def __call__(self, image: Tensor, domain: str) -> Tensor:
        self.shapes.append((image.shape[2], image.shape[3]))
        return self.table[image[:, 0].long()].permute(0, 3, 1, 2)


@settings(deadline=None, max_examples=80)
@given(
    height=SIZES, width=SIZES, side=st.integers(40, 80), overlap=st.integers(1, 20), multiple=st.sampled_from([1, 4, 8])
)
def test_tiles_say_what_the_whole_image_says(height: int, width: int, side: int, overlap: int, multiple: int) -> None:
    network = Pixelwise(multiple)
    image = torch.from_numpy(
        np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), np.uint8)
    )
    classes = classes_by_tiles(network, image, "", side=side, overlap=overlap)
    assert torch.equal(classes, network.table.argmax(1)[image[..., 0].long()].to(torch.uint8))
    assert max(max(size) for size in network.shapes) <= side


@settings(deadline=None)
@given(
    length=st.integers(1, 5000),
    side=st.integers(40, 300),
    overlap=st.integers(1, 23),
    multiple=st.sampled_from([1, 4, 8]),
)
def test_tiles_cover_every_pixel_and_their_weights_sum_to_one(
    length: int, side: int, overlap: int, multiple: int
) -> None:
    starts = tile_starts(length, side, overlap, multiple)
    weights = tile_weights(starts, length, side, overlap)
    total = np.zeros(length)
    for start, weight in zip(starts, weights, strict=True):
        assert start % multiple == 0
        assert len(weight) == min(side, length - start)
        assert (weight > 0).all()
        total[start : start + len(weight)] += weight
    np.testing.assert_allclose(total, 1, rtol=1e-5)
    shared = [a + side - b for a, b in pairwise(starts)]
    assert all(n >= overlap for n in shared)


@pytest.fixture(scope="module")
def network() -> UniversalSegmenter:
    model = helpers.model({"a": helpers.domain("a", 3), "b": helpers.domain("b", 4)}).eval()
    with torch.no_grad():
        for head in model.heads.values():
            head.weight.mul_(50)
    return model


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3))
    return np.kron(coarse, np.ones((8, 8, 1)))[:height, :width].astype(np.uint8)


def test_one_tile_is_the_whole_image(network: UniversalSegmenter) -> None:
    image = torch.from_numpy(picture(90, 120))
    whole = predict_batch(network, image[None], "a")[0]
    assert torch.equal(classes_by_tiles(network, image, "a").long(), whole)
    assert len(whole.unique()) > 1


def test_inside_of_tiles_a_network_says_what_it_says_of_the_whole(network: UniversalSegmenter) -> None:
    """It looks far, so that tiles may differ from the whole; few pixels change their class."""
    image = torch.from_numpy(picture(320, 400))
    whole = predict_batch(network, image[None], "a")[0]
    classes = classes_by_tiles(network, image, "a", side=256, overlap=128).long()
    assert (classes == whole).float().mean() > 0.9


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Tiles of 64 pixels for images of more than 64², and which images were predicted so."""
    shapes: list[tuple[int, ...]] = []

    def by_tiles(model: UniversalSegmenter, image: Tensor, domain: str, precision: str = "auto") -> Tensor:
        shapes.append(tuple(image.shape[:2]))
        return classes_by_tiles(model, image, domain, side=64, overlap=16)

    monkeypatch.setattr(tiles, "LARGE", 64 * 64)
    monkeypatch.setattr(prediction, "classes_by_tiles", by_tiles)
    monkeypatch.setattr(evaluation, "classes_by_tiles", by_tiles)
    return shapes


def test_large_images_of_a_folder_are_predicted_by_tiles(
    network: UniversalSegmenter, small_tiles: list[tuple[int, ...]], tmp_path: Path
) -> None:
    shapes = {"small": (50, 60), "large": (130, 97), "wide": (20, 300)}
    (tmp_path / "images").mkdir()
    for name, shape in shapes.items():
        Image.fromarray(picture(*shape)).save(tmp_path / "images" / f"{name}.png")
    result = predict(network, tmp_path / "images", tmp_path / "out", "a")
    assert sorted(small_tiles) == [(20, 300), (130, 97)]
    for name, shape in shapes.items():
        mask = read_mask(tmp_path / "out" / "masks" / f"{name}.png")
        image = torch.from_numpy(picture(*shape))
        expected = classes_by_tiles(network, image, "a", side=64, overlap=16)
        np.testing.assert_array_equal(mask, expected.numpy())
    assert sum(result["pixels"].values()) == pytest.approx(1)


def test_large_images_are_scored_by_tiles(network: UniversalSegmenter, small_tiles: list[tuple[int, ...]]) -> None:
    domain = helpers.domain("a", 3, labelled=6, size=(90, 80))
    domain = replace(domain, splits={**domain.splits, "val": domain.labelled})
    confusion = count_predictions(network, domain, "val", workers=0).confusion
    assert len(small_tiles) == 6
    truth = [
        classes_by_tiles(network, torch.from_numpy(domain.image(s)), "a", side=64, overlap=16) for s in domain.labelled
    ]
    right = sum(int((p.numpy() == domain.mask(s)).sum()) for p, s in zip(truth, domain.labelled, strict=True))
    assert int(confusion.diagonal().sum()) == right


def test_auto_chooses_one_domain_for_all_of_a_large_image(network: UniversalSegmenter, tmp_path: Path) -> None:
    domains = {"a": helpers.domain("a", 3, labelled=6), "b": helpers.domain("b", 4, labelled=6)}
    fused = Fused(network, make_prototypes(network, domains, workers=0)).eval()
    image = torch.from_numpy(picture(90, 120))
    with torch.inference_mode():
        whole = fused.excess(fused.similarity(fused.encode(image.permute(2, 0, 1)[None])))
    torch.testing.assert_close(excess_by_tiles(fused, image), whole, rtol=1e-3, atol=1e-4)
    Image.fromarray(picture(70, 80)).save(tmp_path / "x.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "LARGE", 64 * 64)
        by_tiles = predict(fused, tmp_path / "x.png", tmp_path / "tiles", AUTO)
    plain = predict(fused, tmp_path / "x.png", tmp_path / "plain", AUTO)
    assert by_tiles["chosen"] == plain["chosen"]


MEASURED = """
import resource, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import helpers
from fewmask.engine.prediction import predict

torch.set_num_threads(1)
model = helpers.model({"a": helpers.domain("a", 19)}).eval()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # KiB, on Linux
before = peak()
predict(model, Path(sys.argv[2]), Path(sys.argv[3]), "a", precision="fp32")
print(before, peak())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak has another unit elsewhere")
@pytest.mark.slow
def test_an_image_of_36_million_pixels_takes_a_bounded_memory(tmp_path: Path) -> None:
    side = 6000
    Image.fromarray(np.tile(picture(600, 600), (10, 10, 1))).save(tmp_path / "x.png", compress_level=1)
    done = run_python(MEASURED, Path(helpers.__file__).parent, tmp_path / "x.png", tmp_path / "out", timeout=1800)
    assert done.returncode == 0, done.stderr
    before, peak = map(int, done.stdout.split())
    assert read_mask(tmp_path / "out" / "masks" / "x.png").shape == (side, side)
    # The whole image at once would take 4·19·36 MB for its logits alone, 2.7 GB, and as much for those of the network.
    assert peak - before < 1024, f"{peak - before} MiB over {before}"
