"""Writes Label Studio's tasks, with guesses as brush predictions, and reads its JSON export. See docs/formats.md.

Shapes: H×W pixels of an image · h×w pixels of a region's box.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from fewmask.annotation.importer import FOREIGN, AnswerImporter, Import, Mode
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import A_YEAR, Question
from fewmask.annotation.tasks import ASKED, IMAGES, Task, guarded, label_colours, labels, tasks
from fewmask.data.domain import Domain
from fewmask.files import write_atomically, write_text
from fewmask.formats.rle import decode_brush, encode_brush
from fewmask.formats.texts import field, json_items
from fewmask.labels import LabelSpace, Mask
from fewmask.paths import below

LOCAL_FILES = "/data/local-files/?d="
"""The address below which Label Studio serves the files of its LOCAL_FILES_DOCUMENT_ROOT."""
BRUSH, IMAGE = "label", "image"
BYTE = 32
"""The number of pixels that are painted in the time that a byte of a run-length code takes."""
MODEL = "fewmask"
"""The model version of all predictions: Label Studio shows those of one version, the first that a project got."""


@guarded
def write_questions(
    ledger: Ledger,
    domains: Mapping[str, Domain],
    folder: Path,
    number: int | None = None,
    annotator: str | None = None,
    images_at: str = LOCAL_FILES,
) -> list[Question]:
    """Write the open questions of a round, or of all rounds, as Label Studio's tasks. Returns the questions.

    Each domain gets the pictures, `<domain>/config.xml` and `<domain>/tasks.json`, which make a project. `images_at` is
    the beginning of a picture's address, before its path in the folder.
    """
    questions = ledger.questions(number, open_only=True, annotator=annotator)
    for domain, domain_tasks in tasks(ledger, domains, questions):
        root = below(folder, domain.name)
        for task in domain_tasks:
            task.write_pictures(root)
        write_text(root / "config.xml", config(domain.space))
        records = (
            task_record(task, *(f"{images_at}{quote(path)}" for path in paths_of(task))) for task in domain_tasks
        )
        write_list(root / "tasks.json", records)
    return questions


def write_list(path: Path, items: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON list of objects one at a time. A failure leaves no part of the file."""

    def write(file: BinaryIO) -> None:
        before = "["
        for item in items:
            file.write(f"{before}\n{json.dumps(item, ensure_ascii=False, separators=(',', ':'))}".encode())
            before = ","
        file.write(b"\n]\n" if before == "," else b"[]\n")

    write_atomically(path, write)


def config(space: LabelSpace) -> str:
    """The labelling configuration for a domain's classes and void. Raises ValueError for a name that XML cannot hold.

    People paint on the picture with the marked regions. The task also has the plain picture, as `$image`.
    """
    rows = []
    for name, colour in zip(labels(space), label_colours(space), strict=True):
        if any(ord(c) < 32 for c in name) or name.startswith("$"):
            raise ValueError(f"class {name!r}: Label Studio cannot show this name; give the class another")
        rows.append(f'    <Label value={quoteattr(name)} background="#{bytes(colour).hex()}"/>')
    return "\n".join(
        [
            "<View>",
            '  <Header value="Paint the bright regions. What you leave stays not labelled."/>',
            f'  <Image name="{IMAGE}" value="$asked" zoom="true" zoomControl="true" rotateControl="false"/>',
            f'  <BrushLabels name="{BRUSH}" toName="{IMAGE}">',
            *rows,
            "  </BrushLabels>",
            "</View>\n",
        ]
    )


def brush_results(pieces: Iterable[tuple[str, str, np.ndarray]]) -> list[dict[str, Any]]:
    """Label Studio's results for (id, label, mask (H,W) bool), as its own brush makes them."""
    return [
        {
            "id": number,
            "type": "brushlabels",
            "from_name": BRUSH,
            "to_name": IMAGE,
            "original_width": mask.shape[1],
            "original_height": mask.shape[0],
            "image_rotation": 0,
            "value": {"format": "rle", "rle": encode_brush(mask.ravel()).tolist(), "brushlabels": [label]},
        }
        for number, label, mask in pieces
    ]


def paths_of(task: Task) -> tuple[str, str]:
    """The paths, in the folder of questions, of the marked picture that people paint on and of the plain one."""
    marked, image = (f"{task.domain.name}/{kind}/{task.stem}.png" for kind in (ASKED, IMAGES))
    return marked, image


def task_record(task: Task, marked: str, image: str) -> dict[str, Any]:
    """A task in Label Studio's import format, with the addresses of its two pictures."""
    data = {
        "asked": marked,
        "image": image,
        "domain": task.domain.name,
        "stem": task.stem,
        "questions": [question.id for question in task.questions],
    }
    results = brush_results(_guesses(task))
    return {"data": data, "predictions": [{"model_version": MODEL, "result": results}] * bool(results)}


def _guesses(task: Task) -> Iterator[tuple[str, str, np.ndarray]]:
    names = {value: name for name, value in labels(task.domain.space).items()}
    for question, (value, (y0, x0, y1, x1), pixels) in task.guess_parts():
        mask = np.zeros(task.size, dtype=bool)
        mask[y0:y1, x0:x1] = pixels
        yield f"question-{question.id}-{value}", names[value], mask


# ── In ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_answers(
    ledger: Ledger, domains: Mapping[str, Domain], path: Path, annotator: str, mode: Mode = "open"
) -> Import:
    """Import all annotations of Label Studio's JSON export, or none if any is invalid.

    The annotator is the person who completed the annotation, `label-studio:<id>`, or `annotator` where none is named.
    The lead time gives the seconds. A cancelled annotation skips its task's questions. Predictions and drafts are no
    answers. Where results overlap, the later in the list wins. Content that is no answer is left out. Raises one
    ValueError that lists every problem.
    """
    importer = AnswerImporter(ledger, domains, "label-studio", mode)
    take_tasks(importer, json_items(path), annotator, path)
    return importer.save(f"{path}: no annotations for the questions in it; export them from Label Studio as JSON")


def take_tasks(importer: AnswerImporter, tasks: Iterable[Mapping[str, Any]], annotator: str, where: object) -> None:
    """Add the annotations of exported tasks, and their problems, to the importer. Problems name the export `where`."""
    with importer.problems():
        for place, task in enumerate(tasks):
            description = f"task {str(task.get('id', f'number {place + 1}'))[:40]}"
            with importer.problems():
                for annotation in _annotations(task, f"{where}: {description}"):
                    with importer.problems():
                        name = f"{description}, annotation {str(annotation.get('id', '?'))[:40]}"
                        _take(importer, task, annotation, annotator, f"{where}: {name}", name)


def _annotations(task: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    if "annotations" not in task:
        raise ValueError(f"{where}: it has no list of annotations; export as JSON, not as JSON-MIN or CSV")
    annotations = field(task, "annotations", list, where)
    if not all(isinstance(annotation, dict) for annotation in annotations):
        raise ValueError(f"{where}: an annotation that is no object; export it again")
    return annotations


def _take(
    importer: AnswerImporter,
    task: Mapping[str, Any],
    annotation: Mapping[str, Any],
    annotator: str,
    where: str,
    description: str,
) -> None:
    data = field(task, "data", dict, where)
    if "domain" not in data or "stem" not in data:
        importer.leave_out("of a task that `fewmask query` did not write", description)
        return
    name, stem = field(data, "domain", str, where), field(data, "stem", str, where)
    if (image_of_domain := importer.find_asked(name, stem)) is None:
        importer.leave_out(FOREIGN, f"{description} ({name}/{stem})")
        return
    (domain, stem), ids = image_of_domain, field(data, "questions", list, where)
    if not all(type(number) is int for number in ids):
        raise ValueError(f"{where}: questions {str(ids)[:200]} are no ids; import tasks that `fewmask query` wrote")
    person, seconds = _annotator(annotation, where) or annotator, _seconds(annotation, where)
    if annotation.get("was_cancelled"):
        importer.skip(domain, stem, person, where, seconds, ids)
        return
    mask = importer.canvas(domain, stem, where)
    for place, result in enumerate(field(annotation, "result", list, where)):
        result_name = f", result {place + 1}"
        if not isinstance(result, dict):
            raise ValueError(f"{where}{result_name}: no object; export it again")
        _paint(importer, result, mask, domain.space, f"{where}{result_name}", f"{description}{result_name}")
    importer.add_answer(domain, stem, mask, person, where, seconds, ids)


def _paint(
    importer: AnswerImporter, result: Mapping[str, Any], mask: Mask, space: LabelSpace, where: str, description: str
) -> None:
    """Paint a brush result over a mask (H,W). Other results, such as the prompts of an assistant, are no answers."""
    kind, values = str(result.get("type"))[:60], labels(space)
    if kind not in ("brushlabels", "brush"):
        importer.leave_out(f"of type {kind}; only what the brush painted is read", description)
        return
    value = field(result, "value", dict, where)
    names, code = value.get("brushlabels", []), field(value, "rle", list, where)
    if not isinstance(names, list) or len(names) > 1 or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where}: labels {str(names)[:200]}, not one of {', '.join(values)}; label it again")
    if not names or names[0] not in values:
        label = names[0][:60] if names else "no label"
        importer.leave_out("of a label that the domain does not have", f"{description} ({label})")
        return
    if not code:
        importer.leave_out("a brush region that covers no pixel", description)
        return
    size = field(result, "original_height", int, where), field(result, "original_width", int, where)
    if size != mask.shape:
        h, w = size
        raise ValueError(f"{where}: {w}×{h} pixels, its image is {mask.shape[1]}×{mask.shape[0]}; paint that one")
    if result.get("image_rotation"):
        raise ValueError(f"{where}: painted on an image that was turned; turn it back and paint again")
    importer.spend(BYTE * len(code), where)
    if any(type(byte) is not int for byte in code):
        raise ValueError(f"{where}: a run-length code that is no list of bytes; export it again")
    try:
        painted = decode_brush(bytes(code), mask.size)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{where}: {error}; export it again") from None
    importer.spend(painted.size, where)
    mask.reshape(-1)[painted] = values[names[0]]
    if not painted.size:
        importer.leave_out("a brush region that covers no pixel", description)


def _annotator(annotation: Mapping[str, Any], where: str) -> str | None:
    """The annotator by `completed_by`, which is an id or, in other exports, an object with an id."""
    who = annotation.get("completed_by")
    if isinstance(who, dict):
        return f"label-studio:{field(who, 'id', int, where)}"
    return None if who is None else f"label-studio:{field(annotation, 'completed_by', int, where)}"


def _seconds(annotation: Mapping[str, Any], where: str) -> float | None:
    """The lead time: all the annotator's work on the task, with later corrections."""
    seconds = annotation.get("lead_time")
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= A_YEAR:
        raise ValueError(f"{where}: lead_time is {str(seconds)[:60]}, not a number of seconds; export it again")
    return float(seconds)
