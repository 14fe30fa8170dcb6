"""The real Label Studio: what is sent to it, what its people do there, and what the ledger has in the end.

Shapes: H×W pixels of an image.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import label_studio
import numpy as np
import pytest
from annotating import ODD_NAMES, SHAPE, SIZE, domain, ledger_with, three
from campaigns import settings_of
from command import Fewmask
from label_studio import Person, Server, coded, result
from ondisk import two_domains, write_config
from PIL import Image

from fewmask.annotation import label_studio_server
from fewmask.annotation.importer import Import
from fewmask.annotation.label_studio import config, read_answers, write_questions
from fewmask.annotation.label_studio_http import TOKEN, LabelStudio
from fewmask.annotation.label_studio_server import Sent, fetch_answers, send_questions
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.questions import Question
from fewmask.annotation.tasks import labels, mark
from fewmask.config import AnswerSettings
from fewmask.data.domain import Domain
from fewmask.labels import NOT_LABELLED, VOID, Mask

pytestmark = [
    pytest.mark.slow,
    pytest.mark.label_studio,
    pytest.mark.skipif(not label_studio.is_there(), reason="no Label Studio: `make test-label-studio` installs it"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("label-studio")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    (folder / "files").mkdir()
    started = Server(folder / "server", folder / "files")
    yield started
    started.close()
    assert not started.trap.tried, "Label Studio asks somebody outside"


@pytest.fixture(scope="module")
def ada(server: Server) -> Person:
    return Person(server.address, "ada")


@pytest.fixture(scope="module")
def bob(server: Server, ada: Person) -> Person:
    return Person(server.address, "bob", ada.invitation())


@pytest.fixture(scope="module")
def token(ada: Person) -> str:
    return ada.personal_token()


@pytest.fixture
def api(server: Server, token: str) -> Iterator[LabelStudio]:
    with LabelStudio(server.address, token) as opened:
        yield opened


@pytest.fixture
def of() -> dict[str, Domain]:
    return {"a": domain()}


@pytest.fixture
def ledger(of: dict[str, Domain], tmp_path: Path) -> Iterator[Ledger]:
    with ledger_with(of["a"], *three(), path=tmp_path / "ledger.sqlite") as opened:
        yield opened


def speckled(seed: int) -> Mask:
    """A mask (H,W) of every value in blots and single pixels, with holes."""
    rng = np.random.default_rng(seed)
    values = np.array([0, 1, 2, NOT_LABELLED, VOID], np.uint8)
    coarse = np.kron(rng.choice(values, (SIZE[0] // 4, SIZE[1] // 4)), np.ones((4, 4), np.uint8))
    return np.where(rng.random(SIZE) < 0.2, rng.choice(values, SIZE), coarse).astype(np.uint8)


def painted(mask: Mask, of: Domain, tmp_path: Path) -> list[dict[str, Any]]:
    """What somebody leaves who paints a mask (H,W), in Label Studio's own code: a region for each label."""
    parts = {name: mask == value for name, value in labels(of.space).items() if (mask == value).any()}
    codes, _ = coded(list(parts.values()), [], tmp_path)
    return [
        result(part, name, f"r{number}", code)
        for number, ((name, part), code) in enumerate(zip(parts.items(), codes, strict=True))
    ]


def expected(questions: Sequence[Question], *masks: Mask) -> Mask:
    """What the ledger ought to know of an image whose questions were answered with these masks, one after the other."""
    label = np.full(SIZE, NOT_LABELLED, np.uint8)
    for mask in masks:
        for question in questions:
            crop, window = question.crop(mask), question.window(label)
            np.copyto(window, crop, where=crop != NOT_LABELLED)
    return label


def project_of(sent: Sent, domain: str = "a") -> int:
    return int(sent.projects[domain].rpartition("/")[2])


# ── By files ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_go_in_and_its_export_comes_back(
    folder: Path, ada: Person, ledger: Ledger, of: dict[str, Domain], tmp_path: Path
) -> None:
    questions = folder / "files" / "questions"
    write_questions(ledger, of, questions, images_at="/data/local-files/?d=questions/")
    written = (questions / "a/config.xml").read_text(encoding="utf-8")
    project = ada.send("POST", "/api/projects/", {"title": "by files"})["id"]
    ada.send("POST", f"/api/projects/{project}/validate/", {"label_config": written})
    ada.send("PATCH", f"/api/projects/{project}/", {"label_config": written})
    storage = {"project": project, "path": str(questions / "a"), "use_blob_urls": True, "title": "questions"}
    ada.send("POST", "/api/storages/localfiles/", storage)
    with open(questions / "a/tasks.json", "rb") as file:
        ada.send("POST", f"/api/projects/{project}/import", files={"tasks.json": file})
    tasks = {task["data"]["stem"]: task for task in ada.tasks(project)}
    sent = {task["data"]["stem"]: task for task in json.loads((questions / "a/tasks.json").read_text())}
    assert {stem: task["data"] for stem, task in tasks.items()} == {stem: task["data"] for stem, task in sent.items()}

    first = tasks["a-0"]
    shown = np.array(Image.open(io.BytesIO(ada.download(first["data"]["asked"]))))
    np.testing.assert_array_equal(shown, mark(of["a"].image("a-0"), three()[:2]))

    mask, point = speckled(1), np.full(SIZE, VOID, np.uint8)
    mask[2, 3], mask[10, 11] = 1, VOID
    ada.submit(first, painted(mask, of["a"], tmp_path), 40.0)
    ada.submit(tasks["a-2"], painted(point, of["a"], tmp_path), 2.5)
    export = tmp_path / "export.json"
    export.write_bytes(ada.download(f"/api/projects/{project}/export", exportType="JSON"))
    assert read_answers(ledger, of, export, "nobody").answered == 3
    np.testing.assert_array_equal(ledger.labels("a", "a-0"), expected(three()[:2], mask))
    assert ledger.labels("a", "a-2")[0, 23] == VOID
    assert {answer.annotator for answer in ledger.answers()} == {f"label-studio:{ada.id}"}
    square, superpixel, last = (answer.seconds for answer in ledger.answers())
    assert (square or 0) + (superpixel or 0) == pytest.approx(40.0)
    assert last == 2.5


def test_its_own_pictures_of_the_masks_are_what_the_ledger_has(
    api: LabelStudio, ada: Person, ledger: Ledger, of: dict[str, Domain], tmp_path: Path
) -> None:
    """Label Studio's export of brush masks as PNGs: alpha is painted."""
    project = project_of(send_questions(api, ledger, of, "pictures"))
    mask = speckled(2)
    ada.submit(ada.tasks(project)[0], painted(mask, of["a"], tmp_path), 1.0)
    fetch_answers(api, ledger, of, "nobody")
    drawn = np.full(SIZE, NOT_LABELLED, np.uint8)
    with zipfile.ZipFile(
        io.BytesIO(ada.download(f"/api/projects/{project}/export", exportType="BRUSH_TO_PNG"))
    ) as pictures:
        values = labels(of["a"].space)
        for name in pictures.namelist():
            value = next(value for label, value in values.items() if f"-{label}-" in name)
            part = np.array(Image.open(io.BytesIO(pictures.read(name))).convert("L")) > 127
            drawn[part] = value
    np.testing.assert_array_equal(drawn, mask)
    np.testing.assert_array_equal(ledger.labels("a", "a-0"), expected(three()[:2], drawn))


# ── Over HTTP ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_the_server_gets(
    api: LabelStudio, ada: Person, ledger: Ledger, of: dict[str, Domain], tmp_path: Path
) -> None:
    sent = send_questions(api, ledger, of, "a run with a name that is longer than a project's may be")
    assert (sent.new, sent.before) == (3, 0)
    number = project_of(sent)
    project = ada.get(f"/api/projects/{number}/")
    assert project["label_config"] == config(of["a"].space).strip()
    one, two = ada.tasks(number)
    assert [task["data"]["questions"] for task in (one, two)] == [[1, 2], [3]]
    pictures = {key: np.array(Image.open(io.BytesIO(ada.download(one["data"][key])))) for key in ("asked", "image")}
    np.testing.assert_array_equal(pictures["image"], of["a"].image("a-0"))
    np.testing.assert_array_equal(pictures["asked"], mark(of["a"].image("a-0"), three()[:2]))

    (prediction,) = one["predictions"]
    masks = np.zeros((2, *SIZE), dtype=bool)
    masks[0, 2:7, 3:9] = True
    masks[1, 10:14, 10:16] = SHAPE
    codes = [region["value"]["rle"] for region in prediction["result"]]
    _, places = coded(list(masks), codes, tmp_path)
    assert places == [np.flatnonzero(mask).tolist() for mask in masks]
    assert [region["value"]["brushlabels"] for region in prediction["result"]] == [[name] for name in ODD_NAMES[1:]]
    assert two["predictions"] == []

    assert send_questions(api, ledger, of, "again") == replace(sent, new=0, before=3)
    assert len(ada.tasks(number)) == 2


def test_people_answer_correct_and_skip(
    api: LabelStudio, ada: Person, bob: Person, ledger: Ledger, of: dict[str, Domain], tmp_path: Path
) -> None:
    ledger.rule = AnswerSettings(each=2)
    project = project_of(send_questions(api, ledger, of, "people"))
    assert fetch_answers(api, ledger, of, "nobody") == Import(0, 0, 0, 0)
    first, second = ada.tasks(project)
    confirmed = [region | {"origin": "prediction"} for region in first["predictions"][0]["result"]]
    mine = ada.submit(first, confirmed, 12.0)
    assert [who.get(f"/api/projects/{project}/next")["id"] for who in (ada, bob)] == [second["id"], first["id"]]
    theirs = np.full(SIZE, 2, np.uint8)
    theirs[3, 4] = NOT_LABELLED
    bob.submit(first, painted(theirs, of["a"], tmp_path), 20.0)
    bob.submit(second, [], 3.0, skip=True)
    far = SIZE[0] * SIZE[1] - 30 - int(SHAPE.sum())
    by_ada, by_bob = f"label-studio:{ada.id}", f"label-studio:{bob.id}"
    taken = fetch_answers(api, ledger, of, "nobody")
    assert taken == Import(4, 0, 0, far, skipped=1, in_part=1, beside={by_ada: 2})
    words = {(word.question, word.annotator): word for word in ledger.last_words()}
    assert set(words) == {(1, by_ada), (2, by_ada), (1, by_bob), (2, by_bob), (3, by_bob)}
    square, superpixel, _ = three()
    for question, guess in ((square, 1), (superpixel, 2)):
        number = 1 if question is square else 2
        np.testing.assert_array_equal(words[number, by_ada].values, question.crop(np.full(SIZE, guess, np.uint8)))
        np.testing.assert_array_equal(words[number, by_bob].values, question.crop(theirs))
    assert (words[3, by_bob].kind, words[3, by_bob].seconds) == ("skip", 3.0)
    assert [question.id for question in ledger.questions(open_only=True)] == [3]  # ada has not seen it yet
    assert send_questions(api, ledger, of, "people").before == 1

    again = np.full(SIZE, 0, np.uint8)
    ada.update(mine, painted(again, of["a"], tmp_path), 30.0)
    left = fetch_answers(api, ledger, of, "nobody")
    assert (left.answered, left.unchanged, left.closed) == (0, 3, 2)
    taken = fetch_answers(api, ledger, of, "nobody", "corrections")
    assert taken == Import(2, 3, 0, 2 * far, corrected=2, beside={by_bob: 2})
    assert sum(a.seconds or 0 for a in ledger.answers() if a.annotator == by_ada) == pytest.approx(30.0)
    np.testing.assert_array_equal(ledger.labels("a", "a-0"), expected([square, superpixel], theirs, again))
    before = len(ledger.answers())
    assert fetch_answers(api, ledger, of, "nobody") == Import(0, 5, 0, 2 * far)
    assert len(ledger.answers()) == before


def test_what_is_wrong_there_is_told_and_nothing_is_taken(
    api: LabelStudio, ada: Person, bob: Person, ledger: Ledger, of: dict[str, Domain], tmp_path: Path
) -> None:
    project = project_of(send_questions(api, ledger, of, "wrong"))
    first, second = ada.tasks(project)
    good = painted(np.zeros(SIZE, np.uint8), of["a"], tmp_path)
    ada.submit(first, good, 1.0)
    ada.submit(first, good, 1.0)
    bob.submit(second, [good[0] | {"original_width": 7}], 1.0)
    with pytest.raises(ValueError, match="nothing was imported") as error:
        fetch_answers(api, ledger, of, "nobody")
    assert f"label-studio:{ada.id} answers about a/a-0 twice; keep one of the two" in str(error.value)
    assert f"{api.address}/projects/{project}: task {second['id']}, annotation" in str(error.value)
    assert "7×20 pixels, its image is 24×20; paint that one" in str(error.value)
    assert ledger.answers() == []


def test_the_next_round(api: LabelStudio, ada: Person, ledger: Ledger, of: dict[str, Domain], tmp_path: Path) -> None:
    """What is there stays as it is, also what is open of an image that was answered in part; new guesses are shown."""
    project = project_of(send_questions(api, ledger, of, "rounds"))
    mask = np.full(SIZE, NOT_LABELLED, np.uint8)
    mask[2:7, 3:9] = 0
    ada.submit(ada.tasks(project)[0], painted(mask, of["a"], tmp_path), 1.0)
    fetch_answers(api, ledger, of, "nobody")
    assert [question.id for question in ledger.questions(open_only=True)] == [2, 3]
    square = Question("a", "a-0", "squares", 9, (0, 0, 2, 2), guess=0)
    ledger.ask(2, [square, Question("a", "a-1", "points", 5, (1, 1, 2, 2))])
    sent = send_questions(api, ledger, of, "rounds")
    assert (sent.new, sent.before, project_of(sent)) == (2, 2, project)
    tasks = ada.tasks(project)
    assert sorted(tuple(task["data"]["questions"]) for task in tasks) == [(1, 2), (3,), (4,), (5,)]
    (new,) = [task for task in tasks if task["data"]["questions"] == [4]]
    offered = ada.get(f"/api/tasks/{new['id']}/", project=project)
    assert len(offered["predictions"]) == 1
    assert offered["predictions"][0]["model_version"] == ada.get(f"/api/projects/{project}/")["model_version"]
    assert len(ada.get(f"/api/projects/{project}/file-uploads", all="true")) == 2 * 4 - 1  # a-0's plain picture is one


def test_two_runs_have_projects_of_their_own(api: LabelStudio, of: dict[str, Domain], tmp_path: Path) -> None:
    projects = set()
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        with ledger_with(
            of["a"], replace(three()[0], score=float(len(projects))), path=tmp_path / run / "l.sqlite"
        ) as ledger:
            with pytest.raises(ValueError, match="no project of this run that the token's user may see; send the"):
                fetch_answers(api, ledger, of, "nobody")
            projects.add(project_of(send_questions(api, ledger, of, "run")))
    assert len(projects) == 2


def test_copies_are_refused(api: LabelStudio, ada: Person, ledger: Ledger, of: dict[str, Domain]) -> None:
    project = project_of(send_questions(api, ledger, of, "copies"))
    first = ada.tasks(project)[0]
    ada.send("POST", f"/api/projects/{project}/import", [{"data": first["data"]}])
    copy = ada.tasks(project)[-1]
    with pytest.raises(ValueError, match=f"tasks {first['id']} and {copy['id']} ask the same; delete one of each two"):
        send_questions(api, ledger, of, "copies")
    ada.send("DELETE", f"/api/tasks/{copy['id']}/")
    assert send_questions(api, ledger, of, "copies").new == 0
    description = ada.get(f"/api/projects/{project}/")["description"]
    ada.send("POST", "/api/projects/", {"title": "a copy", "description": description})
    with pytest.raises(ValueError, match="the same run and domain, by their descriptions"):
        fetch_answers(api, ledger, of, "nobody")


# ── Killed ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _send_until(address: str, token: str, path: Path, fatal: int) -> None:
    """Send, and be killed before a request that changes something is sent, or when the reply to it is there."""
    changes = 0

    @contextmanager
    def counted(self: LabelStudio, method: str, path: str, **more: Any) -> Iterator[Any]:
        nonlocal changes
        changes += method == "POST" and "/token/" not in path
        if method == "POST" and fatal == 2 * changes - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        with reply(self, method, path, **more) as pair:
            if method == "POST" and fatal == 2 * changes:
                pair[0].read()
                os.kill(os.getpid(), signal.SIGKILL)
            yield pair

    reply: Callable[..., Any] = LabelStudio._reply
    LabelStudio._reply = counted  # type: ignore[assignment]
    label_studio_server.BATCH = 1  # an image at a time
    with Ledger(path) as ledger, LabelStudio(address, token) as server:
        send_questions(server, ledger, {"a": domain()}, "killed")


def test_killed_anywhere_the_same_command_goes_on(
    server: Server, token: str, ada: Person, of: dict[str, Domain], tmp_path: Path
) -> None:
    path = tmp_path / "ledger.sqlite"
    with ledger_with(of["a"], *three(), path=path):
        pass
    fork, kills = multiprocessing.get_context("fork"), 0
    for fatal in (1, 2, 1, 2, 3, 4, 1, 2, 1, 2, 3, 4, 0):
        process = fork.Process(target=_send_until, args=(server.address, token, path, fatal))
        process.start()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        kills += process.exitcode != 0
    assert kills >= 6
    with Ledger(path) as ledger, LabelStudio(server.address, token) as api:
        sent = send_questions(api, ledger, of, "killed")
        assert (sent.new, sent.before) == (0, 3)
    projects = ada.get("/api/projects/", page_size=100)["results"]
    assert [project["id"] for project in projects if project["title"] == "killed a"] == [project_of(sent)]
    assert [task["data"]["questions"] for task in ada.tasks(project_of(sent))] == [[1, 2], [3]]
    assert len(ada.get(f"/api/projects/{project_of(sent)}/file-uploads", all="true")) == 4


# ── Tokens, and the command ──────────────────────────────────────────────────────────────────────────────────────────


def test_both_kinds_of_tokens(server: Server, ada: Person, ledger: Ledger, of: dict[str, Domain], token: str) -> None:
    legacy = ada.legacy_token()
    with (
        LabelStudio(server.address, legacy) as api,
        pytest.raises(ValueError, match="401: it refuses the token") as error,
    ):
        send_questions(api, ledger, of, "legacy")
    assert "legacy token authentication has been disabled" in str(error.value)
    ada.allow_legacy_tokens(True)
    try:
        with LabelStudio(server.address, legacy) as api:
            assert send_questions(api, ledger, of, "legacy").new == 3
    finally:
        ada.allow_legacy_tokens(False)
    for wrong in (token[:-3] + "abc", "0" * 40):
        with (
            LabelStudio(server.address, wrong) as api,
            pytest.raises(ValueError, match="it refuses the token") as error,
        ):
            send_questions(api, ledger, of, "wrong")
        assert wrong not in str(error.value)


def test_the_commands(
    server: Server, ada: Person, token: str, fewmask: Fewmask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, token)
    data = two_domains(tmp_path / "data")
    settings = settings_of(
        data,
        annotator="people",
        ask={"score": "random", "regions": "squares:8", "budget": {"amount": 12, "unit": "regions"}},
        rounds=2,
    )
    config_file, run = write_config(tmp_path / "config.yaml", settings), tmp_path / "run"
    assert fewmask("campaign", config_file, "--out", run).code == 0
    sent = fewmask("query", run, "--to", server.address, "--json")
    assert sent.code == 0, sent.err
    report = json.loads(sent.out)
    assert (report["open"], report["sent"], report["sent_before"], set(report["projects"])) == (12, 12, 0, {"a", "b"})
    again = fewmask("query", run, "--to", f"{server.address}/")
    assert "12 questions are open in" in again.out and "0 sent now, 12 there before." in again.out
    assert f"fewmask answer {run} --from {server.address}/" in again.out
    nothing = fewmask("answer", run, "--from", server.address)
    assert (nothing.code, "0 answered" in nothing.out) == (0, True), nothing.err
    for address in report["projects"].values():
        for task in ada.tasks(int(address.rpartition("/")[2])):
            (mask,) = [np.ones((40, 48), bool)]
            ((code,), _) = coded([mask], [], tmp_path)
            ada.submit(task, [result(mask, "c1", "r1", code)], 5.0)
    answered = fewmask("answer", run, "--from", server.address)
    assert answered.code == 0, answered.err
    assert "12 answered, 0 answered before, 0 not painted." in answered.out
    assert "No question is open" in answered.out
    for path in (path for path in run.rglob("*") if path.is_file()):
        assert token.encode() not in path.read_bytes(), path
    monkeypatch.setenv(TOKEN, "")
    refused = fewmask("answer", run, "--from", server.address)
    assert (refused.code, TOKEN in refused.err) == (2, True)
