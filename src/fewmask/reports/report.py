"""`fewmask report`: one HTML file about the runs in some folders.

Sections that need no data use the folders of all runs. Sections that need a network or images use one run: the first
run of the last method. The methods before it are those that it is compared with.
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
from fewmask.reports.evaluation import SplitEvaluation, choose_images, evaluate_split, spread
from fewmask.reports.headline import headline
from fewmask.reports.learning import learning, losses
from fewmask.reports.neighbours import PLACING, EmbeddingViews, neighbours
from fewmask.reports.panels import FEW, SHOWN, panels
from fewmask.reports.quality import calibration, classes, confusions
from fewmask.reports.regions import asked_regions, shown_regions
from fewmask.reports.reported_run import Group, ReportedRun, groups, read_runs
from fewmask.reports.space import sample_cells
from fewmask.runs import RunFolder
from fewmask.runs.reading import check_split

BESIDE = 3  # methods with pictures side by side
EMBEDDED = 40  # images of a domain from which cells are drawn
UNFINISHED = (
    "Sections that need a finished run: its network is saved, its summary.json is not. The run is in progress or was "
    "stopped; the same `fewmask train` command finishes it."
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
    """Write a page about runs. Returns its path, its size, and the reasons for missing parts.

    `out` is the first run's `report.html` by default. At most `images` images of `split` are evaluated in a domain. An
    evaluation on the test split is recorded in the run, as by `fewmask evaluate`. Raises ValueError for a folder that
    is no run, and for an unknown split.
    """
    check_split(split)
    runs = read_runs([Path(f) for f in ([folders] if isinstance(folders, str | os.PathLike) else folders)])
    out = Path(out) if out is not None else runs[0].folder / "report.html"
    methods, torch_device = groups(runs), choose_device(device)
    first = methods[-1].runs[0]
    comparison = compared(runs) if len(methods) > 1 or several(runs) else None
    inspection = _inspect(methods, images, split, torch_device, progress)
    precision, step = first.config.train.precision, inspection.step
    sections = [
        headline(runs, verdicts(comparison) if comparison is not None else ()),
        learning(runs),
        *([differences(comparison)] if comparison is not None else []),
        classes(first, inspection.evaluations, inspection.without),
        panels(
            inspection.models,
            inspection.evaluations,
            inspection.unlabelled,
            [*inspection.without, *inspection.not_beside],
            precision,
            step,
        ),
        confusions(inspection.evaluations, inspection.without),
        calibration(inspection.evaluations, inspection.without),
        *neighbours(
            inspection.views, inspection.embedded, first.config.synonyms, inspection.without, first.config.seed, step
        ),
        budget(first),
        asked_regions(first, inspection.domains, inspection.no_data, torch_device, step),
        losses(runs),
    ]
    sections = nonempty_sections(_without_repeats(sections))
    page = Page(_title(runs), _subtitle(runs, first), sections, _foot(runs, first, inspection, split))
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
class _Inspection:
    """The results of inspecting the first run's network and images, and notes on parts that are missing."""

    step: _Counter
    models: dict[str, UniversalSegmenter] = field(default_factory=dict)
    """The network of each method with pictures. The last one is the inspected one."""
    domains: dict[str, Domain] = field(default_factory=dict)
    evaluations: dict[str, SplitEvaluation] = field(default_factory=dict)
    unlabelled: dict[str, Domain] = field(default_factory=dict)
    """Domains without a mask in the split but with images in the pool."""
    views: EmbeddingViews | None = None
    without: list[Note] = field(default_factory=list)
    no_data: list[Note] = field(default_factory=list)
    not_beside: list[Note] = field(default_factory=list)

    @property
    def embedded(self) -> dict[str, Domain]:
        return {name: evaluation.domain for name, evaluation in self.evaluations.items()}


def _inspect(
    methods: Sequence[Group], images: int, split: str, device: torch.device, progress: Progress
) -> _Inspection:
    """Evaluate the split of each domain, and sample the cells of the embeddings."""
    reported = methods[-1].runs[0]
    inspection = _Inspection(_Counter(progress))
    try:
        inspection.domains = load_domains(reported.config)
    except ValueError as error:
        inspection.no_data = [Note(f"Sections that need the images, which cannot be read: {error}", "missing")]
        inspection.without = list(inspection.no_data)
        return inspection
    if not reported.trained:
        inspection.without = [Note("Sections that need a trained network: none is saved yet.", "missing")]
        return inspection
    if reported.summary is None:
        inspection.without = [Note(UNFINISHED, "missing")]
        return inspection
    for group in methods[-BESIDE:-1]:
        _load_beside(group, inspection, device)
    model = load_model(reported.folder, device)
    inspection.models[methods[-1].name] = model
    stems = {name: choose_images(domain, split, images) for name, domain in inspection.domains.items()}
    pictures = sum(min(len(s), SHOWN) * len(inspection.models) if s else FEW for s in stems.values())
    step = inspection.step
    step.expect(
        sum(len(s) + min(len(s), EMBEDDED) for s in stems.values()) + pictures + 2 * PLACING + _region_count(reported)
    )
    for name, domain in inspection.domains.items():
        if name not in reported.domains and _could_be_scored(domain):
            inspection.without.append(Note(f"{name}: this run did not train its head.", "missing"))
        elif name not in model.spaces or model.spaces[name].names != domain.space.names:
            inspection.without.append(Note(f"{name}: its classes differ from those of the network.", "missing"))
        elif not stems[name]:
            inspection.without.append(Note(_no_mask(domain, split), "missing"))
            inspection.unlabelled |= {name: domain} if domain.unlabelled else {}
        else:
            try:
                inspection.evaluations[name] = evaluate_split(
                    model, domain, split, stems[name], reported.config.train.precision, 0, step
                )
            except ValueError as error:
                inspection.without.append(Note(f"{name}: {error}", "missing"))
    if split == "test":
        scores = {
            name: s.scores | {"split": split, "images": len(s.stems)} for name, s in inspection.evaluations.items()
        }
        RunFolder(reported.folder).record_evaluation(split, {"domains": scores})
    if inspection.evaluations:
        inspection.views = _views(reported, model, inspection, step)
    return inspection


def _load_beside(group: Group, inspection: _Inspection, device: torch.device) -> None:
    """Load the network of a method that the last method is compared with."""
    first = group.runs[0]
    try:
        if not first.trained or first.summary is None:
            raise ValueError(f"{first.name} is not finished")
        inspection.models[group.name] = load_model(first.folder, device)
    except ValueError as error:
        inspection.not_beside.append(Note(f"Pictures of {group.name}: {error}.", "missing"))


def _region_count(reported: ReportedRun) -> int:
    """The number of asked regions that the page will show."""
    if not RunFolder(reported.folder).ledger.exists():
        return 0
    with ledger_of(reported) as ledger:
        return sum(map(len, shown_regions(ledger.questions()).values()))


def _no_mask(domain: Domain, split: str) -> str:
    """A message that a split has no masks to score, with the option that gives scores."""
    remarks = {"val": "", "test": "", "train": ", on images that the network learned from"}
    other = next((s for s in remarks if s != split and choose_images(domain, s, 1)), None)
    fix = f"--split {other} gives scores{remarks[other]}" if other else "scores need masks in val or test"
    return f"{domain.name}: no image of its split {split} has a mask; {fix}."


def _could_be_scored(domain: Domain) -> bool:
    """Whether val or test has a mask. A run scores every trained domain with such a mask."""
    return any(choose_images(domain, split, 1) for split in ("val", "test"))


class _Counter:
    """Adds up the progress of all parts of the work. The work is complete only after the page is written."""

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


def _views(
    reported: ReportedRun, model: UniversalSegmenter, inspection: _Inspection, step: Callable[[int], object]
) -> EmbeddingViews:
    method = _method(reported.config, inspection.domains)
    embedding = method is not None and method.trains_embedding
    name, before = _before(reported, inspection, model)
    stems = {n: spread(s.stems, EMBEDDED) for n, s in inspection.evaluations.items()}
    models = [*([before] if before is not None else []), model]
    cells = sample_cells(
        models, inspection.embedded, stems, embedding, reported.config.seed, reported.config.train.precision, step
    )
    after = "after the alignment" if embedding else "after the training"
    if before is None:
        inspection.without.append(Note(f"The embeddings before the training: {name}", "missing"))
    description = "Vectors of the embedding head E" if embedding else "Feature vectors, the input of the heads,"
    return EmbeddingViews([*([name] if before is not None else []), after], cells, description)


def _method(config: Config, domains: dict[str, Domain]) -> Method | None:
    """The method, or None if it needs more labels than the domains have without answers."""
    try:
        return build(config.method, domains, config.train.steps)
    except ValueError:
        return None


def _before(
    reported: ReportedRun, inspection: _Inspection, model: UniversalSegmenter
) -> tuple[str, UniversalSegmenter | None]:
    """The name of an earlier state of the network, and its network; or the reason why there is none, and None."""
    last = next(t for t in reversed(reported.trainings) if t.summary is not None)
    method = _method(last.config, inspection.domains)
    phases = [p for p in method.phases(last.config.train.steps) if p.stop > p.start] if method else []
    if len(phases) > 1 and (weights := last.run.phase(phases[-2].name)).exists():
        name = "alignment" if phases[-1].name == "align" else f"phase {phases[-1].name}"
        return f"before the {name}, after step {phases[-2].stop:,}", _twin(model, last.config.seed, last.run, weights)
    if reported.rounds and last.number > 0:
        first = reported.trainings[0].run
        return "after round 1", _twin(model, last.config.seed, first, first.weights)
    settings = reported.config.model
    if settings.weights == "imagenet":
        return "the initial weights were downloaded, and a report downloads nothing.", None
    try:
        start = UniversalSegmenter(settings, model.spaces, last.config.seed, model.inputs)
    except (ValueError, OSError) as error:
        return f"the initial weights cannot be read: {error}", None
    return "before the training", start.to(model.mean.device).eval()


def _twin(model: UniversalSegmenter, seed: int, run: RunFolder, weights: Path) -> UniversalSegmenter:
    """A network with the settings of the model and these weights, which the run wrote."""
    twin = UniversalSegmenter(model.settings, model.spaces, seed, model.inputs)
    twin.load_state_dict(load_weights(weights, run.digest_of(weights)))
    return twin.to(model.mean.device).eval()


def _without_repeats(sections: Sequence[Section]) -> list[Section]:
    """The sections without repeated reasons for missing parts. Each reason stays in the first section with content, or
    else with the sections that are left out."""
    first_sections = {
        note.text: section.name for section in reversed(sections) if not section.empty for note in section.missing
    }
    cleaned: list[Section] = []
    for section in sections:
        kept: list[Block] = []
        for block in section.blocks:
            if isinstance(block, Note) and first_sections.get(block.text, section.name) != section.name:
                continue
            if block not in kept:
                kept.append(block)
        cleaned.append(replace(section, blocks=kept))
    return cleaned


def nonempty_sections(sections: Sequence[Section]) -> list[Section]:
    """The sections with content. One section at the end gives the reasons for the empty ones."""
    nonempty = [section for section in sections if not section.empty]
    empty = [section for section in sections if section.empty]
    if not empty:
        return nonempty
    lead = f"Sections without content: {', '.join(section.title for section in empty)}."
    why = list(dict.fromkeys(block for section in empty for block in section.blocks if isinstance(block, Note)))
    return [*nonempty, Section("left-out", "What is not shown", why, lead)]


def _title(runs: Sequence[ReportedRun]) -> str:
    names = list(dict.fromkeys(reported.config.name for reported in runs))
    return names[0] if len(names) == 1 else f"{', '.join(names[:3])}{' …' if len(names) > 3 else ''}"


def _subtitle(runs: Sequence[ReportedRun], first: ReportedRun) -> str:
    methods = list(dict.fromkeys(reported.config.method.name for reported in runs))
    domains = list(dict.fromkeys(name for reported in runs for name in reported.domains))
    content = f"{', '.join(methods)} on {', '.join(domains)}"
    return (
        content
        if len(runs) == 1
        else f"{len(runs)} runs of {content}. Classes, images, budget and embeddings: {first.name}."
    )


def _foot(runs: Sequence[ReportedRun], first: ReportedRun, inspection: _Inspection, split: str) -> list[str]:
    lines = []
    if inspection.evaluations:
        images = ", ".join(f"{len(s.stems)} of {s.images_in_split} in {n}" for n, s in inspection.evaluations.items())
        suffix = f" of {first.name}" if len(runs) > 1 else ""
        content = "Classes, pictures, confusion, calibration and embeddings"
        lines.append(f"{content}{suffix} are from a pass over images of the split {split}: {images}.")
    if first.summary:
        used = ", ".join(f"{k} {v}" for k, v in first.summary.versions.items())
        hardware = first.summary.hardware
        lines.append(f"Trained with {used}, on {hardware.name} ({hardware.device}).")
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines.append(f"Made by fewmask {versions()['fewmask']}, {now}, from {', '.join(str(f.folder) for f in runs)}.")
    return lines
