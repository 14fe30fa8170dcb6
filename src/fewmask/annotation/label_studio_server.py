"""Sends questions to a running Label Studio and fetches the answers. See docs/annotating.md.

The server is always asked which questions it has: no file of the run says what was sent before. A command that was
killed, or comes from another machine, therefore sends what is missing and nothing twice.
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
from fewmask.formats.bands import as_rgb

PROJECTS, TASKS = 100, 500
"""The number of entries on a page of a list."""
BATCH = 16 * texts.MIB
"""The bytes of pictures that are sent together. Their tasks follow before the next pictures."""
TITLE = 50
"""The most characters of a project's name."""

_TaskWithPictures = tuple[Task, list[tuple[str, bytes]]]
"""A task with its two pictures, the marked one and the plain one, as names and PNGs."""


@dataclass(frozen=True)
class Sent:
    """The questions that a run's projects hold now."""

    new: int = 0
    """Questions that were sent."""
    before: int = 0
    """Open questions that the projects had already."""
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
    """Send the open questions of a round, or of all rounds, that are in no task yet. Each domain has one project.

    `name` is the run's name for people. `observe` gets the numbers of sent images and of all. Raises ValueError, or
    OSError where the same command may go on later. Questions that were sent by then stay.
    """
    # Two commands at once would both send the same tasks.
    with hold(ledger.path.with_name(".sending.lock"), "its questions are being sent", "wait for that"):
        questions = ledger.questions(number, open_only=True)
        projects = _Projects(server, identity(ledger))
        tasks_of_questions, places = dict[int, int](), dict[str, int]()
        for domain in sorted({question.domain for question in questions}):
            ledger.expect(domains[domain])
            places[domain] = projects.find(domain) or projects.make(domains[domain], name, ledger.rule.each)
            tasks_of_questions |= _sent_questions(server, places[domain])
        missing = [question for question in questions if question.id not in tasks_of_questions]
        unsent = [task for _, domain_tasks in tasks(ledger, domains, missing) for task in domain_tasks]
        done = 0
        for domain, place in places.items():
            if not (tasks_of_domain := [task for task in unsent if task.domain.name == domain]):
                continue
            pictures = _Pictures(server, place)
            for batch in _batches(tasks_of_domain):
                records = pictures.records(batch)
                server.post(f"/api/projects/{place}/import", records)
                done += len(batch)
                observe(done, len(unsent))
            _sent_questions(server, place)  # a command that was killed a moment ago may have sent the same
    addresses = {name: f"{server.address}/projects/{place}" for name, place in places.items()}
    return Sent(len(missing), len(questions) - len(missing), addresses)


def fetch_answers(
    server: LabelStudio, ledger: Ledger, domains: Mapping[str, Domain], annotator: str, mode: Mode = "open"
) -> Import:
    """Import all annotations of a run's projects, or none if any is invalid, as `label_studio.read_answers` does.

    A project without answers is no error. Raises ValueError that lists every problem, and for a server that has no
    project of the run. Raises OSError where the same command may work later.
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
    """The projects of a run. They are recognised by their descriptions, because people may change the names."""

    def __init__(self, server: LabelStudio, run: str) -> None:
        self._server, self._run = server, run
        self._projects_by_line: dict[str, list[int]] = {}
        for project in _pages(server, "/api/projects/", PROJECTS, "results", "count", include="id,description"):
            first_line = str(project.get("description") or "").split("\n")[0].strip()
            self._projects_by_line.setdefault(first_line, []).append(texts.field(project, "id", int, server.address))

    def find(self, domain: str) -> int | None:
        projects = self._projects_by_line.get(self._sign(domain), [])
        if len(projects) > 1:
            addresses = ", ".join(f"{self._server.address}/projects/{place}" for place in projects)
            raise ValueError(f"{addresses}: the same run and domain, by their descriptions; change that of a copy")
        return projects[0] if projects else None

    def make(self, domain: Domain, name: str, each: int) -> int:
        """Make a project that gives each task to `each` people."""
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
    """The pictures of a project. Their names are hashes of their content, so that none is sent twice."""

    def __init__(self, server: LabelStudio, place: int) -> None:
        self._server, self._place = server, f"/api/projects/{place}"
        self._paths: dict[str, str] = {}
        self._remember({"all": "true"})

    def records(self, batch: Sequence[_TaskWithPictures]) -> list[dict[str, Any]]:
        """Records of tasks to import. Their missing pictures are uploaded first."""
        files = {name: data for _, pictures in batch for name, data in pictures if name not in self._paths}
        if files:
            reply = self._server.upload(f"{self._place}/import", files, commit_to_project="false")
            ids = texts.field(as_object(reply, self._place), "file_upload_ids", list, self._place)
            self._remember({"ids": json.dumps(ids)})
        return [task_record(task, *(self._address(name) for name, _ in pictures)) for task, pictures in batch]

    def _remember(self, query: Mapping[str, str]) -> None:
        for upload in as_objects(self._server.get(f"{self._place}/file-uploads", **query), self._place):
            path = texts.field(upload, "file", str, self._place)
            self._paths[path.rsplit("/", 1)[-1].partition("-")[2]] = path

    def _address(self, name: str) -> str:
        if name not in self._paths:
            raise ValueError(f"{self._server.address}: it does not list the picture {name} that it took; see its log")
        return f"{self._server.path}/data/{self._paths[name]}"


def _batches(unsent: Sequence[Task]) -> Iterator[list[_TaskWithPictures]]:
    """Yield tasks with their pictures, in batches that fit into the memory and into a request."""
    batch, size = list[_TaskWithPictures](), 0
    for task in unsent:
        image = task.domain.image(task.stem)
        pictures = [_named(_png(picture)) for picture in (mark(image, task.questions), as_rgb(image))]
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
    """A picture (H,W,3) uint8 RGB as the bytes of a PNG."""
    written, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert written
    return data.tobytes()


def _sent_questions(server: LabelStudio, place: int) -> dict[int, int]:
    """The questions in a project's tasks, with the ids of the tasks. Raises ValueError when two tasks ask the same."""
    tasks_of_questions, pairs = dict[int, int](), list[str]()
    for task in _pages(server, "/api/tasks/", TASKS, "tasks", "total", project=place, resolve_uri="false"):
        data, number = task.get("data"), texts.field(task, "id", int, server.address)
        for question in data.get("questions") or [] if isinstance(data, dict) else []:
            if isinstance(question, int) and tasks_of_questions.setdefault(question, number) != number:
                pairs.append(f"{tasks_of_questions[question]} and {number}")
    if pairs:
        raise ValueError(
            f"{server.address}/projects/{place}: tasks {', '.join(dict.fromkeys(pairs))} ask the same; delete one of "
            "each two, one without annotations"
        )
    return tasks_of_questions


def _pages(
    server: LabelStudio, path: str, size: int, items: str, count: str, **query: str | int
) -> Iterator[dict[str, Any]]:
    """Yield all objects of a list that the server returns in pages."""
    received, number = 0, 0
    while True:
        number += 1
        page = as_object(server.get(path, page=number, page_size=size, **query), server.address)
        entries = as_objects(texts.field(page, items, list, server.address), server.address)
        yield from entries
        received += len(entries)
        if not entries or received >= texts.field(page, count, int, server.address):
            return
