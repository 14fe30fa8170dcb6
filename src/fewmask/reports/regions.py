"""Pictures of what was asked: the region in its image, what the network guessed, and the answer.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
import torch

from fewmask.annotation.page.guesses import Predictor
from fewmask.annotation.questions import Question
from fewmask.data.domain import Domain
from fewmask.document.html import picture
from fewmask.document.model import Block, Gallery, Key, Note, Row, Section
from fewmask.engine.guess import predictor
from fewmask.labels import NOT_LABELLED, LabelSpace, Mask
from fewmask.plurals import count
from fewmask.reports.asking import decided_by_question, ledger_of
from fewmask.reports.colours import hatched, legend
from fewmask.reports.evaluation import spread
from fewmask.reports.reported_run import ReportedRun
from fewmask.runs import RunFolder

OF_ROUND = 12  # regions of a round
IN_ALL = 60
SIDE = 240  # pixels of a picture of a region
POINT = 12  # pixels: the radius of the ring around a point
CONTEXT = 2.5  # times the region: how much of the image around it is shown


# ── Regions ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def asked_regions(
    reported: ReportedRun,
    domains: Mapping[str, Domain],
    without: Sequence[Note],
    device: torch.device | str = "cpu",
    step: Callable[[int], object] = lambda done: None,
) -> Section:
    """Some of the regions of each round, from the first to the last in the order of their scores."""
    title, name = "Asked regions", "asked"
    if not RunFolder(reported.folder).ledger.exists():
        return Section(name, title, [Note("Asked regions: this run asked nobody.", "missing")])
    with ledger_of(reported) as ledger:
        asked, said = ledger.questions(), decided_by_question(ledger)
    if not asked:
        return Section(name, title, [Note("Asked regions: no question was asked yet.", "missing")])
    blocks: list[Block] = []
    for number, shown in shown_regions(asked).items():
        expects = _network_before(reported, number, device)
        rows, problems = list[Row](), list[str]()
        for question in shown:
            step(1)
            if question.domain not in domains:
                continue
            try:
                rows.append(_region(question, said.get(question.id), domains[question.domain], expects))
            except ValueError as error:
                problems.append(str(error))
        if rows:
            there = sum(q.round == number for q in asked)
            heads = ["asked", *(["guess"] if expects is not None else []), "answer"]
            keys = [key for n in domains if n in {q.domain for q in shown} for key in legend(domains[n].space)]
            several = f"Round {number + 1}: {len(rows)} of {count(there, 'region')}"
            keys.append(Key("not answered, or void", shape="hatch"))
            blocks.append(Gallery(several, rows, heads, keys, narrow=True))
        blocks += [Note(f"A region of round {number + 1}: {problem}", "missing") for problem in problems]
    lead = (
        "Spread evenly from the best-scored question of a round to its last; what lies outside of the region is dim. A "
        "guess is what the network that asked predicts."
    )
    return Section(name, title, [*blocks, *without], lead if any(isinstance(b, Gallery) for b in blocks) else "")


def shown_regions(asked: Sequence[Question]) -> dict[int, list[Question]]:
    """By round, the questions that are shown, the best-scored first."""
    rounds = sorted({q.round for q in asked})
    each = min(OF_ROUND, max(IN_ALL // max(len(rounds), 1), 4))
    ranked = {n: sorted((q for q in asked if q.round == n), key=lambda q: (-q.score, q.id)) for n in rounds}
    return {number: spread(own, each) for number, own in ranked.items()}


def _network_before(reported: ReportedRun, number: int, device: torch.device | str) -> Predictor | None:
    """The network that chose a round's questions; None of the first ones, which no network chose, and where it is no
    longer there."""
    if number == 0:
        return None
    return predictor(RunFolder(reported.folder).round(number - 1).folder, device, reported.config.train.precision)


def _region(question: Question, answer: Mask | None, domain: Domain, expects: Predictor | None) -> Row:
    image = domain.image(question.stem)
    _, _, y1, x1 = question.box
    if y1 > image.shape[0] or x1 > image.shape[1]:
        raise ValueError(f"{domain.source.where(question.stem)}: smaller than when it was asked about")
    where = f"{domain.name}/{question.stem}" if domain.name else question.stem
    words, of = _said(question, answer, domain.space), f"{question.kind} region {question.region} of {where}"
    inside = np.zeros(image.shape[:2], bool)
    question.window(inside)[:] = question.inside
    around = _around(question, image)
    shown = [picture(_outlined(image, inside, around), of, "")]
    if expects is not None:
        label, _ = expects.predict(domain.name, image)
        shown.append(picture(_painted(image, inside, label, domain.space, around), f"Guess for {of}"))
    given = np.full(image.shape[:2], NOT_LABELLED, np.uint8)
    if answer is not None:
        question.window(given)[question.inside] = answer[question.inside]
    shown.append(picture(_painted(image, inside, given, domain.space, around), f"Answer for {of}: {words}"))
    return Row(f"{where}: {words}", shown)


def _around(question: Question, image: np.ndarray) -> tuple[slice, slice]:
    """A square part of the image that shows the region with what lies around it."""
    y0, x0, y1, x1 = question.box
    side = round(min(max(CONTEXT * max(y1 - y0, x1 - x0), 48), *image.shape[:2]))
    top = int(np.clip((y0 + y1) // 2 - side // 2, 0, image.shape[0] - side))
    left = int(np.clip((x0 + x1) // 2 - side // 2, 0, image.shape[1] - side))
    return slice(top, top + side), slice(left, left + side)


def _enlarged(pixels: np.ndarray, smooth: bool) -> np.ndarray:
    """At the size of a picture; masks to the nearest pixel."""
    way = cv2.INTER_NEAREST if not smooth else cv2.INTER_AREA if pixels.shape[0] > SIDE else cv2.INTER_CUBIC
    return np.ascontiguousarray(cv2.resize(pixels, (SIDE, SIDE), interpolation=way))


def _outlined(image: np.ndarray, inside: np.ndarray, around: tuple[slice, slice]) -> np.ndarray:
    """The image with the region's edge, and dim outside of it."""
    pixels, region = _enlarged(image[around], True), _enlarged(inside[around].astype(np.uint8), False)
    if inside.sum() == 1:  # a point is too small to be seen: a ring is drawn around it
        middle = _middle(region)
        shown = cv2.circle(pixels, middle, POINT, (255, 255, 255), 2, cv2.LINE_AA)
        return cv2.circle(shown, middle, POINT + 2, (0, 0, 0), 1, cv2.LINE_AA)
    shown = np.where(region[..., None] > 0, pixels, pixels // 2 + 16).astype(np.uint8)
    edges, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(shown, edges, -1, (255, 255, 255), 2)


def _painted(
    image: np.ndarray, inside: np.ndarray, label: Mask, space: LabelSpace, around: tuple[slice, slice]
) -> np.ndarray:
    """The region in its classes' colours, on the dim image; a point as a disc."""
    pixels, region = _enlarged(image[around], True), _enlarged(inside[around].astype(np.uint8), False)
    own = _enlarged(label[around], False)
    if inside.sum() == 1:
        own = np.full_like(own, label[inside][0])
        region = cv2.circle(np.zeros_like(region), _middle(region), POINT, (1,), -1)
    colours = hatched(space.colourise(own), own >= NOT_LABELLED)
    return np.where(region[..., None] > 0, colours, pixels // 2 + 16).astype(np.uint8)


def _middle(region: np.ndarray) -> tuple[int, int]:
    """x, y of the middle of the pixels of a region."""
    y, x = np.nonzero(region)
    return round(float(x.mean())), round(float(y.mean()))


def _said(question: Question, answer: Mask | None, space: LabelSpace) -> str:
    """What the network guessed and what came back."""
    names = space.names
    guess = names[question.guess] if question.guess is not None and question.guess < len(names) else None
    given = "open"
    if answer is not None and (answer == NOT_LABELLED).all():
        given = "undecided"  # the annotators' votes end in ties
    elif answer is not None:
        values = answer[answer < NOT_LABELLED]
        values = values[values < len(names)]
        given = "void" if not len(values) else names[int(np.bincount(values).argmax())]
        if len(values) and len(np.unique(values)) > 1:
            share = float((values == np.bincount(values).argmax()).mean())
            given = f"{given} ({100 * share:.0f} %)"
    return f"{guess} → {given}" if guess else given
