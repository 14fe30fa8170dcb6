"""Writes questions and reads answers as a folder of PNGs, for any painting tool. See docs/formats.md, "The ledger".

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from fewmask.annotation.archive import is_stray
from fewmask.annotation.importer import FOREIGN, SYSTEM, AnswerImporter, Import, Mode
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.pixels import by_palette
from fewmask.annotation.questions import Question
from fewmask.annotation.tasks import ASKED, IMAGES, by_image, guarded, png, tasks
from fewmask.data.domain import Domain
from fewmask.data.pictures import write_mask
from fewmask.data.reading import read_mask
from fewmask.files import NOTES, Written, write_json, write_text
from fewmask.formats.texts import MAX_TEXT
from fewmask.labels import NOT_LABELLED, Mask
from fewmask.paths import below

LABELS, QUESTIONS, ANNOTATOR, CLASSES = "labels", "questions.json", "annotator.txt", "classes.yaml"


@guarded
def write_questions(
    ledger: Ledger,
    domains: Mapping[str, Domain],
    folder: Path,
    number: int | None = None,
    annotator: str | None = None,
) -> list[Question]:
    """Write the open questions of a round, or of all rounds, for people to paint. Returns the questions.

    An existing mask is kept, because somebody may have begun to paint it; so the folder can be written again. The
    pictures in `asked/` of images that have no open question any more are removed.
    """
    questions, written = ledger.questions(number, open_only=True, annotator=annotator), Written(folder, "ours")
    closed = by_image(ledger.questions()).keys() - by_image(questions).keys()
    written.remove(png(below(folder, name) / ASKED, stem).relative_to(folder).as_posix() for name, stem in closed)
    for name in {question.domain for question in ledger.questions(number)}:
        # People who have painted already find the folder for their masks.
        (below(folder, name) / LABELS).mkdir(parents=True, exist_ok=True)
    for domain, domain_tasks in tasks(ledger, domains, questions):
        root = below(folder, domain.name)
        domain.space.write_yaml(root / CLASSES)
        for task in domain_tasks:
            task.write_pictures(root)
            path = png(root / LABELS, task.stem)
            if not path.exists():
                write_mask(path, np.full(task.size, NOT_LABELLED, dtype=np.uint8), domain.space)
    if annotator is not None:
        write_text(folder / ANNOTATOR, f"{annotator}\n")
    write_json(folder / QUESTIONS, [_question_record(q, domains[q.domain]) for q in questions])
    return questions


def read_answers(
    ledger: Ledger, domains: Mapping[str, Domain], path: Path, annotator: str, mode: Mode = "open"
) -> Import:
    """Import all painted masks of a folder as this annotator's answers, or none if any is invalid.

    Only pixels of regions that were asked about count, and 254 stays not labelled. An answer that the ledger has is not
    added again. Content that is no answer is left out. Raises one ValueError that lists every problem of every file.
    """
    importer = AnswerImporter(ledger, domains, "folder", mode)
    with importer.problems():
        if not path.is_dir():
            raise ValueError(f"{path}: no such folder; give the one that was painted in")
        for file, name, inner in _mask_files(importer, path):
            with importer.problems():
                if (image_of_domain := importer.find_asked(name, inner)) is None:
                    importer.leave_out(FOREIGN, file.relative_to(path).as_posix())
                    continue
                domain, stem = image_of_domain
                importer.spend(math.prod(importer.size(domain, stem, file)), file)
                importer.add_answer(domain, stem, _painted(domain, file), annotator, file)
    return importer.save(f"{path}: no masks in <domain>/{LABELS}/<stem>.png; give the folder that was painted in")


def written_for(folder: Path) -> str | None:
    """The annotator for whom a folder of questions was written; None where it was written for anybody."""
    path = folder / ANNOTATOR
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def _painted(domain: Domain, file: Path) -> Mask:
    """The contract values (H,W) of a painted mask. Raises ValueError for ids that are not to be painted."""
    raw = read_mask(file)
    try:
        values = by_palette(raw, file.read_bytes(), domain.space)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if values is not None:
        return values
    if raw.dtype == np.uint8 and raw.ndim == 2 and (unknown := domain.space.unknown_ids(raw)):
        ids = ", ".join(f"{i} ({n} pixels)" for i, n in unknown.items())
        classes = ", ".join(f"{i} {domain.space.names[k]}" for i, k in sorted(domain.space.raw_ids.items()))
        raise ValueError(f"{file}: no classes of {domain.name}: {ids}; paint {classes}, or void, as classes.yaml says")
    return domain.space.encode(raw, file)


def _mask_files(importer: AnswerImporter, root: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield every mask below a folder with its domain's name and its image's stem.

    Masks lie in `<domain>/labels` at any depth. Files that fewmask wrote beside them, for any tool, are passed over.
    All other files are left out.
    """
    files, other_files = sorted(root.rglob("*")), list[Path]()
    for file in files:
        inner = file.relative_to(root)
        if file.is_dir() and not file.is_symlink():
            continue
        name, parts = inner.as_posix(), inner.parts
        place = next((n for n, part in enumerate(parts[:-1]) if part in importer.domains), None)
        inside = "" if place is None else parts[place + 1].casefold()
        if parts[-1] == NOTES and file.is_file():
            continue
        if is_stray(name):
            importer.leave_out(SYSTEM, name)
        elif file.is_dir():
            importer.leave_out("a link to a folder, which is not followed", name)
        elif place is not None and inside == LABELS and len(parts) > place + 2:
            if file.suffix.lower() == ".png":
                yield file, parts[place], "/".join(parts[place + 2 :])[: -len(file.suffix)]
            else:
                importer.leave_out("not a PNG by its name", name)
        elif parts[-1] not in (QUESTIONS, ANNOTATOR, CLASSES) and inside not in (IMAGES, ASKED):
            other_files.append(file)
    for file in _foreign(other_files, {file.parent for file in files if file.name == NOTES and file.is_file()}):
        importer.leave_out(
            f"not in <domain>/{LABELS} of a domain that was asked about", file.relative_to(root).as_posix()
        )


def _foreign(files: Sequence[Path], noted: Collection[Path]) -> Iterator[Path]:
    """The files that fewmask did not write, or that were changed since. `noted` are the folders with notes of
    writing."""
    own_files = set[Path]()
    for folder in noted:
        if (folder / NOTES).stat().st_size <= MAX_TEXT:
            own_files |= Written(folder).ours(file for file in files if file.is_relative_to(folder))
    return (file for file in files if file not in own_files)


def _question_record(question: Question, domain: Domain) -> dict[str, object]:
    return {
        "id": question.id,
        "round": question.round,
        "domain": question.domain,
        "stem": question.stem,
        "kind": question.kind,
        "region": question.region,
        "box": dict(zip(("y0", "x0", "y1", "x1"), question.box, strict=True)),
        "guess": None if question.guess is None else domain.space.names[question.guess],
    }
