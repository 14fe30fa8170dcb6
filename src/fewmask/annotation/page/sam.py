"""Smart select by a Segment Anything model, from its two ONNX files.

The exports agree on most names, but on few details. The family follows from the inputs and outputs of the two files:

SAM, MobileSAM  the encoder takes (1,3,S,S), normalised and padded, or (H,W,3) in 0–255 and does that itself
SAM 2           the encoder also gives `high_res_feats_*`; images are brought to S×S without keeping their shape
EfficientSAM    the encoder takes `batched_images` (1,3,H,W) in 0–1; points have one more axis

Shapes: H×W pixels of an image · S side of the square that the model sees · N points · K masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from fewmask.annotation.page.ahead import Ahead, Key, Read
from fewmask.annotation.page.features import Box
from fewmask.annotation.page.smart_select import Prompt, Scores, within
from fewmask.formats.bands import as_rgb

SIDE = 1024
"""S where the file does not fix it."""
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STD = np.array([58.395, 57.12, 57.375], np.float32)
THRESHOLD, STEPS = 128, 16
"""The score of the logit 0, and the number of scores for one unit of logits."""
OUTSIDE, INSIDE, TOP_LEFT, BOTTOM_RIGHT, NOTHING = 0, 1, 2, 3, -1
"""The decoder's labels of points."""
POINTS = ("point_coords", "point_labels")
MASKS = ("masks", "iou_predictions")

Family = Literal["sam", "sam2", "efficient"]


@dataclass(frozen=True, eq=False)
class Embedding:
    values: dict[str, np.ndarray]
    """The encoder's outputs by the decoder's names."""
    size: tuple[int, int]
    """H, W of the image."""

    @property
    def bytes(self) -> int:
        return sum(value.nbytes for value in self.values.values())


class Sam:
    """A selector by a Segment Anything model, see `smart_select.Selector`. Threads may call it at once."""

    def __init__(self, encoder: Path, decoder: Path) -> None:
        """Raises ValueError, which names the file and its fault, where the two are no encoder and decoder of a SAM."""
        self._encoder, self._decoder = _session(encoder), _session(decoder)
        inputs, outputs = self._encoder.get_inputs(), [output.name for output in self._encoder.get_outputs()]
        takes, gives = _kinds(self._decoder.get_inputs()), [output.name for output in self._decoder.get_outputs()]
        if len(inputs) != 1 or len(inputs[0].shape) not in (3, 4) or not any("embed" in name for name in outputs):
            raise ValueError(
                f"--sam: {encoder} takes {_names(i.name for i in inputs)} and gives {_names(outputs)}, but the encoder "
                "of a SAM takes one image and gives `image_embeddings`; give the encoder first, then the decoder"
            )
        self._batched = "batched_point_coords" in takes
        self._names = {name: f"batched_{name}" if self._batched else name for name in POINTS}
        self._outputs = [next((g for g in gives if g in (name, f"output_{name}")), None) for name in MASKS]
        missing = [name for name in self._names.values() if name not in takes]
        missing += [name for name, output in zip(MASKS, self._outputs, strict=True) if output is None]
        # Encoders and decoders of SAM 2 call it image_embed, others image_embeddings.
        wanted = [name for name in takes if "embed" in name or name.startswith("high_res_feats")]
        embeddings = [name for name in outputs if "embed" in name]
        self._passed = {name: name for name in wanted if name in outputs}
        self._passed |= {
            name: embeddings[0] for name in wanted if "embed" in name and name not in outputs and len(embeddings) == 1
        }
        missing += [name for name in wanted if name not in self._passed]
        if missing or not wanted:
            raise ValueError(
                f"--sam: {decoder} takes {_names(takes)} and gives {_names(gives)}; as the decoder to {encoder} it "
                f"lacks {_names(missing or ['image_embeddings'])}. Give the decoder of the same export"
            )
        self._takes = takes
        self._image, self._kind = inputs[0].name, _kinds(inputs)[inputs[0].name]
        self._rank = len(inputs[0].shape)
        side = inputs[0].shape[2] if self._rank == 4 else SIDE
        self._side = side if isinstance(side, int) else SIDE
        (mask,) = [i.shape[2:] for i in self._decoder.get_inputs() if i.name == "mask_input"] or [[None, None]]
        self._mask = [n if isinstance(n, int) else self._side // 4 for n in mask]
        self._family: Family = (
            "efficient" if self._batched else "sam2" if any(n.startswith("high_res_feats") for n in outputs) else "sam"
        )
        self._embeddings = Ahead(lambda _, image: self._encode(image), lambda made: made.bytes)

    def prepare(self, key: Key, read: Read) -> None:
        """See `Selector`."""
        self._embeddings.begin(key, read)

    def select(self, key: Key, read: Read, box: Box, prompt: Prompt) -> Scores:
        """See `Selector`."""
        embedding = self._embeddings.get(key, read)
        logits = self._decode(embedding, *self._points(embedding.size, box, prompt))
        y0, x0, y1, x1 = box
        values = np.clip(np.rint(THRESHOLD + STEPS * logits[y0:y1, x0:x1]), 0, 255).astype(np.uint8)
        return Scores(within(values, prompt), THRESHOLD)

    def close(self) -> None:
        self._embeddings.close()

    def _scale(self, size: tuple[int, int]) -> tuple[float, float]:
        """The factors, down and across, from pixels of an image of H, W to pixels that the model sees."""
        if self._family == "efficient":
            return 1.0, 1.0
        if self._family == "sam2":
            return self._side / size[0], self._side / size[1]
        return (self._side / max(size),) * 2

    def _encode(self, image: np.ndarray) -> Embedding:
        height, width = image.shape[:2]
        down, across = self._scale((height, width))
        resized = max(round(height * down), 1), max(round(width * across), 1)
        smaller = resized[0] < height
        way = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        small = cv2.resize(as_rgb(image), resized[::-1], interpolation=way)
        inputs: np.ndarray = small.astype(np.float32)
        if self._rank == 4:
            inputs = inputs / 255 if self._family == "efficient" else (inputs - MEAN) / STD
            if self._family != "efficient":
                inputs = np.pad(inputs, ((0, self._side - resized[0]), (0, self._side - resized[1]), (0, 0)))
            inputs = np.ascontiguousarray(inputs.transpose(2, 0, 1)[None])
        inputs = inputs.astype(self._kind, copy=False)
        outputs = _run(self._encoder, list(self._passed.values()), {self._image: inputs})
        return Embedding(dict(zip(self._passed, outputs, strict=True)), (height, width))

    def _points(self, size: tuple[int, int], box: Box, prompt: Prompt) -> tuple[np.ndarray, np.ndarray]:
        """The points (1,N,2), x before y in pixels that the model sees, and their labels (1,N), both fp32."""
        marks = [(p.y, p.x, INSIDE if p.belongs else OUTSIDE) for p in prompt.points]
        if prompt.frame is not None:
            frame = prompt.frame
            marks += [(frame.top, frame.left, TOP_LEFT), (frame.bottom, frame.right, BOTTOM_RIGHT)]
        down, across = self._scale(size)
        places = [((x + box[1]) * across, (y + box[0]) * down) for y, x, _ in marks]
        labels = [label for _, _, label in marks]
        if self._family == "sam" and prompt.frame is None:  # as in training: see its authors' example
            places, labels = [*places, (0.0, 0.0)], [*labels, NOTHING]
        return np.array([places], np.float32), np.array([labels], np.float32)

    def _decode(self, embedding: Embedding, places: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The logits (H,W) of the mask that the model rates best."""
        extra = (1,) if self._batched else ()
        inputs: dict[str, np.ndarray] = {
            **embedding.values,
            self._names["point_coords"]: places.reshape(*extra, *places.shape),
            self._names["point_labels"]: labels.reshape(*extra, *labels.shape),
            "mask_input": np.zeros((1, 1, *self._mask), np.float32),
            "has_mask_input": np.zeros(1, np.float32),
            "orig_im_size": np.array(embedding.size, np.float32),
        }
        inputs = {name: inputs[name].astype(kind, copy=False) for name, kind in self._takes.items() if name in inputs}
        masks, likely = _run(self._decoder, [str(name) for name in self._outputs], inputs)
        best = masks.reshape(-1, *masks.shape[-2:])[int(likely.reshape(-1).argmax())].astype(np.float32)
        if best.shape == embedding.size:
            return best
        height, width = embedding.size
        if self._family == "sam":  # without the padding
            down, across = self._scale(embedding.size)
            part = best.shape[0] / self._side
            best = best[: max(round(height * down * part), 1), : max(round(width * across * part), 1)]
        return cv2.resize(best, (width, height), interpolation=cv2.INTER_LINEAR)


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(f'--sam needs the package {error.name}; pip install "fewmask[onnx]"') from None
    if not path.is_file():
        raise ValueError(f"--sam: {path}: no such file; give the encoder's and the decoder's ONNX file")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # the error below has the failure
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own error types share no other base
        message = " ".join(str(error).split())[:200]
        raise ValueError(f"--sam: {path}: no ONNX file that runs here ({message}); export it again") from None


def _run(session: Any, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    try:
        outputs: list[np.ndarray] = session.run(names, inputs)
    except Exception as error:
        raise RuntimeError(" ".join(str(error).split())[:300]) from None
    return outputs


def _kinds(inputs: Any) -> dict[str, type[np.generic]]:
    """The types of a network's inputs, by name."""
    kinds: dict[str, type[np.generic]] = {
        "tensor(int64)": np.int64,
        "tensor(int32)": np.int32,
        "tensor(float16)": np.float16,
    }
    return {each.name: kinds.get(each.type, np.float32) for each in inputs}


def _names(names: Any) -> str:
    return ", ".join(names) or "nothing"
