"""Smart select by Segment Anything models: tiny pairs of ONNX files with the signatures of their exports.

Shapes: S side of the square that a model sees.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewmask.annotation.page.sam import Sam
from fewmask.annotation.page.smart_select import Frame, Point, Prompt

pytest.importorskip("onnxruntime")
SIDE = 64
COLOURS = np.array([[20, 30, 25], [200, 60, 50], [40, 90, 210]], np.uint8)


class Encoder(nn.Module):
    """The picture itself, in cells of 4 pixels."""

    def __init__(self, high: bool = False, itself: bool = False) -> None:
        super().__init__()
        self.high, self.itself = high, itself

    def forward(self, image: Tensor) -> Any:
        if self.itself:  # (H,W,3) in 0–255, padded by the model
            image = (image.permute(2, 0, 1)[None] - 120) / 58
            image = nn.functional.pad(image, (0, SIDE - image.shape[3], 0, SIDE - image.shape[2]))
        cells = nn.functional.avg_pool2d(image, 4)
        return (cells, nn.functional.avg_pool2d(image, 2)) if self.high else cells


class Decoder(nn.Module):
    """Three masks: nothing, what looks like the first point that belongs (or the middle of the frame) and unlike those
    that do not, and everything; by its own account the second is the best."""

    def __init__(self, ratio: bool = False) -> None:
        super().__init__()
        self.ratio = ratio

    def alike(self, embedding: Tensor, x: Tensor, y: Tensor) -> Tensor:
        cell = embedding[0, :, (y / 4).long().clamp(0, SIDE // 4 - 1), (x / 4).long().clamp(0, SIDE // 4 - 1)]
        return (embedding - cell[None, :, None, None]).abs().mean(1, keepdim=True)

    def masks(self, embedding: Tensor, coords: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        there = (labels[0] == 1) + 0.0
        framed = ((labels[0] == 2) | (labels[0] == 3)) + 0.0
        weight = torch.where(there.sum() > 0, there / there.sum().clamp(min=1), framed / framed.sum().clamp(min=1))
        place = (coords[0] * weight[:, None]).sum(0)
        logits = 4 - 20 * self.alike(embedding, place[0], place[1])
        against = (labels[0] == 0) + 0.0
        other = (coords[0] * against[:, None]).sum(0) / against.sum().clamp(min=1)
        away = 4 - 20 * self.alike(embedding, other[0], other[1])
        logits = torch.where(against.sum() > 0, logits - 8 * away.sigmoid(), logits)
        masks = torch.cat([logits * 0 - 9, logits, logits * 0 + 9], 1)
        return masks, torch.tensor([[0.1, 0.9, 0.5]])


class SamDecoder(Decoder):
    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        nothing = 0 * has_mask_input.sum() * mask_input.sum()
        low, likely = self.masks(image_embeddings + nothing, point_coords, point_labels)
        height, width = orig_im_size[0].long(), orig_im_size[1].long()
        # As the real one does it: to the square, without what was padded, to the image.
        part = SIDE / torch.maximum(height, width)
        rows = ((torch.arange(int(height)) + 0.5) * part / 4).long()
        columns = ((torch.arange(int(width)) + 0.5) * part / 4).long()
        return low[:, :, rows][:, :, :, columns], likely, low


class Sam2Decoder(Decoder):
    def forward(
        self,
        image_embed: Tensor,
        high_res_feats_0: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
    ) -> tuple[Tensor, Tensor]:
        nothing = 0 * (has_mask_input.sum() * mask_input.sum() + high_res_feats_0.sum())
        return self.masks(image_embed + nothing, point_coords, point_labels)


def export(
    model: nn.Module, given: tuple[Tensor, ...], path: Path, inputs: list[str], outputs: list[str], **axes: Any
) -> Path:
    torch.onnx.export(
        model, given, path, input_names=inputs, output_names=outputs, dynamic_axes=axes, opset_version=17, dynamo=False
    )
    return path


MASK = torch.zeros(1, 1, 256, 256), torch.zeros(1)
POINTS = torch.tensor([[[8.0, 8.0], [0.0, 0.0]]]), torch.tensor([[1.0, -1.0]])
NAMES = ["point_coords", "point_labels", "mask_input", "has_mask_input"]
AXES = {"point_coords": {1: "n"}, "point_labels": {1: "n"}}
# The tiny decoder's loops over an image's size are of one size: that of the picture below.
SIZE = 48, 96


@pytest.fixture(scope="module", params=["sam", "sam-itself", "sam2"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder, kind = tmp_path_factory.mktemp(request.param), request.param
    picture = torch.zeros(1, 3, SIDE, SIDE)
    cells = torch.zeros(1, 3, SIDE // 4, SIDE // 4)
    if kind == "sam2":
        encoder = export(
            Encoder(high=True).eval(), (picture,), folder / "e.onnx", ["image"], ["image_embed", "high_res_feats_0"]
        )
        given = cells, torch.zeros(1, 3, SIDE // 2, SIDE // 2), *POINTS, *MASK
        names = ["image_embed", "high_res_feats_0", *NAMES]
        decoder = export(Sam2Decoder().eval(), given, folder / "d.onnx", names, ["masks", "iou_predictions"], **AXES)
        return encoder, decoder
    itself = kind == "sam-itself"
    shown = torch.zeros(SIDE // 2, SIDE, 3) if itself else picture
    axes = {"input_image": {0: "height", 1: "width"}} if itself else {}
    encoder = export(
        Encoder(itself=itself).eval(), (shown,), folder / "e.onnx", ["input_image"], ["image_embeddings"], **axes
    )
    given = cells, *POINTS, *MASK, torch.tensor(SIZE, dtype=torch.float32)
    outputs = ["masks", "iou_predictions", "low_res_masks"]
    decoder = export(
        SamDecoder().eval(), given, folder / "d.onnx", ["image_embeddings", *NAMES, "orig_im_size"], outputs, **AXES
    )
    return encoder, decoder


def picture() -> tuple[np.ndarray, np.ndarray]:
    label = np.zeros(SIZE, np.uint8)
    label[12:36, 12:36] = 1
    label[6:42, 60:84] = 2
    return COLOURS[label], label


def agreement(mask: np.ndarray, expected: np.ndarray) -> float:
    return float((mask & expected).sum() / (mask | expected).sum())


def test_points_and_boxes_of_an_image_find_its_shapes(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewmask.annotation.page.sam.SIDE", SIDE)  # of the encoder that leaves it open
    image, label = picture()
    sam = Sam(*pair)
    reads: list[int] = []

    def read() -> np.ndarray:
        reads.append(1)
        return image

    box = (2, 4, 46, 92)
    shown = label[2:46, 4:92]
    for place, value in (((20, 20), 1), ((30, 70), 2), ((1, 1), 0)):
        prompt = Prompt(points=[Point(y=place[0], x=place[1] - 4)])
        scores = sam.select(("a", "x"), read, box, prompt)
        assert agreement(scores.values >= scores.threshold, shown == value) > 0.7
    frame = Frame(top=10, left=8, bottom=32, right=32)
    scores = sam.select(("a", "x"), read, box, Prompt(points=[], frame=frame))
    selected = scores.values >= scores.threshold
    assert agreement(selected, shown == 1) > 0.7
    assert not selected[:, 32:].any() and not selected[32:].any()
    both = Prompt(points=[Point(y=20, x=16), Point(y=20, x=20, belongs=False)])
    assert not (sam.select(("a", "x"), read, box, both).values >= 128)[shown == 1].any()
    assert len(reads) == 1  # embedded once
    sam.close()


def test_files_that_are_no_sam_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    encoder, decoder = pair
    other = export(nn.Conv2d(3, 2, 1), (torch.zeros(1, 3, 8, 8),), tmp_path / "other.onnx", ["x"], ["y"])
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(encoder.read_bytes()[:200])
    for files, words in (
        ((tmp_path / "no.onnx", decoder), "no.onnx: no such file"),
        ((encoder, tmp_path), "no such file"),
        ((broken, decoder), "broken.onnx: no ONNX file that runs here"),
        ((other, decoder), "other.onnx takes x and gives y"),
        ((encoder, other), "lacks point_coords, point_labels, masks, iou_predictions"),
        ((decoder, encoder), "give the encoder first"),
    ):
        with pytest.raises(ValueError, match=words.replace(".", r"\.")):
            Sam(*files)


def test_a_pair_of_two_exports_is_refused(tmp_path: Path) -> None:
    shown, cells = torch.zeros(1, 3, SIDE, SIDE), torch.zeros(1, 3, SIDE // 4, SIDE // 4)
    encoder = export(Encoder(), (shown,), tmp_path / "e.onnx", ["image"], ["image_embeddings"])
    given = cells, torch.zeros(1, 3, SIDE // 2, SIDE // 2), *POINTS, *MASK
    names = ["image_embed", "high_res_feats_0", *NAMES]
    decoder = export(Sam2Decoder(), given, tmp_path / "d.onnx", names, ["masks", "iou_predictions"], **AXES)
    with pytest.raises(ValueError, match=r"lacks high_res_feats_0. Give the decoder of the same export"):
        Sam(encoder, decoder)
