"""Input, ground truth, prediction, error and uncertainty of the best, the median and the worst images.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from fewmask.config import Precision
from fewmask.document.html import picture
from fewmask.document.model import Block, Gallery, Key, Note, Picture, Section
from fewmask.labels import NOT_LABELLED
from fewmask.models.universal import UniversalSegmenter
from fewmask.report.asking import legend
from fewmask.report.look import Look, Shown, show
from fewmask.report.words import css, percent

WIDTH = 320  # pixels of a picture
HEADS = ("input", "ground truth", "prediction", "error", "uncertainty")
WRONG = (213, 94, 0)
STRIPE = 3  # pixels of a picture
ENDS = (("sure", 0), ("between", 128), ("every class alike", 255))


def panels(
    model: UniversalSegmenter | None, looks: Mapping[str, Look], without: Sequence[Note], precision: Precision = "auto"
) -> Section:
    blocks: list[Block] = []
    for name, seen in looks.items():
        if not seen.ranked or model is None:
            blocks.append(Note(f"Pictures of {name}: no pixel of its {seen.split} images is labelled.", "missing"))
            continue
        pictures: list[Picture] = []
        for place, (stem, miou) in _chosen(seen.ranked):
            pictures += _row(place, seen, show(model, seen.domain, stem, miou, precision))
        space = seen.domain.space
        extra = [Key("not labelled or void", shape="hatch"), Key("error: wrong", colour=css(WRONG))]
        extra += [Key(f"uncertainty: {word}", colour=css(_viridis(np.array([[v]]))[0, 0])) for word, v in ENDS]
        caption = "Uncertainty is the entropy of the probabilities, as a part of the largest there can be."
        title = f"{name}: of {len(seen.ranked)} images of {seen.split}"
        blocks.append(Gallery(title, pictures, len(HEADS), HEADS, [*legend(space), *extra], caption))
    lead = (
        "The best, the median and the worst images, by their own mIoU over the classes that they show." if looks else ""
    )
    return Section("images", "Images", [*blocks, *without], lead)


def _chosen(ranked: Sequence[tuple[str, float]]) -> list[tuple[str, tuple[str, float]]]:
    """The best, the median and the two worst; of few images one may be several of these."""
    last = len(ranked) - 1
    named = {last // 2: "median", last - 1: "second worst", last: "worst", 0: "best"}
    return [(named[i], ranked[i]) for i in sorted(named) if i >= 0]


def _row(place: str, seen: Look, shown: Shown) -> list[Picture]:
    space, stem = seen.domain.space, shown.stem
    labelled = shown.truth < NOT_LABELLED
    grey = cv2.cvtColor(shown.image, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, 2)
    truth = hatched(space.colourise(shown.truth), ~labelled)
    error = (grey // 2 + 100).astype(np.uint8)
    error[labelled & (shown.prediction != shown.truth)] = WRONG
    uncertainty = _viridis((255 * shown.uncertainty.clip(0, 1)).astype(np.uint8))
    wrong = percent(float((shown.prediction != shown.truth)[labelled].mean()) if labelled.any() else 0.0)
    top = np.bincount(shown.prediction.ravel(), minlength=space.num_classes).argsort()[::-1][:3]
    names = ", ".join(space.names[c] for c in top)
    of = f"of {stem}, the {place} image"
    return [
        picture(shown.image, f"Input {of}", f"{place}: {stem}, mIoU {percent(shown.miou)}", WIDTH),
        picture(truth, f"Ground truth {of}", "", WIDTH, exact=True),
        picture(space.colourise(shown.prediction), f"Prediction {of}: mostly {names}", "", WIDTH, exact=True),
        picture(hatched(error, ~labelled), f"Errors {of}: {wrong} of the labelled pixels", f"{wrong} wrong", WIDTH),
        picture(uncertainty, f"Uncertainty {of}", f"{percent(float(shown.uncertainty.mean()))} on average", WIDTH),
    ]


def hatched(pixels: np.ndarray, where: np.ndarray) -> np.ndarray:
    """(H,W,3) with black and white stripes `where` (H,W), which no class and no image has, as wide as a picture of
    WIDTH pixels can show."""
    height, width = where.shape
    stripe = STRIPE * max(-(-width // WIDTH), 1)
    y, x = np.ogrid[:height, :width]
    light = ((x + y) // stripe % 2).astype(np.uint8)[..., None] * 255
    return np.where(where[..., None], light, pixels).astype(np.uint8)


def _viridis(values: np.ndarray) -> np.ndarray:
    """(H,W) uint8 as colours (H,W,3) that a colour-blind person, and a grey print, can tell apart."""
    return cv2.cvtColor(cv2.applyColorMap(values.astype(np.uint8), cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
