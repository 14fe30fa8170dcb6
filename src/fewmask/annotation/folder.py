"""Questions and answers as a folder of PNGs, for people with any painting tool. See docs/formats.md, "The ledger".

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
    """Write the open questions of a round, or of all, for people to paint; returns them.

    A mask that is there already is left as it is, since somebody may have begun to paint it: writing again is safe.
    Pictures of where to paint that an earlier writing left are taken away from images that have no open question now.
    """
    questions, own = ledger.questions(number, open_only=True, annotator=annotator), Written(folder, "ours")
    closed = by_image(ledger.questions()).keys() - by_image(questions).keys()
    own.remove(png(below(folder, name) / ASKED, stem).relative_to(folder).as_posix() for name, stem in closed)
    for name in {question.domain for question in ledger.questions(number)}:
        # Who has painted already finds where to put it.
        (below(folder, name) / LABELS).mkdir(parents=True, exist_ok=True)
    for domain, asked in tasks(ledger, domains, questions):
        root = below(folder, domain.name)
        domain.space.write_yaml(root / CLASSES)
        for task in asked:
            task.write_pictures(root)
            path = png(root / LABELS, task.stem)
            if not path.exists():
                write_mask(path, np.full(task.size, NOT_LABELLED, dtype=np.uint8), domain.space)
    if annotator is not None:
        write_text(folder / ANNOTATOR, f"{annotator}\n")
    write_json(folder / QUESTIONS, [_plain(q, domains[q.domain]) for q in questions])
    return questions


def read_answers(
    ledger: Ledger, domains: Mapping[str, Domain], path: Path, annotator: str, mode: Mode = "open"
) -> Import:
    """Take the painted masks of a folder as this annotator's answers, all or, where something is wrong, none.

    Only pixels of regions that were asked about count, and 254 stays not labelled. What the ledger has already is not
    added again. What is no answer is left aside. Raises one ValueError that lists every problem of every file.
    """
    importer = AnswerImporter(ledger, domains, "folder", mode)
    with importer.problems():
        if not path.is_dir():
            raise ValueError(f"{path}: no such folder; give the one that was painted in")
        for file, name, inner in _masks(importer, path):
            with importer.problems():
                if (known := importer.find_asked(name, inner)) is None:
                    importer.set_aside(FOREIGN, file.relative_to(path).as_posix())
                    continue
                domain, stem = known
                importer.spend(math.prod(importer.size(domain, stem, file)), file)
                importer.add_answer(domain, stem, _painted(domain, file), annotator, file)
    return importer.save(f"{path}: no masks in <domain>/{LABELS}/<stem>.png; give the folder that was painted in")


def written_for(folder: Path) -> str | None:
    """The annotator whom a folder of questions was written for; None where it was for anybody."""
    path = folder / ANNOTATOR
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def _painted(domain: Domain, file: Path) -> Mask:
    """What a mask (H,W) says, in contract values. Raises ValueError for ids that are not to be painted."""
    raw = read_mask(file)
    try:
        painted = by_palette(raw, file.read_bytes(), domain.space)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if painted is not None:
        return painted
    if raw.dtype == np.uint8 and raw.ndim == 2 and (unknown := domain.space.unknown_ids(raw)):
        ids = ", ".join(f"{i} ({n} pixels)" for i, n in unknown.items())
        known = ", ".join(f"{i} {domain.space.names[k]}" for i, k in sorted(domain.space.raw_ids.items()))
        raise ValueError(f"{file}: no classes of {domain.name}: {ids}; paint {known}, or void, as classes.yaml says")
    return domain.space.encode(raw, file)


def _masks(importer: AnswerImporter, root: Path) -> Iterator[tuple[Path, str, str]]:
    """Every mask below a folder with its domain's name and its image's stem.

    Masks lie in `<domain>/labels`, wherever that lies. What fewmask wrote beside them, for whichever tool, is passed
    over; all else is left aside.
    """
    files, others = sorted(root.rglob("*")), list[Path]()
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
            importer.set_aside(SYSTEM, name)
        elif file.is_dir():
            importer.set_aside("a link to a folder, which is not followed", name)
        elif place is not None and inside == LABELS and len(parts) > place + 2:
            if file.suffix.lower() == ".png":
                yield file, parts[place], "/".join(parts[place + 2 :])[: -len(file.suffix)]
            else:
                importer.set_aside("not a PNG by its name", name)
        elif parts[-1] not in (QUESTIONS, ANNOTATOR, CLASSES) and inside not in (IMAGES, ASKED):
            others.append(file)
    for file in _foreign(others, {file.parent for file in files if file.name == NOTES and file.is_file()}):
        importer.set_aside(
            f"not in <domain>/{LABELS} of a domain that was asked about", file.relative_to(root).as_posix()
        )


def _foreign(files: Sequence[Path], noted: Collection[Path]) -> Iterator[Path]:
    """Files but those that fewmask wrote, as they are, below the folders in which it noted that."""
    ours = set[Path]()
    for folder in noted:
        if (folder / NOTES).stat().st_size <= MAX_TEXT:
            ours |= Written(folder).ours(file for file in files if file.is_relative_to(folder))
    return (file for file in files if file not in ours)


def _plain(question: Question, domain: Domain) -> dict[str, object]:
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
