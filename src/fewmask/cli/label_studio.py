"""query --to and answer --from with the address of a Label Studio server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewmask.cli.terminal import counting

if TYPE_CHECKING:
    from fewmask.annotation.importer import Import, Mode
    from fewmask.annotation.ledger import Ledger
    from fewmask.data.domain import Domain


def is_address(text: str) -> bool:
    return text.lower().startswith(("http:", "https:"))


def send(address: str, run: Path, ledger: Ledger, domains: Mapping[str, Domain]) -> dict[str, Any]:
    """Send the open questions. Returns how many were sent now and before, and the addresses of the projects."""
    from fewmask.annotation.label_studio_http import LabelStudio
    from fewmask.annotation.label_studio_server import send_questions

    with LabelStudio(address) as server, counting("send images") as observe:
        sent = send_questions(server, ledger, domains, run.resolve().name, observe=observe)
    return {"sent": sent.new, "sent_before": sent.before, "projects": dict(sent.projects)}


def fetch(address: str, ledger: Ledger, domains: Mapping[str, Domain], annotator: str, mode: Mode) -> Import:
    from fewmask.annotation.label_studio_http import LabelStudio
    from fewmask.annotation.label_studio_server import fetch_answers

    with LabelStudio(address) as server:
        return fetch_answers(server, ledger, domains, annotator, mode)
