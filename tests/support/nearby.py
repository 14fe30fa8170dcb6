"""A labelling page's server in a thread of this process: it starts at once."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pages
from browsing import Server

from fewmask.annotation.page import connections
from fewmask.annotation.page.address import Address
from fewmask.annotation.page.guesses import Guesses
from fewmask.annotation.page.listener import bind_listener, link
from fewmask.annotation.page.server import create_app
from fewmask.annotation.page.service import LabellingService
from fewmask.config import AnswerSettings


class Nearby(Server):
    """A server in a thread of this process, which starts at once."""

    def __init__(
        self,
        folder: Path,
        kind: str,
        each: int = 1,
        classes: int | None = None,
        learns: bool = False,
        trained: bool = False,
        address: Address | None = None,
    ) -> None:
        """`address` is for other machines; its page opens by the links of annotators alone."""
        self.address = address or Address()
        self.folder, self._domain, self._learns = folder, pages.streets(classes=classes), learns or trained
        self._trained = trained
        self._run = replace(pages.ask(folder, self._domain, kind), rule=AnswerSettings(each=each, decide="majority"))
        self.start()

    def start(self) -> None:
        opened = threading.Event()

        def serve() -> None:
            guesses = Guesses(self.folder / "guesses", pages.predictor(self._domain))
            with bind_listener(self.folder / "page.json", address=self.address) as (listener, token):
                selector = pages.selector()
                self.learner = pages.learner(self._domain, selector, self._trained) if self._learns else None
                service = LabellingService(self._run, guesses, selector, self.learner)
                self._server = connections.Server(
                    create_app(service, token, address=self.address), self.address.certificate
                )
                self.port = listener.getsockname()[1]
                self.link = link(self.port, token)
                opened.set()
                self._server.run(sockets=[listener])
                service.close()

        self._thread = threading.Thread(target=serve)
        self._thread.start()
        assert opened.wait(60)

    def kill(self) -> None:
        self._server.should_exit = True
        self._thread.join()
