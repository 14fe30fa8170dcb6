"""Questions and answers as a folder of PNGs, for people with any painting tool. See docs/formats.md, "The ledger".

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from fewmask.annotation.facts import Question
from fewmask.annotation.inbox import Import, Inbox
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.tasks import ASKED, by_image, png, tasks
from fewmask.data.domain import Domain
from fewmask.data.pictures import write_mask
from fewmask.data.reading import read_mask
from fewmask.files import write_json, write_text
from fewmask.labels import NOT_LABELLED, Mask
from fewmask.paths import below

LABELS, QUESTIONS, ANNOTATOR = "labels", "questions.json", "annotator.txt"


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
    questions = ledger.questions(number, open_only=True, annotator=annotator)
    for name, stem in by_image(ledger.questions()).keys() - by_image(questions).keys():
        png(below(folder, name) / ASKED, stem).unlink(missing_ok=True)
    for domain, asked in tasks(ledger, domains, questions):
        root = below(folder, domain.name)
        domain.space.write_yaml(root / "classes.yaml")
        for task in asked:
            task.write_pictures(root)
            path = png(root / LABELS, task.stem)
            if not path.exists():
                write_mask(path, np.full(task.size, NOT_LABELLED, dtype=np.uint8), domain.space)
    if annotator is not None:
        write_text(folder / ANNOTATOR, f"{annotator}\n")
    write_json(folder / QUESTIONS, [_plain(q, domains[q.domain]) for q in questions])
    return questions


def read_answers(ledger: Ledger, domains: Mapping[str, Domain], path: Path, annotator: str) -> Import:
    """Take the painted masks of a folder as this annotator's answers, all or, where something is wrong, none.

    Only pixels of regions that were asked about count, and 254 stays not labelled. What the ledger has already is not
    added again; where a mask was painted over since, the new answer counts. Raises one ValueError that lists every
    problem of every file.
    """
    inbox = Inbox(ledger, domains, "folder")
    for root in _folders(inbox, path):
        with inbox.problems():
            domain = inbox.domain(root.name, root)
            for file, stem in _masks(inbox, root / LABELS):
                with inbox.problems():
                    inbox.size(domain, stem, file)
                    inbox.take(domain, stem, _painted(domain, file), annotator, file)
    return inbox.save(f"{path}: no masks in <domain>/{LABELS}/<stem>.png; give the folder that was painted in")


def written_for(folder: Path) -> str | None:
    """The annotator whom a folder of questions was written for; None where it was for anybody."""
    path = folder / ANNOTATOR
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def _painted(domain: Domain, file: Path) -> Mask:
    """What a mask (H,W) says, in contract values. Raises ValueError for ids that are not to be painted."""
    raw = read_mask(file)
    if raw.dtype == np.uint8 and raw.ndim == 2 and (unknown := domain.space.unknown_ids(raw)):
        ids = ", ".join(f"{i} ({n} pixels)" for i, n in unknown.items())
        known = ", ".join(f"{i} {domain.space.names[k]}" for i, k in sorted(domain.space.raw_ids.items()))
        raise ValueError(f"{file}: no classes of {domain.name}: {ids}; paint {known}, or void, as classes.yaml says")
    return domain.space.encode(raw, file)


def _folders(inbox: Inbox, path: Path) -> list[Path]:
    with inbox.problems():
        if not path.is_dir():
            raise ValueError(f"{path}: no such folder; give the one that was painted in")
        return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    return []


def _masks(inbox: Inbox, labels: Path) -> Iterator[tuple[Path, str]]:
    """Every mask in a folder and its subfolders with its image's stem; what is called otherwise is a problem."""
    for file in sorted(labels.rglob("*")):
        inner = file.relative_to(labels)
        if (file.is_dir() and not file.is_symlink()) or any(part.startswith(".") for part in inner.parts):
            continue
        with inbox.problems():
            if file.is_dir():
                raise ValueError(f"{file}: a link to a folder, which is not followed; put the folder itself there")
            if file.suffix != ".png":
                raise ValueError(f"{file}: not a PNG by its name; save masks as 8-bit PNG, or move it away")
            yield file, inner.as_posix().removesuffix(".png")


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
