"""Opening the labelling page."""

from __future__ import annotations

import os
import shlex
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fewmask.cli.links import links_by_name
from fewmask.cli.terminal import err, print_json, say

if TYPE_CHECKING:
    from fewmask.annotation.page.address import Address
    from fewmask.data.domain import Domain


def open_page(
    run: Path,
    domains: Mapping[str, Domain],
    annotator: str | None,
    only: Sequence[int],
    port: int | None,
    device: str,
    sam: tuple[Path, Path] | None,
    learn: bool,
    guidelines: Path | None,
    address: Address,
    as_json: bool,
) -> None:
    """Serve a campaign's open questions, or those of the ids `only`, until Ctrl-C.

    A trained network makes guesses, which learn from the answers if `learn` is true. `sam` are the encoder and the
    decoder of a SAM for smart select. `guidelines` is the folder of the class guidelines. `address` says who can open
    the page.
    """
    from fewmask.annotation.page.learning import Learner, labelled
    from fewmask.annotation.page.sam import Sam
    from fewmask.annotation.page.server import serve
    from fewmask.annotation.page.service import Run
    from fewmask.annotation.page.smart_select import ByFeatures
    from fewmask.campaigns.history import unit_of
    from fewmask.engine.device import choose_device
    from fewmask.engine.guess import predictor, untrained_encoder
    from fewmask.runs import RunFolder

    config = RunFolder(run).load_config()
    assert config.campaign is not None
    page_run = Run(
        run.resolve().name,
        RunFolder(run).ledger,
        domains,
        unit_of(config.campaign),
        annotator,
        config.campaign.answers,
        shlex.join(["fewmask", "campaign", str(RunFolder(run).config), "--out", str(run)]),
        frozenset(only) or None,
    )

    def announce(link: str) -> None:
        links = links_by_name(run)
        if as_json:
            print_json(({} if address.shared else {"link": link}) | ({"links": links} if links else {}))
            sys.stdout.flush()
            return
        reach = "only for those who have a link" if address.shared else "for this machine only"
        say(f"{link}\nThis is the labelling page, {reach}. Every answer is saved at once. Ctrl-C ends it.")
        for name, own in links.items():
            say(f"  {name}: {own}")
        if not address.shared and _has_screen():
            webbrowser.open(link)

    torch_device = choose_device(device)
    guesses = predictor(run, torch_device, config.train.precision)
    encode = guesses.encode if guesses else None
    if guesses is None and sam is None:
        try:
            encode = untrained_encoder(config, torch_device)
        except ValueError as error:  # people can answer without it
            say(f"Smart select is not available: {error}", err)
    selector = ByFeatures(encode) if encode else None
    learner = None
    if learn and guesses and guesses.head and selector:
        learner = Learner(selector.features, guesses.head, lambda name: labelled(domains[name]))
    serve(run, page_run, guesses, Sam(*sam) if sam else selector, learner, port, announce, guidelines, address)


def _has_screen() -> bool:
    """Whether there is a screen to open a browser on. A text browser in the terminal would hide the messages."""
    return sys.stdout.isatty() and (
        sys.platform == "darwin" or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())
    )
