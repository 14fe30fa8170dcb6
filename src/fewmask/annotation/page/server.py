"""The labelling page's server: on this machine alone, for whoever has the link.

The link of a run stays the same from one start to the next (`page.json`, readable by its owner alone), so that a page
that was left open when the server was killed finds it again and hands over what it still holds.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response

from fewmask.annotation.page.desk import Desk, Run, Sent, Unknown
from fewmask.annotation.page.guard import Guard
from fewmask.annotation.page.guesses import FOLDER, Guesses, Predictor
from fewmask.files import hold

HOST = "127.0.0.1"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

# 4xx: it will never be otherwise, and the page tells the annotator; 503: the page tries again.
STATUS: dict[type[Exception], int] = {
    Unknown: 404,
    ValueError: 409,
    RequestValidationError: 422,
    RecursionError: 422,
    sqlite3.OperationalError: 503,
    OSError: 503,
}


def create_app(desk: Desk, token: str) -> Guard:
    """The application: the page itself and what it asks for, all below `/token/`."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    page = {f.name: f.read_bytes() for f in files(__package__).joinpath("static").iterdir()}

    @app.get("/")
    def index() -> Response:
        return Response(page["index.html"], media_type="text/html")

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in page:
            raise Unknown(f"no file {name}")
        return Response(page[name], media_type=KINDS[Path(name).suffix])

    @app.get("/api/session")
    def session() -> dict[str, Any]:
        return desk.session()

    @app.get("/api/changes/{after}")
    def changes(after: int) -> dict[str, Any]:
        return desk.changes(after)

    @app.get("/api/questions/{number}")
    def question(number: int) -> dict[str, Any]:
        return desk.question(number)

    @app.get("/api/guesses/{number}")
    def guess(number: int) -> dict[str, Any]:
        return desk.guess(number)

    @app.get("/api/segments/{number}")
    def segments(number: int) -> dict[str, Any]:
        return desk.segments(number)

    @app.get("/api/images/{number}")
    def image(number: int) -> Response:
        return Response(desk.picture(number), media_type="image/bmp")

    @app.post("/api/answers")
    def answers(sent: Sent) -> dict[str, Any]:
        return desk.take(sent)

    for kind, status in STATUS.items():
        app.add_exception_handler(kind, _telling(status))
    return Guard(app, token)


def _telling(status: int) -> Callable[[Request, Exception], Response]:
    def told(request: Request, error: Exception) -> Response:
        wrong = error.errors() if isinstance(error, RequestValidationError) else []
        words = "; ".join(f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in wrong)
        return JSONResponse({"error": words or str(error)}, status)

    return told


def serve(
    folder: Path,
    run: Run,
    predictor: Predictor | None = None,
    port: int | None = None,
    tell: Callable[[str], None] = print,
) -> None:
    """Open the labelling page of a run until it is interrupted (Ctrl-C). `tell` hears the link.

    The port is any free one, or the same as last time. `predictor` is who guesses; without one, questions show the
    class that they were asked with, if any. Raises ValueError when nothing was asked, when the page is open already,
    or when the port is taken.
    """
    with door(folder / "page.json", port) as (listener, token):
        desk = Desk(run, Guesses(folder / FOLDER, predictor) if predictor else None)
        try:
            settings = uvicorn.Config(create_app(desk, token), access_log=False, log_level="warning", ws="none")
            tell(link(listener.getsockname()[1], token))
            with suppress(KeyboardInterrupt):  # uvicorn passes it on when it has ended
                uvicorn.Server(settings).run(sockets=[listener])
        finally:
            desk.close()


def link(port: int, token: str) -> str:
    return f"http://{HOST}:{port}/{token}/"


@contextmanager
def door(memory: Path, port: int | None = None) -> Iterator[tuple[socket.socket, str]]:
    """A socket and the token of its link: those of last time where the port is free, else new ones.

    Raises ValueError when the page is open already, or when the port that was asked for is taken.
    """
    before = _before(memory)
    go = f"go to {link(*before)}" if before else "end that one first"
    with hold(memory.with_name(f".{memory.stem}.lock"), "its page is open already, served", go):
        listener, token = None, secrets.token_urlsafe(24)
        if before and port in (None, before[0]) and (listener := _bound(before[0])):
            token = before[1]
        listener = listener or _bound(port or 0)
        if listener is None:
            raise ValueError(f"--port {port}: taken by another program; give another one, or none")
        with open(os.open(memory, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump({"port": listener.getsockname()[1], "token": token}, file)
        with listener:
            yield listener, token


def _before(memory: Path) -> tuple[int, str] | None:
    """The port and the token of last time; None where there are none."""
    try:
        data = json.loads(memory.read_text(encoding="utf-8"))
        return int(data["port"]), str(data["token"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _bound(port: int) -> socket.socket | None:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(128)  # who comes before the server is ready waits
    except OSError:
        listener.close()
        return None
    return listener
