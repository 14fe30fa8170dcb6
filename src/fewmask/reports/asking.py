"""What was asked, who answered, and what it took.

Shapes: H×W pixels of an image · h×w pixels of a region's box.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from fewmask.annotation.facts import Answer, Question
from fewmask.annotation.ledger import Ledger
from fewmask.data.domain import Domain
from fewmask.document.charts import columns
from fewmask.document.html import picture
from fewmask.document.model import Block, Chart, Charts, Gallery, Key, Note, Picture, Section, Table
from fewmask.labels import NOT_LABELLED, LabelSpace, Mask
from fewmask.reports.evaluation import spread
from fewmask.reports.facts import Facts
from fewmask.reports.headline import simulated
from fewmask.reports.words import count, css, duration, percent, whole
from fewmask.runs import RunFolder

THUMBNAILS = 16  # regions of a round
IN_ALL = 144
SIDE = 128  # pixels of a thumbnail
CONTEXT = 2.5  # times the region: how much of the image around it is shown


def budget(facts: Facts) -> Section:
    """What the labels cost, by round and by annotator."""
    title, name = "Budget", "budget"
    if not RunFolder(facts.folder).ledger.exists():
        why = "Budget and annotators: this run asked nobody; campaigns do."
        return Section(name, title, [Note(why, "missing")])
    with _ledger(facts) as ledger:
        asked, answers, decided = ledger.questions(), ledger.answers(), _decided(ledger)
        rounds = {number: ledger.progress(number) for number in ledger.rounds()}
    if not asked:
        return Section(name, title, [Note("Budget and annotators: no question was asked yet.", "missing")])
    head = ["round", "asked", "images", "answered", "skipped", "open", f"expected {facts.unit}", "pixels decided"]
    head += ["seconds", "clicks"]
    rows = []
    for number, p in rounds.items():
        images = len({(q.domain, q.stem) for q in asked if q.round == number})
        rows.append(
            [f"{number + 1}", whole(p.asked), whole(images), whole(p.answered), whole(p.skipped), whole(p.open),
             whole(p.cost), whole(p.pixels), *(whole(n) if n else "–" for n in (p.seconds, p.clicks))]
        )  # fmt: skip
    blocks: list[Block] = [Table(head, rows, caption="By round")]
    if answers:
        blocks.append(_people(answers))
        table = _classes(facts, asked, decided)
        blocks.append(Charts([_time(asked, answers), *([table] if table else [])]))
    if facts.campaign and facts.campaign.changes:
        lines = [[f"{c.round}", c.key, f"{c.before}", f"{c.now}", c.time] for c in facts.campaign.changes]
        head = ["from round", "setting", "before", "now", "when"]
        blocks.append(Table(head, lines, caption="Settings that changed between rounds"))
    if simulated(facts):
        blocks.append(
            Note("The annotator is simulated: seconds and clicks are what the cost model states, nobody worked them.")
        )
    return Section(name, title, blocks, _plan(facts, sum(p.cost for p in rounds.values())))


def _ledger(facts: Facts) -> Ledger:
    """The ledger, read by the campaign's rule."""
    assert facts.config.campaign is not None
    return Ledger(RunFolder(facts.folder).ledger, facts.config.campaign.answers)


def _decided(ledger: Ledger) -> dict[int, Mask]:
    """What the answers come to, by the question's id."""
    return {question.id: values for name in ledger.classes() for question, values in ledger.decisions(name)}


def _plan(facts: Facts, spent: float) -> str:
    settings = facts.config.campaign
    assert settings is not None
    planned, whole_pool = 0.0, True
    for ask, times in ((settings.first, 1), (settings.ask, settings.rounds - 1)):
        if ask is not None:
            planned += times * ask.budget.amount
            whole_pool &= ask.budget.per == "pool" and ask.budget.unit == facts.unit
    if not whole_pool or not planned:
        return f"{whole(spent)} {facts.unit} were asked for."
    return f"{whole(spent)} of the {whole(planned)} {facts.unit} planned for {settings.rounds} rounds were asked for."


def _people(answers: Sequence[Answer]) -> Table:
    names = list(dict.fromkeys(a.annotator for a in answers))
    rows = []
    for name in names:
        own = [a for a in answers if a.annotator == name]
        given = [a for a in own if a.kind == "answer"]
        seconds = [a.seconds for a in given if a.seconds is not None]
        middle = f"{statistics.median(seconds):.1f}" if seconds else "not measured"
        worked = [a.seconds for a in own if a.seconds is not None]
        total = duration(sum(worked)) if worked else "not measured"
        skipped, back = (sum(a.kind == kind for a in own) for kind in ("skip", "retract"))
        rows.append([name, whole(len(given)), whole(skipped), whole(back), total, middle])
    head = ("annotator", "answers", "skips", "taken back", "time", "median seconds an answer")
    return Table(head, rows, caption="By annotator")


def _time(asked: Sequence[Question], answers: Sequence[Answer]) -> Chart:
    """Minutes a round, by annotator."""
    round_of = {q.id: q.round for q in asked}
    numbers = sorted(set(round_of.values()))
    names = list(dict.fromkeys(a.annotator for a in answers))
    minutes = {n: [0.0] * len(numbers) for n in names}
    for a in answers:
        minutes[a.annotator][numbers.index(round_of[a.question])] += (a.seconds or 0.0) / 60
    total = sum(map(sum, minutes.values()))
    took = duration(60 * total) if total else "Time that was not measured"
    words = f"{took} in {count(len(numbers), 'round')} by {count(len(names), 'annotator')}."
    labels = [f"round {n + 1}" for n in numbers]
    return columns("Annotators' time", labels, minutes, "minutes", description=words, caption=words)


def _classes(facts: Facts, asked: Sequence[Question], decided: Mapping[int, Mask]) -> Chart | None:
    """What the answers were, by round: the share of the decided pixels that each class has. For one domain."""
    if len(facts.config.domains) != 1 or facts.campaign is None or facts.campaign.result is None:
        return None
    (scores,) = facts.campaign.result.domains.values()
    names = list(scores.iou)
    round_of = {q.id: q.round for q in asked}
    numbers = sorted(set(round_of.values()))
    counts = np.zeros((len(numbers), 256))
    for question, mask in decided.items():
        counts[numbers.index(round_of[question])] += np.bincount(mask.ravel(), minlength=256)
    counts = counts[:, : len(names)]
    part = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    rows = [[name, *(percent(float(part[i, c])) for i in range(len(numbers)))] for c, name in enumerate(names)]
    order = np.argsort(-part.mean(0), kind="stable")
    shown, rest = order[:7], order[7:]
    values = {names[c]: part[:, c].tolist() for c in shown}
    values |= {"others": part[:, rest].sum(1).tolist()} if len(rest) else {}
    table = Table(("class", *(f"round {n + 1}" for n in numbers)), rows)
    top = ", ".join(names[c] for c in shown[:3])
    return columns(
        "What the answers were", [f"round {n + 1}" for n in numbers], values, "share of decided pixels", table=table,
        description=f"Share of the decided pixels by class and round; most are {top}.",
    )  # fmt: skip


# ── Thumbnails ───────────────────────────────────────────────────────────────────────────────────────────────────────


def asked_regions(facts: Facts, domains: Mapping[str, Domain], without: Sequence[Note]) -> Section:
    """Some of the regions of each round, from the first to the last in the order of their scores."""
    title, name = "Asked regions", "asked"
    if not RunFolder(facts.folder).ledger.exists():
        return Section(name, title, [Note("Asked regions: this run asked nobody.", "missing")])
    with _ledger(facts) as ledger:
        asked, said = ledger.questions(), _decided(ledger)
    rounds = sorted({q.round for q in asked})
    if not rounds:
        return Section(name, title, [Note("Asked regions: no question was asked yet.", "missing")])
    each = min(THUMBNAILS, max(IN_ALL // len(rounds), 4))
    blocks: list[Block] = []
    for number in rounds:
        own = sorted((q for q in asked if q.round == number), key=lambda q: (-q.score, q.id))
        found, problems = [], list[str]()
        for question in spread(own, each):
            if question.domain not in domains:
                continue
            try:
                found.append(_thumbnail(question, said.get(question.id), domains[question.domain]))
            except ValueError as error:
                problems.append(str(error))
        if found:
            blocks.append(Gallery(f"Round {number + 1}: {len(found)} of {count(len(own), 'region')}", found))
        blocks += [Note(f"A region of round {number + 1}: {problem}", "missing") for problem in problems]
    lead = "Spread evenly from the best-scored question of a round to its last; what lies outside of the region is dim."
    return Section(name, title, [*blocks, *without], lead if any(isinstance(b, Gallery) for b in blocks) else "")


def _thumbnail(question: Question, answer: Mask | None, domain: Domain) -> Picture:
    image = domain.image(question.stem)
    y0, x0, y1, x1 = question.box
    if y1 > image.shape[0] or x1 > image.shape[1]:
        raise ValueError(f"{domain.source.where(question.stem)}: smaller than when it was asked about")
    inside = np.zeros(image.shape[:2], bool)
    question.window(inside)[:] = question.inside
    side = round(min(max(CONTEXT * max(y1 - y0, x1 - x0), 48), *image.shape[:2]))
    top = int(np.clip((y0 + y1) // 2 - side // 2, 0, image.shape[0] - side))
    left = int(np.clip((x0 + x1) // 2 - side // 2, 0, image.shape[1] - side))
    part = np.s_[top : top + side, left : left + side]
    pixels = cv2.resize(image[part], (SIDE, SIDE), interpolation=cv2.INTER_AREA if side > SIDE else cv2.INTER_CUBIC)
    region = cv2.resize(inside[part].astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    if inside.sum() == 1:  # a point is too small to be seen: a ring is drawn around it
        middle = ((x0 - left) * SIDE // side + SIDE // side // 2, (y0 - top) * SIDE // side + SIDE // side // 2)
        shown = cv2.circle(np.ascontiguousarray(pixels), middle, 7, (255, 255, 255), 2, cv2.LINE_AA)
        shown = cv2.circle(shown, middle, 9, (0, 0, 0), 1, cv2.LINE_AA)
    else:
        shown = np.where(region[..., None] > 0, pixels, pixels // 2 + 16)
        edges, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        shown = cv2.drawContours(np.ascontiguousarray(shown, np.uint8), edges, -1, (255, 255, 255), 1)
    words = _said(question, answer, domain.space)
    where = f"{domain.name}/{question.stem}" if domain.name else question.stem
    return picture(shown, f"{question.kind} region {question.region} of {where}. {words}", f"{where}: {words}")


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


def legend(space: LabelSpace) -> list[Key]:
    return [Key(name, colour=css(colour)) for name, colour in zip(space.names, space.colours, strict=True)]
