"""The budget section: questions, answers, annotators, and the time that they took."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Answer, Question
from fewmask.document.charts import columns
from fewmask.document.model import Block, Chart, Charts, Note, Section, Table
from fewmask.labels import Mask
from fewmask.plurals import count, duration
from fewmask.reports.headline import simulated
from fewmask.reports.reported_run import ReportedRun
from fewmask.reports.words import percent, whole
from fewmask.runs import RunFolder


def budget(reported: ReportedRun) -> Section:
    """The cost of the labels, by round and by annotator."""
    title, name = "Budget", "budget"
    if not RunFolder(reported.folder).ledger.exists():
        why = "Budget and annotators: this run asked no questions; only campaigns ask."
        return Section(name, title, [Note(why, "missing")])
    with ledger_of(reported) as ledger:
        questions, answers, decided = ledger.questions(), ledger.answers(), decided_by_question(ledger)
        rounds = {number: ledger.progress(number) for number in ledger.rounds()}
    if not questions:
        return Section(name, title, [Note("Budget and annotators: no question was asked yet.", "missing")])
    head = ["round", "asked", "images", "answered", "skipped", "open", f"expected {reported.unit}", "pixels decided"]
    head += ["seconds", "clicks"]
    rows = []
    for number, p in rounds.items():
        images = len({(q.domain, q.stem) for q in questions if q.round == number})
        rows.append(
            [f"{number + 1}", whole(p.asked), whole(images), whole(p.answered), whole(p.skipped), whole(p.open),
             whole(p.cost), whole(p.pixels), *(whole(n) if n else "–" for n in (p.seconds, p.clicks))]
        )  # fmt: skip
    blocks: list[Block] = [Table(head, rows, caption="By round")]
    if answers:
        blocks.append(_people(answers))
        charts = [c for c in (_time(questions, answers), _classes(reported, questions, decided)) if c is not None]
        blocks += [Charts(charts)] if charts else []
    if reported.campaign and reported.campaign.changes:
        lines = [[f"{c.round}", c.key, f"{c.before}", f"{c.now}", c.time] for c in reported.campaign.changes]
        head = ["from round", "setting", "before", "now", "when"]
        blocks.append(Table(head, lines, caption="Settings that changed between rounds"))
    if simulated(reported):
        blocks.append(Note("The annotator is simulated: seconds and clicks come from the cost model, not from people."))
    return Section(name, title, blocks, _plan(reported, sum(p.cost for p in rounds.values())))


def ledger_of(reported: ReportedRun) -> Ledger:
    """The ledger, with the campaign's rule for deciding between answers."""
    assert reported.config.campaign is not None
    return Ledger(RunFolder(reported.folder).ledger, reported.config.campaign.answers)


def decided_by_question(ledger: Ledger) -> dict[int, Mask]:
    """The decided masks, by the question's id."""
    return {question.id: values for name in ledger.classes() for question, values in ledger.decisions(name)}


def _plan(reported: ReportedRun, spent: float) -> str:
    settings = reported.config.campaign
    assert settings is not None
    planned, whole_pool = 0.0, True
    for ask, times in ((settings.first, 1), (settings.ask, settings.rounds - 1)):
        if ask is not None:
            planned += times * ask.budget.amount
            whole_pool &= ask.budget.per == "pool" and ask.budget.unit == reported.unit
    if not whole_pool or not planned:
        return f"{whole(spent)} {reported.unit} were asked for."
    return (
        f"{whole(spent)} of the {whole(planned)} {reported.unit} planned for {settings.rounds} rounds were asked for."
    )


def _people(answers: Sequence[Answer]) -> Table:
    names = list(dict.fromkeys(a.annotator for a in answers))
    rows = []
    for name in names:
        entries = [a for a in answers if a.annotator == name]
        answered = [a for a in entries if a.kind == "answer"]
        seconds = [a.seconds for a in answered if a.seconds is not None]
        median = f"{statistics.median(seconds):.1f}" if seconds else "not measured"
        worked = [a.seconds for a in entries if a.seconds is not None]
        total = duration(sum(worked)) if worked else "not measured"
        skipped, retracted = (sum(a.kind == kind for a in entries) for kind in ("skip", "retract"))
        rows.append([name, whole(len(answered)), whole(skipped), whole(retracted), total, median])
    head = ("annotator", "answers", "skips", "taken back", "time", "median seconds an answer")
    return Table(head, rows, caption="By annotator")


def _time(questions: Sequence[Question], answers: Sequence[Answer]) -> Chart | None:
    """Minutes a round, by annotator; None if no time was measured, as with painting programs."""
    round_of = {q.id: q.round for q in questions}
    numbers = sorted(set(round_of.values()))
    names = list(dict.fromkeys(a.annotator for a in answers))
    minutes = {n: [0.0] * len(numbers) for n in names}
    for a in answers:
        minutes[a.annotator][numbers.index(round_of[a.question])] += (a.seconds or 0.0) / 60
    total = sum(map(sum, minutes.values()))
    if not total:
        return None
    words = f"{duration(60 * total)} of work in {count(len(numbers), 'round')} by {count(len(names), 'annotator')}."
    labels = [f"round {n + 1}" for n in numbers]
    return columns("Annotators' time", labels, minutes, "minutes", description=words, caption=words)


def _classes(reported: ReportedRun, questions: Sequence[Question], decided: Mapping[int, Mask]) -> Chart | None:
    """The share of each class in the decided pixels, by round. Only for a campaign with one domain."""
    if len(reported.config.domains) != 1 or reported.campaign is None or reported.campaign.result is None:
        return None
    (scores,) = reported.campaign.result.domains.values()
    names = list(scores.iou)
    round_of = {q.id: q.round for q in questions}
    numbers = sorted(set(round_of.values()))
    counts = np.zeros((len(numbers), 256))
    for question, mask in decided.items():
        counts[numbers.index(round_of[question])] += np.bincount(mask.ravel(), minlength=256)
    counts = counts[:, : len(names)]
    part = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    rows = [[name, *(percent(float(part[i, c])) for i in range(len(numbers)))] for c, name in enumerate(names)]
    order = np.argsort(-part.mean(0), kind="stable")
    largest, rest = order[:7], order[7:]
    values = {names[c]: part[:, c].tolist() for c in largest}
    values |= {"others": part[:, rest].sum(1).tolist()} if len(rest) else {}
    table = Table(("class", *(f"round {n + 1}" for n in numbers)), rows)
    top = ", ".join(names[c] for c in largest[:3])
    return columns(
        "Classes of the answers", [f"round {n + 1}" for n in numbers], values, "share of decided pixels", table=table,
        description=f"Share of the decided pixels by class and round; most are {top}.",
    )  # fmt: skip
