"""What reaches the labelling page from outside of it: absurd requests, connections that say nothing, a `page.json` that
somebody else has written, names and numbers that would stay in the ledger for good.

Shapes: h×w pixels of a region's box.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pages
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ondisk import environment
from pageclient import TOKEN, client_of

from fewmask.annotation.ledger import Ledger
from fewmask.annotation.page import auth, connections, rle_codec
from fewmask.annotation.page.guesses import Guesses
from fewmask.annotation.page.listener import bind_listener, link
from fewmask.annotation.page.server import create_app
from fewmask.annotation.page.service import LabellingService, Run, Sent
from fewmask.annotation.questions import Answer, answer_fault, name_fault

ANYTHING = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return pages.ask(tmp_path, pages.streets(), "squares:24")


@pytest.fixture
def service(run: Run, tmp_path: Path) -> Iterator[LabellingService]:
    service = LabellingService(run, Guesses(tmp_path / "guesses", pages.predictor(pages.streets())))
    yield service
    service.close()


@pytest.fixture
def client(service: LabellingService) -> TestClient:
    return client_of(service)


def entry(service: LabellingService, **changes: Any) -> dict[str, Any]:
    question = next(iter(service.index.questions.values()))
    values = rle_codec.encode(np.where(question.inside, np.uint8(2), np.uint8(254)))
    sent = {"ledger": service.identity, "token": "token-of-a-test", "question": question.id, "annotator": "ann"}
    return {**sent, "kind": "answer", "values": values, "takes_back": None, "seconds": 1.5, "clicks": 2, **changes}


def answers_of(run: Run) -> list[Answer]:
    with Ledger(run.ledger) as ledger:
        return ledger.answers()


# ── Requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────

NUMBERS = st.one_of(st.integers(), st.sampled_from([0, -1, 2**31, 2**63 - 1, 2**63, 2**64, 10**20, 10**400])).map(str)
PARTS = st.one_of(
    NUMBERS, st.text(max_size=12), st.sampled_from(["", ".", "..", "NaN", "1e3", "0x1", "٣", "1_0", "\0"])
)
API = ("changes", "questions", "guesses", "segments", "images", "answers-around")
ENDPOINTS = (*(f"api/{name}/" for name in API), "static/", "api/", "")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@ANYTHING
@given(where=st.sampled_from(ENDPOINTS), parts=st.lists(PARTS, max_size=2), query=st.text(max_size=8))
def test_whatever_is_asked_for_is_there_or_is_refused(
    client: TestClient, where: str, parts: list[str], query: str
) -> None:
    path = "/".join(urllib.request.quote(part.encode(errors="replace"), safe="") for part in parts)
    response = client.get(f"/{TOKEN}/{where}{path}", params={"q": query})
    assert response.status_code < 500, response.text
    assert "Traceback" not in response.text


@pytest.mark.parametrize("number", [10**20, 2**63, -1, -(10**30), 10**4000])
@pytest.mark.parametrize("where", ENDPOINTS[: len(API)])
def test_numbers_that_no_question_has_are_refused(client: TestClient, where: str, number: int) -> None:
    assert 400 <= client.get(f"/{TOKEN}/{where}{number}").status_code < 500


@ANYTHING
@given(changes=st.dictionaries(st.sampled_from(sorted(Sent.model_fields)), JSON, min_size=1))
def test_whatever_is_sent_is_taken_or_refused(
    client: TestClient, service: LabellingService, changes: dict[str, Any]
) -> None:
    body = json.dumps(entry(service, **changes))
    response = client.post(f"/{TOKEN}/api/answers", content=body, headers={"content-type": "application/json"})
    assert response.status_code < 500, response.text
    for answer in answers_of(service.run):
        assert not name_fault(answer.annotator)
        assert answer.seconds is not None and math.isfinite(answer.seconds)


@ANYTHING
@given(body=st.binary(max_size=40), method=st.sampled_from(["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "X"]))
def test_bodies_that_are_no_answer_are_refused(client: TestClient, body: bytes, method: str) -> None:
    headers = {"content-type": "application/json"}
    assert 400 <= client.request(method, f"/{TOKEN}/api/answers", content=body, headers=headers).status_code < 500


# ── What would stay in the ledger for good ───────────────────────────────────────────────────────────────────────────

NAMES = [
    " ",
    "\t",
    "\u00a0",
    "a\0b",
    "a\nb",
    "a\r",
    "\x1b[2J",
    "\x9b31m",
    "a\u2028b",
    "\u202eabc",
    "a\u200b",
    " ann",
    "ann ",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_that_nobody_could_read_is_refused(
    client: TestClient, service: LabellingService, run: Run, name: str
) -> None:
    response = client.post(f"/{TOKEN}/api/answers", json=entry(service, annotator=name))
    assert 400 <= response.status_code < 500
    assert "annotator" in response.json()["error"]
    assert answers_of(run) == []
    with pytest.raises(ValueError, match="--annotator: annotator"):
        LabellingService(replace(run, annotator=name))
    with Ledger(run.ledger) as ledger, pytest.raises(ValueError, match="annotator"):
        ledger.answer([Answer(1, name, "t", kind="skip")])  # whichever way it comes


@pytest.mark.parametrize("name", ["ann", "Ann <b>O'Tator</b>", "Łucja Ö", "میلاد\u200cی", "安", "label-studio:3", "🐙"])
def test_names_of_people_are_names(name: str) -> None:
    assert name_fault(name) == ""


@pytest.mark.parametrize(
    "seconds", ["1e308", "NaN", "Infinity", "-Infinity", "-1", "-0.001", "90000", "1e999", '"1"', "true"]
)
def test_times_that_nobody_worked_are_refused(
    client: TestClient, service: LabellingService, run: Run, seconds: str
) -> None:
    body = json.dumps(entry(service)).replace('"seconds": 1.5', f'"seconds": {seconds}')
    assert seconds in body
    headers = {"content-type": "application/json"}
    assert 400 <= client.post(f"/{TOKEN}/api/answers", content=body, headers=headers).status_code < 500
    assert answers_of(run) == []


@given(st.floats() | st.integers().map(lambda n: float(n) if abs(n) < 2**1000 else math.inf))
def test_sums_of_what_is_kept_are_finite(number: float) -> None:
    question = pages.Question("a", "s", "points", 0, (0, 0, 1, 1))
    for answer in (Answer(1, "a", "t", kind="skip", seconds=number), Answer(1, "a", "t", kind="skip", clicks=number)):
        assert (answer_fault(answer, question, 3) == "") == (0 <= number <= 365 * 24 * 3600)


def test_a_ledger_that_cannot_be_opened_for_a_moment_loses_no_answer(
    client: TestClient, service: LabellingService, run: Run
) -> None:
    sent = entry(service)

    def status() -> int:
        return client.post(f"/{TOKEN}/api/answers", json=sent).status_code

    away = run.ledger.rename(run.ledger.with_suffix(".away"))
    assert status() == 503  # the page sends it again
    run.ledger.mkdir()
    assert status() == 503
    run.ledger.rmdir()
    away.rename(run.ledger)
    assert status() == 200


# ── page.json ────────────────────────────────────────────────────────────────────────────────────────────────────────

STOLEN = "0123456789abcdefghijklmnopqrstuv"


def token_of(memory: Path, port: int | None = None) -> str:
    with bind_listener(memory, port) as (_, token):
        assert stat.S_IMODE(memory.stat().st_mode) == 0o600
        assert json.loads(memory.read_text())["token"] == token
        return token


def test_a_copied_run_has_a_link_of_its_own(tmp_path: Path) -> None:
    memory, copy = tmp_path / "run" / "page.json", tmp_path / "copy" / "page.json"
    token = token_of(memory)
    shutil.copytree(memory.parent, copy.parent)  # with its mode and times
    assert copy.read_bytes() == memory.read_bytes()
    assert token_of(copy) != token
    assert token_of(memory) == token
    os.link(memory, tmp_path / "page.json")
    assert token_of(tmp_path / "page.json") != token
    assert token_of(memory) == token


@pytest.mark.parametrize("token", [STOLEN, "", "/", "a", "../../x", 5, None, [STOLEN], "ü" * 40, "a b" * 20])
@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_a_token_that_was_not_made_here_is_not_used(tmp_path: Path, token: Any, mode: int) -> None:
    memory = tmp_path / "page.json"
    token_of(memory)
    kept = json.loads(memory.read_text())
    memory.unlink()
    memory.write_text(json.dumps({**kept, "token": token, "place": {**kept["place"], "file": -1}}))
    memory.chmod(mode)
    assert token_of(memory) not in (token, kept["token"])


def test_a_token_that_others_could_read_is_replaced(tmp_path: Path) -> None:
    memory = tmp_path / "page.json"
    token = token_of(memory)
    memory.chmod(0o644)
    assert token_of(memory) != token


@given(st.one_of(JSON.map(json.dumps), st.text(), st.fixed_dictionaries({"port": JSON, "token": JSON}).map(json.dumps)))
@settings(deadline=None, max_examples=60)
def test_whatever_lies_there_the_door_opens(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    memory = tmp_path_factory.mktemp("run") / "page.json"
    memory.write_text(text, encoding="utf-8", errors="replace")
    assert len(token_of(memory)) >= 32


@pytest.mark.parametrize("port", [0, -1, 65536, 99999, 10**30, "8000", True, 1.5, None])
def test_a_port_that_is_none(tmp_path: Path, port: Any) -> None:
    memory = tmp_path / "page.json"
    memory.write_text(json.dumps({"port": port, "token": STOLEN}))
    assert token_of(memory) != STOLEN


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder", "pipe"])
def test_the_secret_is_written_to_no_other_place(tmp_path: Path, kind: str) -> None:
    (tmp_path / "run").mkdir()
    memory, other = tmp_path / "run" / "page.json", tmp_path / "notes.txt"
    if kind == "link":
        other.write_text('{"port": 8000, "token": "mine"}')
    make = {
        "link": lambda: memory.symlink_to(other),
        "dangling link": lambda: memory.symlink_to(other),
        "folder": memory.mkdir,
        "pipe": lambda: os.mkfifo(memory),
    }
    make[kind]()
    with pytest.raises(ValueError, match=r"page.json: a link, or no file.* Remove it"), bind_listener(memory):
        pass
    assert other.exists() == (kind == "link")
    assert kind != "link" or other.read_text() == '{"port": 8000, "token": "mine"}'
    assert memory.lstat()


def test_the_token_is_the_same_on_another_port(tmp_path: Path) -> None:
    memory = tmp_path / "page.json"
    token = token_of(memory)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with bind_listener(memory, port) as (listener, again):
        assert (listener.getsockname()[1], again) == (port, token)
        with (
            pytest.raises(ValueError, match=f"open already.*; go to {link(port, token)}"),
            bind_listener(memory, port + 1),
        ):
            pass  # a second one says where the first is, whichever port it asks for
    assert token_of(memory) == token


def test_a_token_that_another_program_may_have_heard_is_not_used_again(tmp_path: Path) -> None:
    memory = tmp_path / "page.json"
    token = token_of(memory)
    with socket.socket() as other:
        other.bind(("127.0.0.1", json.loads(memory.read_text())["port"]))
        other.listen()
        assert token_of(memory) != token


# ── Connections ──────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def serving(service: LabellingService, folder: Path) -> Iterator[tuple[int, str]]:
    with bind_listener(folder / "page.json") as (listener, token):
        server = connections.Server(create_app(service, token))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1], token
        finally:
            server.should_exit = True
            thread.join()


def opened(port: int, sent: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(sent)
    return connection


def ended(connection: socket.socket) -> bool:
    """Wait until the other side has closed."""
    with suppress(ConnectionError):
        while connection.recv(1 << 16):
            pass
    return True


def works(port: int, token: str) -> bool:
    with urllib.request.urlopen(f"{link(port, token)}api/session", timeout=60) as reply:
        return reply.status == 200


def head(token: str, what: str) -> bytes:
    return f"POST /{token}/api/answers HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{what}".encode()


def test_connections_that_say_nothing_are_closed(
    service: LabellingService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "PATIENCE", 0.5)
    with serving(service, tmp_path) as (port, token), ExitStack() as open_ones:
        begun = [
            b"",
            b"GET / HT",
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n",
            head(token, "Content-Length: 900\r\n\r\n{"),
        ]
        for sent in begun * 3:
            assert ended(open_ones.enter_context(opened(port, sent)))
        # Nor is one that asks and never reads what it gets.
        image = f"GET /{token}/api/images/1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        deaf = open_ones.enter_context(socket.socket())
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        deaf.connect(("127.0.0.1", port))
        deaf.sendall(image * 2000)
        assert works(port, token)
        deaf.settimeout(60)
        gone = threading.Event()
        while not gone.is_set():  # until what is sent meets a closed connection
            try:
                deaf.sendall(image)
            except OSError:
                gone.set()


def test_headers_that_come_a_byte_at_a_time_are_not_waited_for(
    service: LabellingService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "PATIENCE", 0.5)
    with serving(service, tmp_path) as (port, token), opened(port, b"GET / HTTP/1.1\r\nX: ") as slow:
        slow.settimeout(0.05)
        closed = False
        while not closed:
            try:
                slow.sendall(b"x")
                closed = not slow.recv(1)
            except TimeoutError:
                pass
            except OSError:
                closed = True
        assert works(port, token)


def test_beyond_the_limit_the_silent_ones_go_and_the_page_is_served(
    service: LabellingService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "PATIENCE", 600.0)
    with serving(service, tmp_path) as (port, token), ExitStack() as open_ones:
        some = [open_ones.enter_context(opened(port, b"GET /")) for _ in range(3 * connections.CONNECTIONS)]
        assert works(port, token)
        assert all(ended(connection) for connection in some[: connections.CONNECTIONS])  # the oldest


@pytest.mark.parametrize("limit", [160, 72])
def test_where_files_run_out_the_page_says_it_once_and_goes_on(tmp_path: Path, limit: int) -> None:
    """With more connections than there are files: the page is there afterwards, and its terminal is not flooded."""

    def few_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    command = [sys.executable, pages.__file__, str(tmp_path / "run"), "points"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env=environment(), preexec_fn=few_files
    ) as server:
        try:
            assert server.stdout is not None and server.stderr is not None
            address = server.stdout.readline().strip()
            port, token = address.split(":")[2].split("/")[:2]
            with ExitStack() as open_ones:
                for _ in range(2 * limit):
                    with suppress(OSError):
                        open_ones.enter_context(opened(int(port), b"GET /"))
                if limit > connections.CONNECTIONS + connections.WAITING + 40:
                    assert works(int(port), token)
            assert works(int(port), token)
        finally:
            server.kill()
        log = server.stderr.read()
        assert "Traceback" not in log
        assert len(log.splitlines()) <= 2, log[:2000]


# ── Bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("Content-Length: 10\r\nTransfer-Encoding: chunked\r\n", 415),
        ("Transfer-Encoding: chunked\r\nContent-Length: 10\r\n", 415),
        ("Transfer-Encoding: Chunked\r\n", 415),
        ("Transfer-Encoding: gzip, chunked\r\nContent-Length: 10\r\n", 501),
        (f"Content-Length: {auth.MAX_BODY + 1}\r\n", 413),
        (f"Content-Length: {10**18}\r\n", 413),
        ("Content-Length: ١٠\r\n", 400),
        ("Content-Length: 1e3\r\n", 400),
        ("Content-Length: 10\r\nContent-Length: 11\r\n", 400),
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_body_is_as_long_as_it_says_and_no_longer_is_read(
    service: LabellingService, tmp_path: Path, headers: str, status: int, method: str
) -> None:
    """Whatever the headers promise, the server stops reading long before the limit."""
    with serving(service, tmp_path) as (port, token):
        what = head(token, headers + "\r\n").decode().replace("POST", method).encode()
        with opened(port, what) as connection:
            sent = 0
            with suppress(OSError):
                while sent < auth.MAX_BODY:
                    connection.sendall(b"100000\r\n" + b" " * 0x100000 + b"\r\n")
                    sent += 0x100000
            assert sent < auth.MAX_BODY // 2
            with suppress(ConnectionError):
                reply = http.client.HTTPResponse(connection)
                reply.begin()
                assert 400 <= reply.status <= status
        assert works(port, token)


@pytest.mark.anyio
async def test_bytes_are_counted_as_they_are_read() -> None:
    """Also where a server in front passes on more than the headers said."""
    parts, replies = [0], []

    async def receive() -> dict[str, Any]:
        parts[0] += 1
        return {"type": "http.request", "body": b"x" * (8 << 20), "more_body": True}

    async def send(message: Any) -> None:
        replies.append(message)

    async def app(*_: Any) -> None:
        pytest.fail("it was let in")

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"content-length", b"10")]
    scope = {"type": "http", "method": "POST", "path": f"/{TOKEN}/api/answers", "headers": headers}
    await auth.AuthMiddleware(app, TOKEN)(scope, receive, send)
    assert replies[0]["status"] == 413
    assert parts[0] == auth.MAX_BODY // (8 << 20) + 1
