"""Questions to a running Label Studio, and its people's answers back. See docs/annotating.md.

What is there is always asked of the server: no file of the run says what was sent before. So a command that was killed,
or comes from another machine, sends what is missing and nothing twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import cv2
import numpy as np

from fewmask.annotation.importer import AnswerImporter, Import, Mode
from fewmask.annotation.label_studio import config, take_tasks, task_record
from fewmask.annotation.label_studio_http import LabelStudio, as_object, as_objects
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.tasks import Task, identity, mark, tasks
from fewmask.data.domain import Domain
from fewmask.files import hold
from fewmask.formats import texts

PROJECTS, TASKS = 100, 500
"""On a page of a list."""
BATCH = 16 * texts.MIB
"""Pictures that are sent together; their tasks follow before the next are."""
TITLE = 50
"""Characters of a project's name."""

_Drawn = tuple[Task, list[tuple[str, bytes]]]
"""A task with its two pictures, the one to paint on and the plain one, as names and PNGs."""


@dataclass(frozen=True)
class Sent:
    """What a run's projects hold now."""

    new: int = 0
    """Questions that were sent."""
    before: int = 0
    """Open questions that were there already."""
    projects: Mapping[str, str] = field(default_factory=dict)
    """The address of each domain's project."""


def send_questions(
    server: LabelStudio,
    ledger: Ledger,
    domains: Mapping[str, Domain],
    name: str,
    number: int | None = None,
    observe: Callable[[int, int], None] = lambda done, total: None,
) -> Sent:
    """Put the open questions of a round, or of all, that are in no task yet into tasks: one project a domain.

    `name` is the run's, for people. `observe` is told how many images of how many are there. Raises ValueError, or
    OSError where the same may go on later; what was sent by then stays.
    """
    # Two commands at once would both find the same tasks missing.
    with hold(ledger.path.with_name(".sending.lock"), "its questions are being sent", "wait for that"):
        asked = ledger.questions(number, open_only=True)
        projects = _Projects(server, identity(ledger))
        held, places = dict[int, int](), dict[str, int]()
        for domain in sorted({question.domain for question in asked}):
            ledger.expect(domains[domain])
            places[domain] = projects.find(domain) or projects.make(domains[domain], name, ledger.rule.each)
            held |= _held(server, places[domain])
        missing = [question for question in asked if question.id not in held]
        todo = [task for _, of in tasks(ledger, domains, missing) for task in of]
        done = 0
        for domain, place in places.items():
            if not (own := [task for task in todo if task.domain.name == domain]):
                continue
            pictures = _Pictures(server, place)
            for batch in _batches(own):
                records = pictures.records(batch)
                server.post(f"/api/projects/{place}/import", records)
                done += len(batch)
                observe(done, len(todo))
            _held(server, place)  # what a command killed a moment ago had asked for may have been done meanwhile
    addresses = {name: f"{server.address}/projects/{place}" for name, place in places.items()}
    return Sent(len(missing), len(asked) - len(missing), addresses)


def fetch_answers(
    server: LabelStudio, ledger: Ledger, domains: Mapping[str, Domain], annotator: str, mode: Mode = "open"
) -> Import:
    """Take the annotations of a run's projects, all or none, as `label_studio.read_answers` takes an export's.

    While nobody has answered there is nothing to take, which is no mistake. Raises ValueError that lists every problem,
    and for a server that has no project of the run; OSError where the same may go on later.
    """
    projects = _Projects(server, identity(ledger))
    places = [place for domain in ledger.classes() if (place := projects.find(domain)) is not None]
    if not places:
        raise ValueError(
            f"{server.address}: no project of this run that the token's user may see; send the questions first: "
            "fewmask query RUN --to URL"
        )
    importer = AnswerImporter(ledger, domains, "label-studio", mode)
    for place in places:
        exported = server.items(f"/api/projects/{place}/export", exportType="JSON")
        take_tasks(importer, exported, annotator, f"{server.address}/projects/{place}")
    return importer.save()


class _Projects:
    """The projects of a run. Their descriptions say whose they are: names may be changed."""

    def __init__(self, server: LabelStudio, run: str) -> None:
        self._server, self._run = server, run
        self._found: dict[str, list[int]] = {}
        for project in _pages(server, "/api/projects/", PROJECTS, "results", "count", include="id,description"):
            said = str(project.get("description") or "").split("\n")[0].strip()
            self._found.setdefault(said, []).append(texts.field(project, "id", int, server.address))

    def find(self, domain: str) -> int | None:
        found = self._found.get(self._sign(domain), [])
        if len(found) > 1:
            there = ", ".join(f"{self._server.address}/projects/{place}" for place in found)
            raise ValueError(f"{there}: the same run and domain, by their descriptions; change that of a copy")
        return found[0] if found else None

    def make(self, domain: Domain, name: str, each: int) -> int:
        """A project whose tasks are given to so many people each."""
        project = {
            "title": f"{name[: TITLE - 1 - len(domain.name[:20])]} {domain.name[:20]}",
            "description": f"{self._sign(domain.name)}\nfewmask finds the project by the line above: keep it.",
            "label_config": config(domain.space),
            "maximum_annotations": each,
        }
        made = self._server.post("/api/projects/", project)
        return texts.field(as_object(made, self._server.address), "id", int, self._server.address)

    def _sign(self, domain: str) -> str:
        return f"fewmask run {self._run}, domain {domain}"


class _Pictures:
    """The pictures that a project has. Their names are hashes of what they are, so none is sent twice."""

    def __init__(self, server: LabelStudio, place: int) -> None:
        self._server, self._place = server, f"/api/projects/{place}"
        self._there: dict[str, str] = {}
        self._remember({"all": "true"})

    def records(self, batch: Sequence[_Drawn]) -> list[dict[str, Any]]:
        """Tasks to import, whose pictures are there."""
        files = {name: data for _, pictures in batch for name, data in pictures if name not in self._there}
        if files:
            sent = self._server.upload(f"{self._place}/import", files, commit_to_project="false")
            ids = texts.field(as_object(sent, self._place), "file_upload_ids", list, self._place)
            self._remember({"ids": json.dumps(ids)})
        return [task_record(task, *(self._address(name) for name, _ in pictures)) for task, pictures in batch]

    def _remember(self, which: Mapping[str, str]) -> None:
        for upload in as_objects(self._server.get(f"{self._place}/file-uploads", **which), self._place):
            path = texts.field(upload, "file", str, self._place)
            self._there[path.rsplit("/", 1)[-1].partition("-")[2]] = path

    def _address(self, name: str) -> str:
        if name not in self._there:
            raise ValueError(f"{self._server.address}: it does not list the picture {name} that it took; see its log")
        return f"{self._server.path}/data/{self._there[name]}"


def _batches(todo: Sequence[Task]) -> Iterator[list[_Drawn]]:
    """Tasks with their pictures, of so many bytes together that they fit into the memory and a request."""
    batch, size = list[_Drawn](), 0
    for task in todo:
        image = task.domain.image(task.stem)
        pictures = [_named(_png(picture)) for picture in (mark(image, task.questions), image)]
        size += sum(len(data) for _, data in pictures)
        batch.append((task, pictures))
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _named(data: bytes) -> tuple[str, bytes]:
    return f"{blake2b(data, digest_size=16).hexdigest()}.png", data


def _png(picture: np.ndarray) -> bytes:
    """A picture (H,W,3) uint8 RGB as a file."""
    written, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert written
    return data.tobytes()


def _held(server: LabelStudio, place: int) -> dict[int, int]:
    """The questions that a project's tasks ask, with the ids of those. Raises ValueError when two ask the same."""
    held, twice = dict[int, int](), list[str]()
    for task in _pages(server, "/api/tasks/", TASKS, "tasks", "total", project=place, resolve_uri="false"):
        data, number = task.get("data"), texts.field(task, "id", int, server.address)
        for question in data.get("questions") or [] if isinstance(data, dict) else []:
            if isinstance(question, int) and held.setdefault(question, number) != number:
                twice.append(f"{held[question]} and {number}")
    if twice:
        raise ValueError(
            f"{server.address}/projects/{place}: tasks {', '.join(dict.fromkeys(twice))} ask the same; delete one of "
            "each two, one without annotations"
        )
    return held


def _pages(
    server: LabelStudio, path: str, size: int, items: str, count: str, **query: str | int
) -> Iterator[dict[str, Any]]:
    """All objects of a list that comes in pages."""
    seen, number = 0, 0
    while True:
        number += 1
        page = as_object(server.get(path, page=number, page_size=size, **query), server.address)
        found = as_objects(texts.field(page, items, list, server.address), server.address)
        yield from found
        seen += len(found)
        if not found or seen >= texts.field(page, count, int, server.address):
            return
