"""A run with open questions for the labelling page, without any training; as a program it serves one.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from fewmask.acquisition.regions import parse_regions
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.page.features import Features
from fewmask.annotation.page.guesses import Predictor
from fewmask.annotation.page.head import Head
from fewmask.annotation.page.learning import Learner
from fewmask.annotation.page.server import serve
from fewmask.annotation.page.service import Run
from fewmask.annotation.page.smart_select import ByFeatures
from fewmask.annotation.questions import Question
from fewmask.config import AnswerSettings, ScenesDomain
from fewmask.data import scenes
from fewmask.data.domain import Domain
from fewmask.labels import LabelSpace, Mask

PER_IMAGE = 3


def streets(images: int = 3, classes: int | None = None) -> Domain:
    """Procedural streets whose first class has a name that is markup; with as many classes as that, nearly all of which
    are nowhere."""
    domain = scenes.domain("streets", ScenesDomain(layout="scenes", kind="streets", train=images, val=1, test=1))
    space = domain.space
    names = ("<img src=x onerror=alert(1)>", *space.names[1:])
    colours = space.colours
    if classes is not None:
        names += tuple(f"thing {i}" for i in range(len(names), classes))
        colours = tuple((i % 7 * 40, i % 5 * 60, i % 3 * 120) for i in range(classes))
    ids = space.raw_ids if classes is None else {i: i for i in range(classes)}
    return replace(domain, space=LabelSpace(names, colours, ids, space.void_ids), labelled=())


def ask(folder: Path, domain: Domain, kind: str, per_image: int = PER_IMAGE) -> Run:
    """Ask about some regions of each image, in a new ledger in the folder, unless that is done."""
    questions = []
    for stem in domain.splits["train"]:
        image = domain.image(stem)
        regions = parse_regions(kind).tile(image)
        middle = regions.map[image.shape[0] // 2, 8 :: image.shape[1] // (per_image + 1)]
        for region in np.unique(middle)[:per_image].tolist():
            box = y0, x0, y1, x1 = regions.box(region)
            inside = regions.map[y0:y1, x0:x1] == region
            shape = None if inside.all() else inside
            questions.append(Question(domain.name, stem, kind, region, box, score=1.0, cost=2.0, shape=shape, guess=1))
    folder.mkdir(parents=True, exist_ok=True)
    with Ledger(folder / "ledger.sqlite") as ledger:
        ledger.add_images(domain, domain.splits["train"])
        ledger.ask(0, questions)
    return Run("streets <b>bold</b>", folder / "ledger.sqlite", {domain.name: domain}, "clicks", command="go on")


def expected(image: np.ndarray, classes: int) -> tuple[Mask, np.ndarray]:
    """What the stand-in for a network says of an image (H,W,3): a class by brightness, always three quarters sure."""
    brightness = image.mean(axis=2)
    return (brightness * classes / 256).astype(np.uint8), np.full(brightness.shape, 0.75, np.float32)


def predictor(domain: Domain) -> Predictor:
    return Predictor("brightness", lambda name, image: expected(image, domain.space.num_classes))


def selector() -> ByFeatures:
    """The stand-in for what a network makes of an image: the mean colour of 4×4 pixels."""

    def encode(_: str, image: np.ndarray) -> Features:
        height, width = image.shape[0] // 4 * 4, image.shape[1] // 4 * 4
        cells = image[:height, :width].reshape(height // 4, 4, width // 4, 4, 3).mean(axis=(1, 3))
        return Features.of(cells.astype(np.float32), 4)

    return ByFeatures(encode)


def learner(domain: Domain, selector: ByFeatures, trained: bool = False) -> Learner:
    """One that sees colours. It knows nothing of the classes yet or, if `trained`, that they go by brightness."""
    classes = domain.space.num_classes
    middles = np.arange(classes, dtype=np.float32) + 0.5
    # The logit −(b − m)² of a class with the middle m, without the b² that all classes share.
    weight, bias = np.tile(2 * middles * classes / (3 * 256), (3, 1)), -(middles**2)
    start = Head(weight * trained, bias * trained)
    return Learner(selector.features, lambda _: start)


if __name__ == "__main__":
    place, what, each = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 1
    asked_of = streets(classes=int(sys.argv[4]) if len(sys.argv) > 4 else None)
    about = replace(ask(place, asked_of, what), rule=AnswerSettings(each=each, decide="majority"))
    serve(place, about, predictor(asked_of), selector(), tell=lambda text: print(text, flush=True))
