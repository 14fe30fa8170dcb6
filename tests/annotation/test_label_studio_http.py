"""Whoever answers in a Label Studio's place: what is sent to strangers, and what of their replies is believed."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from annotating import domain, ledger_with, three

from fewmask.annotation import label_studio_http
from fewmask.annotation.label_studio_http import TOKEN, LabelStudio
from fewmask.annotation.label_studio_server import fetch_answers, send_questions
from fewmask.annotation.ledger import Ledger
from fewmask.annotation.tasks import identity

VERSION = {"release": "1.23.2", "label-studio-os-package": {"version": "1.23.2"}, "edition": "Community"}
SECRET = "0123456789abcdef" * 2
JWT = "eyJhbGciOi.eyJ0b2tlbl9.c2lnbmF0dXJl"

Reply = tuple[int, Any, dict[str, str]]


class Stranger:
    """A server that replies what a test tells it to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.replies: dict[str, Any] = {"/api/version/": VERSION}
        self.requests: list[tuple[str, str, str | None, bytes]] = []
        stranger = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def reply(self) -> None:
                path = self.path.partition("?")[0]
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                stranger.requests.append((self.command, path, self.headers.get("Authorization"), body))
                answer = stranger.replies.get(path, (404, {"detail": "Not found."}, {}))
                status, data, headers = answer if isinstance(answer, tuple) else (200, answer, {})
                raw = data if isinstance(data, bytes) else json.dumps(data).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(raw)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = reply  # noqa: N815

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    opened = Stranger()
    yield opened
    opened.close()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with ledger_with(domain(), *three(), path=tmp_path / "ledger.sqlite") as opened:
        yield opened


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("localhost:8080", "no address of a server; give one such as http://localhost:8080"),
        ("ftp://localhost", "no address of a server"),
        ("http://", "no address of a server"),
        ("http://[::1", "no address"),
        ("http://a..b", "no address"),
        ("http://localhost:99999", "no address"),
        ("http://localhost/?token=x", "an address with more than a path"),
        ("http://localhost/#x", "an address with more than a path"),
        ("http://local host", "no address"),
    ],
)
def test_what_is_no_address(address: str, message: str) -> None:
    with pytest.raises(ValueError, match="address") as error:
        LabelStudio(address, SECRET)
    assert message in str(error.value)


def test_a_password_in_the_address_is_not_repeated() -> None:
    with pytest.raises(ValueError, match=f"name or password in it; leave them out, and set {TOKEN}") as error:
        LabelStudio("http://ada:hunter2@localhost", SECRET)
    assert "hunter2" not in str(error.value)


def test_the_token_comes_from_the_environment(stranger: Stranger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    with pytest.raises(ValueError, match=f"no token: set the environment variable {TOKEN}"):
        LabelStudio(stranger.address)
    stranger.replies["/x"] = 1
    monkeypatch.setenv(TOKEN, f" {SECRET}\n")
    with LabelStudio(stranger.address) as server:
        assert server.get("/x") == 1
    assert stranger.requests[-1][2] == f"Token {SECRET}"
    for wrong in ("two words", "n\n\nX-Header: y", "ü", "a" * 10_001):
        with pytest.raises(ValueError, match="the token is invalid") as error:
            LabelStudio(stranger.address, wrong)
        assert wrong not in str(error.value)
    assert len(stranger.requests) == 2


def test_a_personal_token_is_exchanged_and_goes_nowhere_else(
    stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger.replies |= {"/api/token/refresh/": {"access": "minutes"}, "/x": [], "/y": []}
    with LabelStudio(stranger.address, JWT) as server:
        server.get("/x")
        server.get("/y")
        monkeypatch.setattr(label_studio_http, "FRESH", 0.0)
        server.get("/x")
    signed = [(path, who) for _, path, who, _ in stranger.requests]
    refresh = ("/api/token/refresh/", None)
    assert signed == [
        ("/api/version/", None),
        refresh,
        ("/x", "Bearer minutes"),
        ("/y", "Bearer minutes"),
        refresh,
        ("/x", "Bearer minutes"),
    ]
    assert [json.loads(body) for _, path, _, body in stranger.requests if path == refresh[0]] == [{"refresh": JWT}] * 2


NO_LABEL_STUDIO = {
    "another program": {"version": "1"},
    "a page": b"<html>",
    "no text": b"\xff\xfe",
    "not there": (404, b"", {}),
    "elsewhere": (302, b"", {"Location": "https://example.org/"}),
}


@pytest.mark.parametrize("what", NO_LABEL_STUDIO)
def test_who_is_no_label_studio_gets_no_token(stranger: Stranger, what: str) -> None:
    stranger.replies["/api/version/"] = NO_LABEL_STUDIO[what]
    with pytest.raises(ValueError, match=r"no Label Studio.*give the address at which Label Studio opens in a browser"):
        LabelStudio(stranger.address, SECRET)
    assert [(path, who) for _, path, who, _ in stranger.requests] == [("/api/version/", None)]


def test_the_enterprise_edition_is_refused(stranger: Stranger) -> None:
    stranger.replies["/api/version/"] = VERSION | {"edition": "Enterprise"}
    with pytest.raises(ValueError, match="Label Studio Enterprise, of which only the files are read"):
        LabelStudio(stranger.address, SECRET)


BAD_REPLIES: dict[str, tuple[Any, type[Exception], str]] = {
    "401": ((401, {"detail": "Invalid token."}, {}), ValueError, "401: it refuses the token; set LABEL_STUDIO_API_KEY"),
    "403": ((403, {}, {}), ValueError, "403: the token's user may not do that"),
    "404": ((404, {}, {}), ValueError, "404: not there; check the address"),
    "413": ((413, b"", {}), ValueError, "413: the request is too large"),
    "400": ((400, {"title": ["no"]}, {}), ValueError, '400: refused ({"title": ["no"]})'),
    "500": ((500, b"<h1>\x1b[2Joops", {}), OSError, "the server failed (500: <h1> [2Joops)"),
    "502": ((502, b"", {}), OSError, "see its log, then the same command goes on"),
    "elsewhere": ((301, b"", {"Location": "http://evil/"}), ValueError, "sends elsewhere, to 'http://evil/'"),
    "not JSON": (b"{", ValueError, "not JSON"),
    "no text": (b"\xff", ValueError, "not JSON"),
    "NaN": (b"NaN", ValueError, "NaN is no number"),
    "a key twice": (b'{"a": 1, "a": 2}', ValueError, "a key twice"),
    "deep": (b"[" * 100_000, ValueError, "nested too deeply"),
    "packed": ((200, b"\x1f\x8b", {"Content-Encoding": "gzip"}), ValueError, "packed as 'gzip', which was not asked"),
    "cut short": ((200, b"[]", {"Content-Length": "5"}), OSError, "go on with the same command"),
    "an echo": ((400, SECRET.encode(), {}), ValueError, "400: refused (…)"),
    "endless": ((400, b"x" * 5000, {}), ValueError, "x…)"),
}


@pytest.mark.parametrize("what", BAD_REPLIES)
def test_what_a_reply_may_not_be(stranger: Stranger, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger.replies["/x"], kind, message = BAD_REPLIES[what]
    if what == "cut short":
        monkeypatch.setattr(label_studio_http, "PATIENCE", 0.3)
    with LabelStudio(stranger.address, SECRET) as server, pytest.raises(kind) as error:
        server.get("/x")
    assert f"{stranger.address}/x: " in str(error.value) and message in str(error.value)
    assert SECRET not in str(error.value) and str(error.value).isprintable() and len(str(error.value)) < 700


def test_what_is_too_much(stranger: Stranger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_studio_http, "MAX_TEXT", 1000)
    monkeypatch.setattr(label_studio_http, "MAX_FILE", 3000)
    items = [{"text": "x" * 100}] * 10
    stranger.replies |= {"/x": b'"' + b"x" * 1000 + b'"', "/list": items, "/long": items * 3}
    with LabelStudio(stranger.address, SECRET) as server:
        with pytest.raises(ValueError, match="a reply of more than 1000 bytes"):
            server.get("/x")
        assert list(server.items("/list")) == items
        with pytest.raises(ValueError, match="a reply of more than 3000 bytes"):
            list(server.items("/long"))


def test_nobody_answers(stranger: Stranger, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setattr(label_studio_http, "PATIENCE", 0.2)
        with pytest.raises(TimeoutError, match="no answer in time"):
            LabelStudio(f"http://127.0.0.1:{port}", SECRET)
    with pytest.raises(ConnectionError, match="check the address and that the server runs"):
        LabelStudio(f"http://127.0.0.1:{port}", SECRET)


def with_project(stranger: Stranger, ledger: Ledger, **replies: Any) -> None:
    """The stranger says that it has the run's project, with all questions in a task."""
    project = {"id": 7, "description": f"fewmask run {identity(ledger)}, domain a\nkeep it"}
    stranger.replies |= {
        "/api/projects/": {"count": 1, "results": [project]},
        "/api/tasks/": {"total": 1, "tasks": [{"id": 1, "data": {"questions": [1, 2, 3]}}]},
        "/api/projects/7/export": [],
        **replies,
    }


STRANGE: dict[str, tuple[dict[str, Any], str]] = {
    "projects": ({"/api/projects/": []}, "[] where an object was expected"),
    "no count": ({"/api/projects/": {"results": [{"id": 1}]}}, "count is missing"),
    "no list": ({"/api/projects/": {"count": 1, "results": {}}}, "results is an object, not a list"),
    "no id": ({"/api/projects/": {"count": 1, "results": [{"id": "x"}]}}, "id is text, not a whole number"),
    "tasks": ({"/api/tasks/": {"total": 1, "tasks": [3]}}, "3 where an object was expected"),
    "uploads": (
        {"/api/tasks/": {"total": 0, "tasks": []}, "/api/projects/7/file-uploads": {"file": 1}},
        "where a list was expected",
    ),
    "forgotten": (
        {
            "/api/tasks/": {"total": 0, "tasks": []},
            "/api/projects/7/file-uploads": [],
            "/api/projects/7/import": {"file_upload_ids": [1]},
        },
        "it does not list the picture",
    ),
}


@pytest.mark.parametrize("what", STRANGE)
def test_lists_that_are_none(stranger: Stranger, ledger: Ledger, what: str) -> None:
    replies, message = STRANGE[what]
    with_project(stranger, ledger, **replies)
    with LabelStudio(stranger.address, SECRET) as server, pytest.raises(ValueError, match=re.escape(message)):
        send_questions(server, ledger, {"a": domain()}, "run")


def test_a_list_that_never_ends_does(stranger: Stranger, ledger: Ledger) -> None:
    with_project(stranger, ledger, **{"/api/tasks/": {"total": 10**9, "tasks": []}})
    stranger.replies |= {"/api/projects/7/file-uploads": (500, b"", {})}
    with LabelStudio(stranger.address, SECRET) as server, pytest.raises(OSError, match="the server failed"):
        send_questions(server, ledger, {"a": domain()}, "run")


@pytest.mark.parametrize(
    ("export", "message"),
    [
        (b'[{"id": 1}', "not a list of JSON objects that is whole"),
        (b'[{"id": "\xff"}]', "not UTF-8"),
        ([{"id": 1}], "task 1: it has no list of annotations"),
        ([{"id": 1, "annotations": [{"id": 5}]}], "projects/7: task 1, annotation 5: data is missing"),
        ((404, {}, {}), "404: not there"),
    ],
)
def test_exports_are_read_as_files_are(stranger: Stranger, ledger: Ledger, export: Any, message: str) -> None:
    with_project(stranger, ledger, **{"/api/projects/7/export": export})
    with (
        LabelStudio(stranger.address, SECRET) as server,
        pytest.raises(ValueError, match="nothing was imported") as error,
    ):
        fetch_answers(server, ledger, {"a": domain()}, "ann")
    assert message in str(error.value)
    assert ledger.answers() == []


def test_two_commands_at_once(stranger: Stranger, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    with_project(stranger, ledger)
    tell: Callable[..., Any] = LabelStudio.get

    def meanwhile(self: LabelStudio, path: str, **query: Any) -> Any:
        monkeypatch.setattr(LabelStudio, "get", tell)
        with Ledger(ledger.path) as other, pytest.raises(ValueError, match=r"being sent by process \d+ on .*; wait"):
            send_questions(self, other, {"a": domain()}, "run")
        return tell(self, path, **query)

    monkeypatch.setattr(LabelStudio, "get", meanwhile)
    with LabelStudio(stranger.address, SECRET) as server:
        assert send_questions(server, ledger, {"a": domain()}, "run").before == 3
