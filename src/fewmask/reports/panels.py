"""The section of images, from the worst to the best: input, ground truth, prediction, error and uncertainty. Several
methods have their predictions and errors side by side.

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
from fewmask.reports.evaluation import ImagePanel, SplitEvaluation, image_panel, spread
from fewmask.reports.words import css, percent

MASKLESS = ("input", "prediction", "uncertainty")
SHOWN = 12  # images of a domain
FEW = 3  # images of the pool
ENTROPY = "Uncertainty is the entropy of the probabilities, as a fraction of its largest possible value."
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
    """The section of images: evaluated images of domains with masks in the split, and images from the pool of the
    `unlabelled` domains.

    `models` are the networks by method. The last one is the evaluated one.
    """
    blocks: list[Block] = []
    for name, evaluation in evaluations.items():
        if not evaluation.ranked or not models:
            blocks.append(
                Note(f"Pictures of {name}: no pixel of its {evaluation.split} images is labelled.", "missing")
            )
            continue
        comparable = {
            n: m
            for n, m in models.items()
            if name in m.spaces and m.spaces[name].names == evaluation.domain.space.names
        }
        rows = [_row(evaluation, stem, comparable, precision, step) for stem, _ in spread(evaluation.ranked, SHOWN)]
        extra = [Key("not labelled or void", shape="hatch"), Key("error: wrong", colour=css(WRONG))]
        scale = f", {in_words(evaluation.domain.size)}" if evaluation.domain.size is not None else ""
        title = f"{name}: {len(rows)} of {count(len(evaluation.ranked), 'image')} of {evaluation.split}{scale}"
        keys = [*legend(evaluation.domain.space), *extra]
        if len(comparable) == 1:
            blocks.append(Gallery(title, rows, HEADS, [*keys, *_scale()], ENTROPY))
        else:
            heads = [*HEADS[:2], *(f"{method}: {head}" for method in comparable for head in HEADS[2:4])]
            blocks.append(Gallery(title, rows, heads, keys))
    if models:
        last = list(models.values())[-1]
        blocks += [_of_pool(last, domain, precision, step) for domain in unlabelled.values()]
    lead = "The images are evenly spread from the worst to the best, by the mIoU over the classes that an image shows."
    return Section("images", "Images", [*blocks, *without], lead if any(isinstance(b, Gallery) for b in blocks) else "")


def _row(
    evaluation: SplitEvaluation, stem: str, models: Mapping[str, UniversalSegmenter], precision: Precision, step: Step
) -> Row:
    """An image with its ground truth, and the prediction and error of each method."""
    domain, pictures, scores, error = evaluation.domain, list[Picture](), list[str](), 0.0
    classes: Sequence[str] = ()
    for method, model in models.items():
        panel = image_panel(model, domain, stem, precision)
        assert panel.truth is not None
        if not pictures:
            labelled = panel.truth < NOT_LABELLED
            hatch = hatched(domain.space.colourise(panel.truth), ~labelled)
            pictures += [
                picture(panel.image, f"Input of {stem}", "", WIDTH),
                picture(hatch, f"Ground truth of {stem}", "", WIDTH, exact=True),
            ]
            classes = [domain.space.names[c] for c in np.unique(panel.truth[labelled])]
        suffix = f"of {stem}" if len(models) == 1 else f"of {stem} by {method}"
        error_share, error_picture = _error(panel, suffix)
        pictures += [_prediction(domain.space, panel, suffix), error_picture]
        pictures += [_uncertainty(panel, suffix)] if len(models) == 1 else []
        scores.append(f"mIoU {percent(panel.miou)}" if len(models) == 1 else f"{method} {percent(panel.miou)}")
        error = error_share  # of the last method
        step(1)
    return Row(f"{stem}: {', '.join(scores)}", pictures, classes, error)


def _error(panel: ImagePanel, suffix: str) -> tuple[float, Picture]:
    """The fraction of the labelled pixels that is wrong, and a picture of these pixels."""
    assert panel.truth is not None
    labelled = panel.truth < NOT_LABELLED
    missed = labelled & (panel.prediction != panel.truth)
    grey = cv2.cvtColor(panel.image, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, 2)
    error = (grey // 2 + 100).astype(np.uint8)
    error[missed] = WRONG
    part = float(missed[labelled].mean()) if labelled.any() else 0.0
    summary = f"{percent(part)} wrong"
    return part, picture(
        hatched(error, ~labelled), f"Errors {suffix}: {summary}, of the labelled pixels", summary, WIDTH
    )


def _of_pool(model: UniversalSegmenter, domain: Domain, precision: Precision, step: Step) -> Gallery:
    """Images of the pool, without ground truth and error."""
    stems = domain.unlabelled
    rows = []
    for stem in spread(stems, FEW):
        panel = image_panel(model, domain, stem, precision)
        image = picture(panel.image, f"Input of {stem}", "", WIDTH)
        pictures = [image, _prediction(domain.space, panel, f"of {stem}"), _uncertainty(panel, f"of {stem}")]
        rows.append(Row(stem, pictures))
        step(1)
    title = f"{domain.name}: of {count(len(stems), 'image')} without labels"
    return Gallery(title, rows, MASKLESS, [*legend(domain.space), *_scale()], ENTROPY)


def _scale() -> list[Key]:
    return [Key(f"uncertainty: {word}", colour=css(_viridis(np.array([[v]]))[0, 0])) for word, v in ENDS]


def _prediction(space: LabelSpace, panel: ImagePanel, suffix: str) -> Picture:
    top = np.bincount(panel.prediction.ravel(), minlength=space.num_classes).argsort()[::-1][:3]
    names = ", ".join(space.names[c] for c in top)
    return picture(space.colourise(panel.prediction), f"Prediction {suffix}: mostly {names}", "", WIDTH, exact=True)


def _uncertainty(panel: ImagePanel, suffix: str) -> Picture:
    pixels = _viridis((255 * panel.uncertainty.clip(0, 1)).astype(np.uint8))
    return picture(pixels, f"Uncertainty {suffix}", f"{percent(float(panel.uncertainty.mean()))} on average", WIDTH)


def _viridis(values: np.ndarray) -> np.ndarray:
    """(H,W) uint8 as viridis colours (H,W,3), which colour-blind people and grey prints can distinguish."""
    return cv2.cvtColor(cv2.applyColorMap(values.astype(np.uint8), cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
