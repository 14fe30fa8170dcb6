"""`fewmask report`: folders of runs in, one HTML file out.

What needs no data comes from the folders of all runs. What looks into a network, or at images, is of one of them: the
first run of the method named last, which the others before it are there to be compared with.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from fewmask.config import Config
from fewmask.data.domain import Domain
from fewmask.document.html import render
from fewmask.document.model import Block, Note, Page, Section
from fewmask.engine.checkpoint import load_weights
from fewmask.engine.device import choose_device
from fewmask.engine.evaluation import Progress
from fewmask.engine.run import load_domains, load_model, versions
from fewmask.files import write_text
from fewmask.methods import build
from fewmask.methods.common.base import Method
from fewmask.models.universal import UniversalSegmenter
from fewmask.paths import AnyPath
from fewmask.reports.asking import budget, ledger_of
from fewmask.reports.differences import compared, differences, several, verdicts
from fewmask.reports.evaluation import SplitEvaluation, chosen, evaluate_split, spread
from fewmask.reports.headline import headline
from fewmask.reports.learning import learning, losses
from fewmask.reports.neighbours import PLACING, Views, neighbours
from fewmask.reports.panels import FEW, SHOWN, panels
from fewmask.reports.quality import calibration, classes, confusions
from fewmask.reports.regions import asked_regions, shown_regions
from fewmask.reports.reported_run import Group, ReportedRun, groups, read_runs
from fewmask.reports.space import sample_cells
from fewmask.runs import RunFolder
from fewmask.runs.reading import check_split

BESIDE = 3  # methods whose pictures stand beside each other
EMBEDDED = 40  # images of a domain that cells are drawn from
UNFINISHED = (
    "What needs a finished run: its network is saved, its summary.json is not. It is being written, or was stopped "
    "there; the same `fewmask train` goes on with it."
)


def report(
    folders: AnyPath | Sequence[AnyPath],
    out: AnyPath | None = None,
    *,
    images: int = 200,
    split: str = "val",
    device: str = "auto",
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Write a page about runs; returns where it is, how large, and what is missing on it.

    `out` is the first run's `report.html` by default. At most `images` images of `split` are looked at in a domain.
    Whoever looks at the test split so notes it in the run, as `fewmask evaluate` does. Raises ValueError for a folder
    that is no run, and for a split that does not exist.
    """
    check_split(split)
    runs = read_runs([Path(f) for f in ([folders] if isinstance(folders, str | os.PathLike) else folders)])
    out = Path(out) if out is not None else runs[0].folder / "report.html"
    found, place = groups(runs), choose_device(device)
    first = found[-1].runs[0]
    comparison = compared(runs) if len(found) > 1 or several(runs) else None
    seen = _look_into(found, images, split, place, progress)
    precision, step = first.config.train.precision, seen.step
    sections = [
        headline(runs, verdicts(comparison) if comparison is not None else ()),
        learning(runs),
        *([differences(comparison)] if comparison is not None else []),
        classes(first, seen.evaluations, seen.without),
        panels(seen.models, seen.evaluations, seen.unlabelled, [*seen.without, *seen.not_beside], precision, step),
        confusions(seen.evaluations, seen.without),
        calibration(seen.evaluations, seen.without),
        *neighbours(seen.views, seen.embedded, first.config.synonyms, seen.without, first.config.seed, step),
        budget(first),
        asked_regions(first, seen.domains, seen.no_data, place, step),
        losses(runs),
    ]
    sections = with_something(_once(sections))
    page = Page(_title(runs), _subtitle(runs, first), sections, _foot(runs, first, seen, split))
    write_text(out, render(page))
    step.finish()
    return {
        "report": str(out),
        "bytes": out.stat().st_size,
        "runs": [str(reported.folder) for reported in runs],
        "sections": [section.name for section in sections],
        "missing": page.missing,
    }


@dataclass
class _Seen:
    """What could be seen of the first run, and in words what could not."""

    step: _Counter
    models: dict[str, UniversalSegmenter] = field(default_factory=dict)
    """The network of each method that stands beside the one that is looked into, which is the last."""
    domains: dict[str, Domain] = field(default_factory=dict)
    evaluations: dict[str, SplitEvaluation] = field(default_factory=dict)
    unlabelled: dict[str, Domain] = field(default_factory=dict)
    """Domains without a mask in the split, but with images in the pool."""
    views: Views | None = None
    without: list[Note] = field(default_factory=list)
    no_data: list[Note] = field(default_factory=list)
    not_beside: list[Note] = field(default_factory=list)

    @property
    def embedded(self) -> dict[str, Domain]:
        return {name: seen.domain for name, seen in self.evaluations.items()}


def _look_into(found: Sequence[Group], images: int, split: str, device: torch.device, progress: Progress) -> _Seen:
    """The pass over the split of each domain, and the cells of the embeddings."""
    reported = found[-1].runs[0]
    seen = _Seen(_Counter(progress))
    try:
        seen.domains = load_domains(reported.config)
    except ValueError as error:
        seen.no_data = [Note(f"What needs the images, which cannot be read: {error}", "missing")]
        seen.without = list(seen.no_data)
        return seen
    if not reported.trained:
        seen.without = [Note("What needs a trained network: none is saved yet.", "missing")]
        return seen
    if reported.summary is None:
        seen.without = [Note(UNFINISHED, "missing")]
        return seen
    for group in found[-BESIDE:-1]:
        _load_beside(group, seen, device)
    model = load_model(reported.folder, device)
    seen.models[found[-1].name] = model
    stems = {name: chosen(domain, split, images) for name, domain in seen.domains.items()}
    pictures = sum(min(len(s), SHOWN) * len(seen.models) if s else FEW for s in stems.values())
    step = seen.step
    step.expect(sum(len(s) + min(len(s), EMBEDDED) for s in stems.values()) + pictures + 2 * PLACING + _asked(reported))
    for name, domain in seen.domains.items():
        if name not in reported.domains and _could_be_scored(domain):
            seen.without.append(Note(f"{name}: this run did not train its head.", "missing"))
        elif name not in model.spaces or model.spaces[name].names != domain.space.names:
            seen.without.append(Note(f"{name}: its classes are no longer those of the network.", "missing"))
        elif not stems[name]:
            seen.without.append(Note(_no_mask(domain, split), "missing"))
            seen.unlabelled |= {name: domain} if domain.unlabelled else {}
        else:
            try:
                seen.evaluations[name] = evaluate_split(
                    model, domain, split, stems[name], reported.config.train.precision, 0, step
                )
            except ValueError as error:
                seen.without.append(Note(f"{name}: {error}", "missing"))
    if split == "test":
        own = {name: s.scores | {"split": split, "images": len(s.stems)} for name, s in seen.evaluations.items()}
        RunFolder(reported.folder).record_evaluation(split, {"domains": own})
    if seen.evaluations:
        seen.views = _views(reported, model, seen, step)
    return seen


def _load_beside(group: Group, seen: _Seen, device: torch.device) -> None:
    """The network of a method that the last one is compared with."""
    one = group.runs[0]
    try:
        if not one.trained or one.summary is None:
            raise ValueError(f"{one.name} is not finished")
        seen.models[group.name] = load_model(one.folder, device)
    except ValueError as error:
        seen.not_beside.append(Note(f"Pictures of {group.name}: {error}.", "missing"))


def _asked(reported: ReportedRun) -> int:
    """How many asked regions will be shown."""
    if not RunFolder(reported.folder).ledger.exists():
        return 0
    with ledger_of(reported) as ledger:
        return sum(map(len, shown_regions(ledger.questions()).values()))


def _no_mask(domain: Domain, split: str) -> str:
    """That nothing can be scored in a split, and the option that gives scores."""
    what = {"val": "", "test": "", "train": ", of images that it learned from"}
    other = next((s for s in what if s != split and chosen(domain, s, 1)), None)
    fix = f"--split {other} gives scores{what[other]}" if other else "scores take masks in val or test"
    return f"{domain.name}: no image of its split {split} has a mask to compare with; {fix}."


def _could_be_scored(domain: Domain) -> bool:
    """A run scores whatever it trained; a domain without any such masks it may have trained nonetheless."""
    return any(chosen(domain, split, 1) for split in ("val", "test"))


class _Counter:
    """Adds up what parts of the work tell. All of it is done when the page is written, and not before."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.total, self.done = progress, 1, 0

    def expect(self, more: int) -> None:
        self.total += more

    def __call__(self, more: int) -> None:
        self.done = min(self.done + more, self.total - 1)
        self.progress(self.done, self.total)

    def finish(self) -> None:
        self.done = self.total
        self.progress(self.done, self.total)


def _views(reported: ReportedRun, model: UniversalSegmenter, seen: _Seen, step: Callable[[int], object]) -> Views:
    method = _method(reported.config, seen.domains)
    embedding = method is not None and method.trains_embedding
    name, before = _before(reported, seen, model)
    stems = {n: spread(s.stems, EMBEDDED) for n, s in seen.evaluations.items()}
    models = [*([before] if before is not None else []), model]
    cells = sample_cells(
        models, seen.embedded, stems, embedding, reported.config.seed, reported.config.train.precision, step
    )
    after = "after the alignment" if embedding else "after the training"
    if before is None:
        seen.without.append(Note(f"Where pixels lay before: {name}", "missing"))
    what = "Vectors of the embedding head E" if embedding else "Feature vectors, which the heads read,"
    return Views([*([name] if before is not None else []), after], cells, what)


def _method(config: Config, domains: dict[str, Domain]) -> Method | None:
    """The method, where it is content with the labels that the domains have without any answers."""
    try:
        return build(config.method, domains, config.train.steps)
    except ValueError:
        return None


def _before(reported: ReportedRun, seen: _Seen, model: UniversalSegmenter) -> tuple[str, UniversalSegmenter | None]:
    """An earlier state of the network and what to call it; or why there is none."""
    last = next(t for t in reversed(reported.trainings) if t.summary is not None)
    method = _method(last.config, seen.domains)
    phases = [p for p in method.phases(last.config.train.steps) if p.stop > p.start] if method else []
    if len(phases) > 1 and (weights := last.run.phase(phases[-2].name)).exists():
        name = "alignment" if phases[-1].name == "align" else f"phase {phases[-1].name}"
        return f"before the {name}, after step {phases[-2].stop:,}", _twin(model, last.config.seed, last.run, weights)
    if reported.rounds and last.number > 0:
        first = reported.trainings[0].run
        return "after round 1", _twin(model, last.config.seed, first, first.weights)
    settings = reported.config.model
    if settings.weights == "imagenet":
        return "the first weights were fetched by name, and nothing is fetched for a report.", None
    try:
        start = UniversalSegmenter(settings, model.spaces, last.config.seed)
    except (ValueError, OSError) as error:
        return f"the first weights cannot be read: {error}", None
    return "before the training", start.to(model.mean.device).eval()


def _twin(model: UniversalSegmenter, seed: int, run: RunFolder, weights: Path) -> UniversalSegmenter:
    """The network of the model's kind with these weights, which the run wrote."""
    twin = UniversalSegmenter(model.settings, model.spaces, seed)
    twin.load_state_dict(load_weights(weights, run.digest_of(weights)))
    return twin.to(model.mean.device).eval()


def _once(sections: Sequence[Section]) -> list[Section]:
    """What is missing for one reason everywhere is said once: where it is first missed in a section that shows
    something, or else with all that is left out."""
    told = {note.text: section.name for section in reversed(sections) if not section.empty for note in section.missing}
    found: list[Section] = []
    for section in sections:
        kept: list[Block] = []
        for block in section.blocks:
            if isinstance(block, Note) and told.get(block.text, section.name) != section.name:
                continue
            if block not in kept:
                kept.append(block)
        found.append(replace(section, blocks=kept))
    return found


def with_something(sections: Sequence[Section]) -> list[Section]:
    """The sections that show something. Why the others do not is told in one section at the end."""
    shown = [section for section in sections if not section.empty]
    empty = [section for section in sections if section.empty]
    if not empty:
        return shown
    lead = f"Left out, because there is nothing to show: {', '.join(section.title for section in empty)}."
    why = list(dict.fromkeys(block for section in empty for block in section.blocks if isinstance(block, Note)))
    return [*shown, Section("left-out", "What is not shown", why, lead)]


def _title(runs: Sequence[ReportedRun]) -> str:
    names = list(dict.fromkeys(reported.config.name for reported in runs))
    return names[0] if len(names) == 1 else f"{', '.join(names[:3])}{' …' if len(names) > 3 else ''}"


def _subtitle(runs: Sequence[ReportedRun], first: ReportedRun) -> str:
    methods = list(dict.fromkeys(reported.config.method.name for reported in runs))
    domains = list(dict.fromkeys(name for reported in runs for name in reported.domains))
    what = f"{', '.join(methods)} on {', '.join(domains)}"
    return (
        what if len(runs) == 1 else f"{len(runs)} runs of {what}. Classes, images, budget and embeddings: {first.name}."
    )


def _foot(runs: Sequence[ReportedRun], first: ReportedRun, seen: _Seen, split: str) -> list[str]:
    lines = []
    if seen.evaluations:
        images = ", ".join(f"{len(s.stems)} of {s.images_in_split} in {n}" for n, s in seen.evaluations.items())
        of = f" of {first.name}" if len(runs) > 1 else ""
        what = "Classes, pictures, confusion, calibration and embeddings"
        lines.append(f"{what}{of} are from a pass over images of the split {split}: {images}.")
    if first.summary:
        used = ", ".join(f"{k} {v}" for k, v in first.summary.versions.items())
        hardware = first.summary.hardware
        lines.append(f"Trained with {used}, on {hardware.name} ({hardware.device}).")
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines.append(f"Made by fewmask {versions()['fewmask']}, {now}, from {', '.join(str(f.folder) for f in runs)}.")
    return lines
