"""Pictures of the asked regions: the region in its image, the guess of the network, and the answer.

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
from fewmask.formats.bands import as_rgb
from fewmask.labels import NOT_LABELLED, LabelSpace, Mask
from fewmask.plurals import count
from fewmask.reports.asking import decided_by_question, ledger_of
from fewmask.reports.colours import hatched, legend
from fewmask.reports.evaluation import spread
from fewmask.reports.reported_run import ReportedRun
from fewmask.runs import RunFolder

OF_ROUND = 12  # at most this many regions of a round
IN_ALL = 60  # about this many regions of all rounds
SIDE = 240  # pixels of a picture of a region
POINT = 12  # pixels: the radius of the ring around a point
CONTEXT = 2.5  # the side of the shown part of the image, as a multiple of the region's side


# ── Regions ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def asked_regions(
    reported: ReportedRun,
    domains: Mapping[str, Domain],
    without: Sequence[Note],
    device: torch.device | str = "cpu",
    step: Callable[[int], object] = lambda done: None,
) -> Section:
    """The section with some regions of each round, in the order of their scores."""
    title, name = "Asked regions", "asked"
    if not RunFolder(reported.folder).ledger.exists():
        return Section(name, title, [Note("Asked regions: this run asked no questions.", "missing")])
    with ledger_of(reported) as ledger:
        questions, decisions = ledger.questions(), decided_by_question(ledger)
    if not questions:
        return Section(name, title, [Note("Asked regions: no question was asked yet.", "missing")])
    blocks: list[Block] = []
    for number, chosen in shown_regions(questions).items():
        network = _network_before(reported, number, device)
        rows, problems = list[Row](), list[str]()
        for question in chosen:
            step(1)
            if question.domain not in domains:
                continue
            try:
                rows.append(_region(question, decisions.get(question.id), domains[question.domain], network))
            except ValueError as error:
                problems.append(str(error))
        if rows:
            total = sum(q.round == number for q in questions)
            heads = ["asked", *(["guess"] if network is not None else []), "answer"]
            keys = [key for n in domains if n in {q.domain for q in chosen} for key in legend(domains[n].space)]
            several = f"Round {number + 1}: {len(rows)} of {count(total, 'region')}"
            keys.append(Key("not answered, or void", shape="hatch"))
            blocks.append(Gallery(several, rows, heads, keys, narrow=True))
        blocks += [Note(f"A region of round {number + 1}: {problem}", "missing") for problem in problems]
    lead = (
        "The questions are evenly spread from the highest to the lowest score of a round. The image is dim outside of "
        "the region. The guess is the prediction of the network that chose the question."
    )
    return Section(name, title, [*blocks, *without], lead if any(isinstance(b, Gallery) for b in blocks) else "")


def shown_regions(questions: Sequence[Question]) -> dict[int, list[Question]]:
    """By round, the questions that the page shows, the highest score first."""
    rounds = sorted({q.round for q in questions})
    each = min(OF_ROUND, max(IN_ALL // max(len(rounds), 1), 4))
    ranked = {n: sorted((q for q in questions if q.round == n), key=lambda q: (-q.score, q.id)) for n in rounds}
    return {number: spread(ranking, each) for number, ranking in ranked.items()}


def _network_before(reported: ReportedRun, number: int, device: torch.device | str) -> Predictor | None:
    """The network that chose a round's questions; None for the first round, which no network chose, and for a network
    that is no longer on the disk."""
    if number == 0:
        return None
    return predictor(RunFolder(reported.folder).round(number - 1).folder, device, reported.config.train.precision)


def _region(question: Question, answer: Mask | None, domain: Domain, network: Predictor | None) -> Row:
    image = domain.image(question.stem)
    _, _, y1, x1 = question.box
    if y1 > image.shape[0] or x1 > image.shape[1]:
        raise ValueError(f"{domain.source.where(question.stem)}: smaller than at the time of the question")
    where = f"{domain.name}/{question.stem}" if domain.name else question.stem
    words, description = (
        _outcome(question, answer, domain.space),
        f"{question.kind} region {question.region} of {where}",
    )
    inside = np.zeros(image.shape[:2], bool)
    question.window(inside)[:] = question.inside
    around, rgb = _around(question, image), as_rgb(image)
    pictures = [picture(_outlined(rgb, inside, around), description, "")]
    if network is not None:
        label, _ = network.predict(domain.name, image)
        pictures.append(picture(_painted(rgb, inside, label, domain.space, around), f"Guess for {description}"))
    answered = np.full(image.shape[:2], NOT_LABELLED, np.uint8)
    if answer is not None:
        question.window(answered)[question.inside] = answer[question.inside]
    pictures.append(
        picture(_painted(rgb, inside, answered, domain.space, around), f"Answer for {description}: {words}")
    )
    return Row(f"{where}: {words}", pictures)


def _around(question: Question, image: np.ndarray) -> tuple[slice, slice]:
    """A square part of the image with the region and its surroundings."""
    y0, x0, y1, x1 = question.box
    side = round(min(max(CONTEXT * max(y1 - y0, x1 - x0), 48), *image.shape[:2]))
    top = int(np.clip((y0 + y1) // 2 - side // 2, 0, image.shape[0] - side))
    left = int(np.clip((x0 + x1) // 2 - side // 2, 0, image.shape[1] - side))
    return slice(top, top + side), slice(left, left + side)


def _enlarged(pixels: np.ndarray, smooth: bool) -> np.ndarray:
    """Resize pixels to the size of a picture; masks by nearest neighbour."""
    way = cv2.INTER_NEAREST if not smooth else cv2.INTER_AREA if pixels.shape[0] > SIDE else cv2.INTER_CUBIC
    return np.ascontiguousarray(cv2.resize(pixels, (SIDE, SIDE), interpolation=way))


def _outlined(image: np.ndarray, inside: np.ndarray, around: tuple[slice, slice]) -> np.ndarray:
    """The image with the edge of the region, dim outside of the region."""
    pixels, region = _enlarged(image[around], True), _enlarged(inside[around].astype(np.uint8), False)
    if inside.sum() == 1:  # a single pixel is too small to see, so a ring marks it
        middle = _middle(region)
        outlined = cv2.circle(pixels, middle, POINT, (255, 255, 255), 2, cv2.LINE_AA)
        return cv2.circle(outlined, middle, POINT + 2, (0, 0, 0), 1, cv2.LINE_AA)
    outlined = np.where(region[..., None] > 0, pixels, pixels // 2 + 16).astype(np.uint8)
    edges, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(outlined, edges, -1, (255, 255, 255), 2)


def _painted(
    image: np.ndarray, inside: np.ndarray, label: Mask, space: LabelSpace, around: tuple[slice, slice]
) -> np.ndarray:
    """The region in the colours of its classes, on the dim image. A point is drawn as a disc."""
    pixels, region = _enlarged(image[around], True), _enlarged(inside[around].astype(np.uint8), False)
    values = _enlarged(label[around], False)
    if inside.sum() == 1:
        values = np.full_like(values, label[inside][0])
        region = cv2.circle(np.zeros_like(region), _middle(region), POINT, (1,), -1)
    colours = hatched(space.colourise(values), values >= NOT_LABELLED)
    return np.where(region[..., None] > 0, colours, pixels // 2 + 16).astype(np.uint8)


def _middle(region: np.ndarray) -> tuple[int, int]:
    """The mean position (x, y) of the pixels of a region."""
    y, x = np.nonzero(region)
    return round(float(x.mean())), round(float(y.mean()))


def _outcome(question: Question, answer: Mask | None, space: LabelSpace) -> str:
    """The guess of the network and the answer, as `guess → answer`."""
    names = space.names
    guess = names[question.guess] if question.guess is not None and question.guess < len(names) else None
    result = "open"
    if answer is not None and (answer == NOT_LABELLED).all():
        result = "undecided"  # the votes of the annotators are tied
    elif answer is not None:
        values = answer[answer < NOT_LABELLED]
        values = values[values < len(names)]
        result = "void" if not len(values) else names[int(np.bincount(values).argmax())]
        if len(values) and len(np.unique(values)) > 1:
            share = float((values == np.bincount(values).argmax()).mean())
            result = f"{result} ({100 * share:.0f} %)"
    return f"{guess} → {result}" if guess else result
