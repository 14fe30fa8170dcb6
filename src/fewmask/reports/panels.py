"""Input, ground truth, prediction, error and uncertainty of the best, the median and the worst images.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from fewmask.config import Precision
from fewmask.config.scale import in_words
from fewmask.data.domain import Domain
from fewmask.document.html import picture
from fewmask.document.model import Block, Gallery, Key, Note, Picture, Section
from fewmask.labels import NOT_LABELLED, LabelSpace
from fewmask.models.universal import UniversalSegmenter
from fewmask.reports.asking import legend
from fewmask.reports.evaluation import Shown, SplitEvaluation, show, spread
from fewmask.reports.words import css, percent

WIDTH = 320  # pixels of a picture
MASKLESS = ("input", "prediction", "uncertainty")
FEW = 3  # images of the pool
ENTROPY = "Uncertainty is the entropy of the probabilities, as a part of the largest there can be."
HEADS = ("input", "ground truth", "prediction", "error", "uncertainty")
WRONG = (213, 94, 0)
STRIPE = 3  # pixels of a picture
ENDS = (("sure", 0), ("between", 128), ("every class alike", 255))


def panels(
    model: UniversalSegmenter | None,
    evaluations: Mapping[str, SplitEvaluation],
    unlabelled: Mapping[str, Domain],
    without: Sequence[Note],
    precision: Precision = "auto",
) -> Section:
    """Shows `evaluations` of domains with masks in the split, and images of the pool of the `unlabelled` domains."""
    blocks: list[Block] = []
    for name, seen in evaluations.items():
        if not seen.ranked or model is None:
            blocks.append(Note(f"Pictures of {name}: no pixel of its {seen.split} images is labelled.", "missing"))
            continue
        pictures: list[Picture] = []
        for place, (stem, miou) in _chosen(seen.ranked):
            pictures += _row(place, seen, show(model, seen.domain, stem, miou, precision))
        extra = [Key("not labelled or void", shape="hatch"), Key("error: wrong", colour=css(WRONG))]
        keys = [*legend(seen.domain.space), *extra, *_scale()]
        scale = f", {in_words(seen.domain.size)}" if seen.domain.size is not None else ""
        title = f"{name}: of {len(seen.ranked)} images of {seen.split}{scale}"
        blocks.append(Gallery(title, pictures, len(HEADS), HEADS, keys, ENTROPY))
    if model is not None:
        blocks += [_of_pool(model, domain, precision) for domain in unlabelled.values()]
    lead = (
        "The best, the median and the worst images, by their own mIoU over the classes that they show."
        if evaluations
        else ""
    )
    return Section("images", "Images", [*blocks, *without], lead)


def _of_pool(model: UniversalSegmenter, domain: Domain, precision: Precision) -> Gallery:
    """What can be shown without a ground truth."""
    stems = domain.unlabelled
    pictures: list[Picture] = []
    for stem in spread(stems, FEW):
        pictures += _unlabelled_row(domain.space, show(model, domain, stem, None, precision))
    title = f"{domain.name}: of {len(stems)} images without labels"
    return Gallery(title, pictures, len(MASKLESS), MASKLESS, [*legend(domain.space), *_scale()], ENTROPY)


def _scale() -> list[Key]:
    return [Key(f"uncertainty: {word}", colour=css(_viridis(np.array([[v]]))[0, 0])) for word, v in ENDS]


def _chosen(ranked: Sequence[tuple[str, float]]) -> list[tuple[str, tuple[str, float]]]:
    """The best, the median and the two worst; of few images one may be several of these."""
    last = len(ranked) - 1
    named = {last // 2: "median", last - 1: "second worst", last: "worst", 0: "best"}
    return [(named[i], ranked[i]) for i in sorted(named) if i >= 0]


def _row(place: str, seen: SplitEvaluation, shown: Shown) -> list[Picture]:
    space, stem, truth = seen.domain.space, shown.stem, shown.truth
    assert truth is not None
    labelled = truth < NOT_LABELLED
    missed = labelled & (shown.prediction != truth)
    grey = cv2.cvtColor(shown.image, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, 2)
    error = (grey // 2 + 100).astype(np.uint8)
    error[missed] = WRONG
    wrong = percent(float(missed[labelled].mean()) if labelled.any() else 0.0)
    of = f"of {stem}, the {place} image"
    return [
        picture(shown.image, f"Input {of}", f"{place}: {stem}, mIoU {percent(shown.miou)}", WIDTH),
        picture(hatched(space.colourise(truth), ~labelled), f"Ground truth {of}", "", WIDTH, exact=True),
        _prediction(space, shown, of),
        picture(hatched(error, ~labelled), f"Errors {of}: {wrong} of the labelled pixels", f"{wrong} wrong", WIDTH),
        _uncertainty(shown, of),
    ]


def _unlabelled_row(space: LabelSpace, shown: Shown) -> list[Picture]:
    of = f"of {shown.stem}"
    image = picture(shown.image, f"Input {of}", shown.stem, WIDTH)
    return [image, _prediction(space, shown, of), _uncertainty(shown, of)]


def _prediction(space: LabelSpace, shown: Shown, of: str) -> Picture:
    top = np.bincount(shown.prediction.ravel(), minlength=space.num_classes).argsort()[::-1][:3]
    names = ", ".join(space.names[c] for c in top)
    return picture(space.colourise(shown.prediction), f"Prediction {of}: mostly {names}", "", WIDTH, exact=True)


def _uncertainty(shown: Shown, of: str) -> Picture:
    pixels = _viridis((255 * shown.uncertainty.clip(0, 1)).astype(np.uint8))
    return picture(pixels, f"Uncertainty {of}", f"{percent(float(shown.uncertainty.mean()))} on average", WIDTH)


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
