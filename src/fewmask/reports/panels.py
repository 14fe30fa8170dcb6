"""Input, ground truth, prediction, error and uncertainty of images from the best to the worst; of several methods their
predictions and errors side by side.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np

from fewmask.config import Precision
from fewmask.config.scale import in_words
from fewmask.data.domain import Domain
from fewmask.document.html import picture
from fewmask.document.model import Block, Gallery, Key, Note, Picture, Row, Section
from fewmask.labels import NOT_LABELLED, LabelSpace
from fewmask.models.universal import UniversalSegmenter
from fewmask.plurals import count
from fewmask.reports.colours import WIDTH, hatched, legend
from fewmask.reports.evaluation import Shown, SplitEvaluation, show, spread
from fewmask.reports.words import css, percent

MASKLESS = ("input", "prediction", "uncertainty")
SHOWN = 12  # images of a domain
FEW = 3  # images of the pool
ENTROPY = "Uncertainty is the entropy of the probabilities, as a part of the largest there can be."
HEADS = ("input", "ground truth", "prediction", "error", "uncertainty")
WRONG = (213, 94, 0)
ENDS = (("sure", 0), ("between", 128), ("every class alike", 255))

Step = Callable[[int], object]


def panels(
    models: Mapping[str, UniversalSegmenter],
    evaluations: Mapping[str, SplitEvaluation],
    unlabelled: Mapping[str, Domain],
    without: Sequence[Note],
    precision: Precision = "auto",
    step: Step = lambda done: None,
) -> Section:
    """Shows `evaluations` of domains with masks in the split, and images of the pool of the `unlabelled` domains.
    `models` are the methods by name, the one that was evaluated last."""
    blocks: list[Block] = []
    for name, seen in evaluations.items():
        if not seen.ranked or not models:
            blocks.append(Note(f"Pictures of {name}: no pixel of its {seen.split} images is labelled.", "missing"))
            continue
        able = {n: m for n, m in models.items() if name in m.spaces and m.spaces[name].names == seen.domain.space.names}
        rows = [_row(seen, stem, able, precision, step) for stem, _ in spread(seen.ranked, SHOWN)]
        extra = [Key("not labelled or void", shape="hatch"), Key("error: wrong", colour=css(WRONG))]
        scale = f", {in_words(seen.domain.size)}" if seen.domain.size is not None else ""
        title = f"{name}: {len(rows)} of {count(len(seen.ranked), 'image')} of {seen.split}{scale}"
        keys = [*legend(seen.domain.space), *extra]
        if len(able) == 1:
            blocks.append(Gallery(title, rows, HEADS, [*keys, *_scale()], ENTROPY))
        else:
            heads = [*HEADS[:2], *(f"{method}: {what}" for method in able for what in HEADS[2:4])]
            blocks.append(Gallery(title, rows, heads, keys))
    if models:
        last = list(models.values())[-1]
        blocks += [_of_pool(last, domain, precision, step) for domain in unlabelled.values()]
    lead = "Spread evenly from the worst image to the best, by the mIoU over the classes that an image shows."
    return Section("images", "Images", [*blocks, *without], lead if any(isinstance(b, Gallery) for b in blocks) else "")


def _row(
    seen: SplitEvaluation, stem: str, models: Mapping[str, UniversalSegmenter], precision: Precision, step: Step
) -> Row:
    """An image with its ground truth and what each of the methods makes of it."""
    domain, pictures, told, error = seen.domain, list[Picture](), list[str](), 0.0
    classes: Sequence[str] = ()
    for method, model in models.items():
        shown = show(model, domain, stem, precision)
        assert shown.truth is not None
        if not pictures:
            labelled = shown.truth < NOT_LABELLED
            hatch = hatched(domain.space.colourise(shown.truth), ~labelled)
            pictures += [
                picture(shown.image, f"Input of {stem}", "", WIDTH),
                picture(hatch, f"Ground truth of {stem}", "", WIDTH, exact=True),
            ]
            classes = [domain.space.names[c] for c in np.unique(shown.truth[labelled])]
        of = f"of {stem}" if len(models) == 1 else f"of {stem} by {method}"
        wrong, picture_of_it = _error(shown, of)
        pictures += [_prediction(domain.space, shown, of), picture_of_it]
        pictures += [_uncertainty(shown, of)] if len(models) == 1 else []
        told.append(f"mIoU {percent(shown.miou)}" if len(models) == 1 else f"{method} {percent(shown.miou)}")
        error = wrong  # of the method that was named last
        step(1)
    return Row(f"{stem}: {', '.join(told)}", pictures, classes, error)


def _error(shown: Shown, of: str) -> tuple[float, Picture]:
    """Which part of the labelled pixels is wrong, and where."""
    assert shown.truth is not None
    labelled = shown.truth < NOT_LABELLED
    missed = labelled & (shown.prediction != shown.truth)
    grey = cv2.cvtColor(shown.image, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, 2)
    error = (grey // 2 + 100).astype(np.uint8)
    error[missed] = WRONG
    part = float(missed[labelled].mean()) if labelled.any() else 0.0
    told = f"{percent(part)} wrong"
    return part, picture(hatched(error, ~labelled), f"Errors {of}: {told}, of the labelled pixels", told, WIDTH)


def _of_pool(model: UniversalSegmenter, domain: Domain, precision: Precision, step: Step) -> Gallery:
    """What can be shown without a ground truth."""
    stems = domain.unlabelled
    rows = []
    for stem in spread(stems, FEW):
        shown = show(model, domain, stem, precision)
        image = picture(shown.image, f"Input of {stem}", "", WIDTH)
        own = [image, _prediction(domain.space, shown, f"of {stem}"), _uncertainty(shown, f"of {stem}")]
        rows.append(Row(stem, own))
        step(1)
    title = f"{domain.name}: of {count(len(stems), 'image')} without labels"
    return Gallery(title, rows, MASKLESS, [*legend(domain.space), *_scale()], ENTROPY)


def _scale() -> list[Key]:
    return [Key(f"uncertainty: {word}", colour=css(_viridis(np.array([[v]]))[0, 0])) for word, v in ENDS]


def _prediction(space: LabelSpace, shown: Shown, of: str) -> Picture:
    top = np.bincount(shown.prediction.ravel(), minlength=space.num_classes).argsort()[::-1][:3]
    names = ", ".join(space.names[c] for c in top)
    return picture(space.colourise(shown.prediction), f"Prediction {of}: mostly {names}", "", WIDTH, exact=True)


def _uncertainty(shown: Shown, of: str) -> Picture:
    pixels = _viridis((255 * shown.uncertainty.clip(0, 1)).astype(np.uint8))
    return picture(pixels, f"Uncertainty {of}", f"{percent(float(shown.uncertainty.mean()))} on average", WIDTH)


def _viridis(values: np.ndarray) -> np.ndarray:
    """(H,W) uint8 as colours (H,W,3) that a colour-blind person, and a grey print, can tell apart."""
    return cv2.cvtColor(cv2.applyColorMap(values.astype(np.uint8), cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
