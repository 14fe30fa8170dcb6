"""A prediction that was stopped goes on, and what is no image or takes too much memory is told by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
import torch
from PIL import Image

from fewmask.engine.prediction import predict
from fewmask.models.universal import UniversalSegmenter


@pytest.fixture(scope="module")
def network() -> UniversalSegmenter:
    return UniversalSegmenter(helpers.model_settings(), {"a": helpers.space(3), "b": helpers.space(2)}, seed=1).eval()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def files(out: Path) -> dict[str, bytes]:
    kinds = (".png", ".jpg", ".yaml", ".json")
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.suffix in kinds}


def run(network: UniversalSegmenter, images: Path, out: Path, **options: Any) -> dict[str, Any]:
    return predict(network, images, out, "a", batch_size=1, workers=1, precision="fp32", **options)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [1, 4, 8])
def test_a_stopped_prediction_goes_on_where_it_stopped(
    network: UniversalSegmenter, images: Path, tmp_path: Path, after: int
) -> None:
    whole = run(network, images, tmp_path / "whole")

    def stop(done: int, total: int) -> None:
        assert total == 8
        if done == after:
            raise Killed

    with pytest.raises(Killed):
        run(network, images, tmp_path / "out", progress=stop)
    with open(tmp_path / "out" / "predicted.jsonl", "a", encoding="utf-8") as file:
        file.write('{"image": "7", "dig')  # a kill in the middle of a line
    counts: list[int] = []
    again = run(network, images, tmp_path / "out", progress=lambda done, total: counts.append(done))
    assert again["before"] == after and counts == list(range(after + 1, 9))
    assert (again["pixels"], again["images"]) == (whole["pixels"], 8)
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert len((tmp_path / "out" / "predicted.jsonl").read_text(encoding="utf-8").splitlines()) == 8
    assert not list((tmp_path / "out").rglob(".*.tmp"))


def test_what_failed_goes_on_when_it_is_fixed(network: UniversalSegmenter, images: Path, tmp_path: Path) -> None:
    good = (images / "5.png").read_bytes()
    (images / "5.png").write_bytes(good[:-200])
    with pytest.raises(ValueError, match=r"(?s)5\.png.*\d of 8 images were predicted.*the same command goes on"):
        run(network, images, tmp_path / "out")
    (images / "5.png").write_bytes(good)
    assert run(network, images, tmp_path / "out")["before"] > 0
    (tmp_path / "out" / "masks" / "3.png").unlink()
    assert run(network, images, tmp_path / "out")["before"] == 7, "a mask that is gone is made again"


def test_another_prediction_is_refused(network: UniversalSegmenter, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(network, images, out)
    before = files(out)
    other = UniversalSegmenter(helpers.model_settings(), network.spaces, seed=2).eval()
    (tmp_path / "more").mkdir()
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(tmp_path / "more" / "x.png")
    for refused, what in (
        (lambda: run(other, images, out), "another network"),
        (lambda: run(network, tmp_path / "more", out), "other images"),
        (lambda: run(network, images, out, opacity=0.2), "opacity 0.5"),
        (lambda: predict(network, images, out, "b", precision="fp32"), "domain 'a'"),
    ):
        with pytest.raises(ValueError, match=f"holds another prediction: .*{what}"):
            refused()
    Image.fromarray(np.ones((24, 32, 3), np.uint8)).save(images / "2.png")
    with pytest.raises(ValueError, match=r"2\.png: has changed since"):
        run(network, images, out)
    assert files(out) == before


def test_a_damaged_record_is_named(network: UniversalSegmenter, images: Path, tmp_path: Path) -> None:
    for name in ("prediction.json", "predicted.jsonl"):
        out = tmp_path / name.partition(".")[2]
        run(network, images, out)
        (out / name).write_text("{}\n", encoding="utf-8")
        with pytest.raises(ValueError, match=f"{name}: damaged"):
            run(network, images, out)


def test_stray_files_are_left_out_and_named(network: UniversalSegmenter, images: Path, tmp_path: Path) -> None:
    for name in ("Thumbs.db", "DJI_0001.SRT", ".DS_Store", "._0.png", "notes.txt", "0.json", "0.DNG"):
        (images / name).write_bytes(b"II*\0 no image")
    (images / ".cache").mkdir()
    result = run(network, images, tmp_path / "out")
    assert result["images"] == 8
    assert set(result["left_out"]) == {
        "Thumbs.db", "DJI_0001.SRT", ".DS_Store", "._0.png", "notes.txt", "0.json", "0.DNG", ".cache/",
    }  # fmt: skip
    only = tmp_path / "only"
    only.mkdir()
    (only / "clip.mp4").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"no images in it, but clip\.mp4"):
        run(network, only, tmp_path / "none")


def test_a_turned_photograph_is_told_of_also_when_it_was_done_before(
    network: UniversalSegmenter, images: Path, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((16, 24, 3), np.uint8)).save(images / "turned.jpg", exif=exif)
    for _ in range(2):
        ((remark, names),) = run(network, images, tmp_path / "out")["remarks"].items()
        assert names == ["turned"] and "orientation tag (6) is not applied" in remark


@pytest.mark.parametrize("batch_size", [1, 4])
def test_too_little_memory_names_the_image_and_the_fix(
    network: UniversalSegmenter, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    monkeypatch.setattr(type(network), "encode", lambda self, image, domain: torch.empty(2**55))
    with pytest.raises(ValueError, match=r"0\.png.*32×24 pixels.*not enough memory") as caught:
        predict(network, images, tmp_path / "out", "a", batch_size=batch_size, precision="fp32")
    assert ("--batch-size" if batch_size > 1 else "predict it where there is more memory") in str(caught.value)
    monkeypatch.undo()
    assert run(network, images, tmp_path / "out")["images"] == 8


def test_large_images_are_seen_one_at_a_time(
    network: UniversalSegmenter, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    encode = type(network).encode
    noting = lambda self, image, domain: (sizes.append(len(image)), encode(self, image, domain))[1]  # noqa: E731
    monkeypatch.setattr(type(network), "encode", noting)
    for pixels, together in ((2 * 24 * 32, 2), (1, 1), (2**22, 4)):
        sizes.clear()
        monkeypatch.setattr("fewmask.engine.prediction.BATCH_PIXELS", pixels)
        predict(network, images, tmp_path / str(pixels), "a", batch_size=4, precision="fp32")
        assert set(sizes) == {together}
    record = json.loads((tmp_path / "1" / "prediction.json").read_text(encoding="utf-8"))
    assert record["domain"] == "a" and len(record["network"]) == 64
