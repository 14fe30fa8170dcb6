"""The labelling page's server. It listens on this machine alone, unless another address is given."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.resources import files
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response

from fewmask.annotation.page.address import Address
from fewmask.annotation.page.auth import ANNOTATOR, AuthMiddleware
from fewmask.annotation.page.connections import Server
from fewmask.annotation.page.guesses import FOLDER, Guesses, Predictor
from fewmask.annotation.page.guidelines import GuidelineFolder
from fewmask.annotation.page.learning import Learner
from fewmask.annotation.page.links import Links
from fewmask.annotation.page.listener import FILE, bind_listener, link
from fewmask.annotation.page.review import Card, Filter, Listing, Review, SentVerdict, State
from fewmask.annotation.page.service import LabellingService, Lease, Run, Sent, Unknown
from fewmask.annotation.page.smart_select import Prompt, Selector
from fewmask.annotation.page.team import Presence
from fewmask.annotation.store import Unavailable

Number = Annotated[int, Path(ge=0, lt=1 << 63)]
"""The id of a question or an answer, within SQLite's range."""
GUIDELINES = "guidelines"
"""The folder of a run that its class guidelines are in, unless another one is named."""
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

# After 4xx the page shows the error to the annotator; after 503 it tries again.
STATUS: dict[type[Exception], int] = {
    Unknown: 404,
    ValueError: 409,
    RequestValidationError: 422,
    RecursionError: 422,
    Unavailable: 503,
    OSError: 503,
}


def create_app(
    service: LabellingService,
    token: str,
    guidelines: GuidelineFolder | None = None,
    address: Address | None = None,
) -> AuthMiddleware:
    """The application with the page and its API, all below `/token/` and the tokens of the run's links.

    By default it reads the run's guidelines and is for this machine alone, where `token` opens it too.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    review, presence = Review(service), Presence()
    links = Links(service.run.ledger.parent)

    def act_as(request: Request, name: str) -> None:
        """Note that an annotator is there. Raises ValueError where the request's link is somebody else's."""
        own = request.scope[ANNOTATOR]
        if own is not None and name != own:
            raise ValueError(f"this link is {own}'s, and nothing can be done by it as {name}; open the link of {name}")
        presence.see(name)

    guidelines = guidelines or GuidelineFolder(service.run.ledger.parent / GUIDELINES, service.run.domains)
    page = {f.name: f.read_bytes() for f in files(__package__).joinpath("static").iterdir()}

    @app.get("/")
    def index() -> Response:
        return Response(page["index.html"], media_type="text/html")

    @app.get("/review")
    def gallery() -> Response:
        return Response(page["review.html"], media_type="text/html")

    @app.get("/guidelines")
    def guidelines_page() -> Response:
        return Response(page["guidelines.html"], media_type="text/html")

    @app.get("/team")
    def team_page() -> Response:
        return Response(page["team.html"], media_type="text/html")

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in page:
            raise Unknown(f"no file {name}")
        return Response(page[name], media_type=KINDS[FilePath(name).suffix])

    @app.get("/api/session")
    def session(request: Request) -> dict[str, Any]:
        name = request.scope[ANNOTATOR]
        return service.session() | {"named": False} | ({"annotator": name, "named": True} if name else {})

    @app.get("/api/changes/{after}")
    def changes(after: Number, request: Request) -> dict[str, Any]:
        if name := request.scope[ANNOTATOR]:
            presence.see(name)
        return service.changes(after)

    @app.get("/api/questions/{number}")
    def question(number: Number) -> dict[str, Any]:
        return service.question(number)

    @app.get("/api/guesses/{number}")
    def guess(number: Number) -> dict[str, Any]:
        return service.guess(number)

    @app.get("/api/likely/{number}")
    def likely(number: Number) -> dict[str, Any]:
        return service.likely(number)

    @app.get("/api/segments/{number}")
    def segments(number: Number) -> dict[str, Any]:
        return service.segments(number)

    @app.get("/api/prepared/{number}")
    def prepared(number: Number) -> dict[str, Any]:
        return service.prepare(number)

    @app.post("/api/selections/{number}")
    def selections(number: Number, prompt: Prompt) -> Response:
        scores = service.select(number, prompt)
        return Response(bytes([scores.threshold]) + scores.values.tobytes(), media_type="application/octet-stream")

    @app.get("/api/answers-around/{number}")
    def answers_around(number: Number) -> dict[str, Any]:
        return service.answers_around(number)

    @app.get("/api/images/{number}")
    def image(number: Number) -> Response:
        return Response(service.picture(number), media_type="image/bmp")

    @app.post("/api/answers")
    def answers(sent: Sent, request: Request) -> dict[str, Any]:
        act_as(request, sent.annotator)
        if sent.takes_back is not None and (name := service.index.annotator_of(sent.takes_back)):
            act_as(request, name)
        return service.take(sent)

    @app.post("/api/leases")
    def leases(lease: Lease, request: Request) -> dict[str, Any]:
        act_as(request, lease.annotator)
        return service.lease(lease)

    @app.get("/api/review")
    def listing(
        request: Request,
        state: State | Literal["all"] = "open",
        domain: str | None = None,
        value: int | None = None,
        annotator: str | None = None,
        disputed: bool = False,
    ) -> Listing:
        found, name = review.listing(Filter(state, domain, value, annotator, disputed)), request.scope[ANNOTATOR]
        return replace(found, annotator=name, named=True) if name else found

    @app.get("/api/review/cards")
    def cards(number: Annotated[list[Number], Query()]) -> list[Card]:
        return review.cards(number)

    @app.get("/api/review/pictures/{number}")
    def small_picture(number: Number) -> Response:
        return Response(review.picture(number), media_type="image/png")

    @app.post("/api/verdicts")
    def verdicts(sent: SentVerdict, request: Request) -> Card:
        act_as(request, sent.reviewer)
        return review.judge(sent)

    @app.get("/api/team")
    def team() -> dict[str, Any]:
        with service.open_ledger() as ledger:
            work = ledger.work()
        members = presence.team(links.names(), work, service.leases.held())
        return {"run": service.run.name, "people": members}

    @app.get("/api/guidelines")
    def guideline_texts() -> dict[str, Any]:
        return guidelines.record() | {"run": service.run.name}

    @app.get("/api/guidelines/pictures/{number}")
    def guideline_picture(number: Number) -> Response:
        picture = guidelines.picture(number)
        if picture is None:
            raise Unknown(f"no picture {number}; reload the page")
        return Response(picture[1], media_type=picture[0])

    for kind, status in STATUS.items():
        app.add_exception_handler(kind, _error_reply(status))
    return AuthMiddleware(app, token, links, address)


def _error_reply(status: int) -> Callable[[Request, Exception], Response]:
    def reply(request: Request, error: Exception) -> Response:
        errors = error.errors() if isinstance(error, RequestValidationError) else []
        message = "; ".join(f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in errors) or str(error)
        return JSONResponse({"error": message.encode(errors="backslashreplace").decode()}, status)

    return reply


def serve(
    folder: FilePath,
    run: Run,
    predictor: Predictor | None = None,
    selector: Selector | None = None,
    learner: Learner | None = None,
    port: int | None = None,
    tell: Callable[[str], None] = print,
    guidelines: FilePath | None = None,
    address: Address | None = None,
) -> None:
    """Serve the labelling page of a run until it is interrupted (Ctrl-C).

    `tell` is called with the link of the page's owner, or with the page's address where only named links open it.

    The port is described at `bind_listener`. `predictor` makes the guesses; without one, questions show the class that
    they were asked with, if any. `selector` computes smart selections, and `learner` improves the guesses. `guidelines`
    is the folder of the class guidelines. Raises ValueError when nothing was asked, when the guidelines or the file of
    links are not valid, when nobody has a link to a page for other machines, when the page is open already, or when the
    port is taken.
    """
    address = address or Address()
    if not Links(folder).tokens() and address.shared:
        raise ValueError(
            f"{folder}: nobody has a link, and without one nothing opens; make one for each annotator first, also for "
            f"yourself: fewmask links {shlex.quote(str(folder))} --add NAME"
        )
    texts = GuidelineFolder(guidelines or folder / GUIDELINES, run.domains, required=guidelines is not None)
    with bind_listener(folder / FILE, port, address) as (listener, token):
        service = LabellingService(run, Guesses(folder / FOLDER, predictor) if predictor else None, selector, learner)
        try:
            number = listener.getsockname()[1]
            tell(f"{address.base(number)}/" if address.shared else link(number, token))
            with suppress(KeyboardInterrupt):  # uvicorn passes it on when it has ended
                app = create_app(service, token, texts, address)
                Server(app, address.certificate).run(sockets=[listener])
        finally:
            service.close()
