"""answer: open the labelling page, or import answers."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewmask.cli.campaigns import annotator_name, annotator_option, image_count, ledger_of, opened, still_open
from fewmask.cli.imports import print_import
from fewmask.cli.label_studio import fetch, is_address
from fewmask.cli.page import open_page
from fewmask.cli.terminal import Device, Json, RunFolder, print_json

if TYPE_CHECKING:
    from fewmask.annotation.importer import Mode


def answer(
    run: RunFolder,
    answers: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="PATH|URL",
            help="The painted folder, an export of Label Studio, CVAT or a COCO tool, or the address of a Label Studio "
            "server, with its token in LABEL_STUDIO_API_KEY.",
        ),
    ] = None,
    annotator: Annotated[
        str | None,
        typer.Option(help="The annotator's name, unless the file of a tool states it.", show_default="person"),
    ] = None,
    only: Annotated[
        list[int] | None,
        typer.Option("--question", help="Ask only the question with this id, also if it is answered; may be repeated."),
    ] = None,
    corrections: Annotated[
        bool,
        typer.Option("--corrections", help="With --from: import answers to answered questions too."),
    ] = False,
    take_back: Annotated[
        bool, typer.Option("--take-back", help="With --from: take back the answers of an earlier import.")
    ] = False,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The page's port; any free one by default.")
    ] = None,
    device: Device = "auto",
    sam: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="ENCODER DECODER", help="Use a SAM for smart select, from its two ONNX files."),
    ] = None,
    learn: Annotated[
        bool, typer.Option("--learn/--no-learn", help="Let guesses learn from the answers while people give them.")
    ] = True,
    guidelines: Annotated[
        Path | None,
        typer.Option(help="The folder of the class guidelines.", show_default="RUN/guidelines"),
    ] = None,
    public_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Serve the page to other machines too, which open it by this https address."),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Where to listen, with --public-url.", show_default="127.0.0.1"),
    ] = None,
    tls: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="CERTIFICATE KEY", help="With --public-url: speak TLS here, with no proxy in front."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Open the labelling page. With --from, import answers from painted masks, a tool's export or Label Studio.

    Imports all answers to open questions, or none if any is invalid. Everything else is left out, counted and named.
    """
    from fewmask.annotation.page.address import Address
    from fewmask.annotation.tools import known_tools, recognise

    annotator = annotator_name(annotator)
    if only and answers is not None:
        raise ValueError("--question: is for the page, which --from does not open; leave one of the two out")
    if ((corrections or take_back) and answers is None) or (corrections and take_back):
        raise ValueError("--corrections, --take-back: give only one of them, together with --from")
    page_options = {"--sam": sam, "--guidelines": guidelines, "--public-url": public_url, "--host": host, "--tls": tls}
    for option, value in page_options.items():
        if value is not None and answers is not None:
            raise ValueError(f"{option}: is for the page, which --from does not open; leave one of the two out")
    domains = opened(run)
    if answers is None:
        address = Address(host or "127.0.0.1", public_url, tls)
        open_page(run, domains, annotator, only or (), port, device, sam, learn, guidelines, address, as_json)
        if not as_json:
            with ledger_of(run) as ledger:
                still_open(run, ledger.questions(open_only=True))
        return
    mode: Mode = "corrections" if corrections else "take-back" if take_back else "open"
    with ledger_of(run) as ledger:
        if is_address(answers):
            counts = fetch(answers, ledger, domains, annotator or "person", mode)
        else:
            file = Path(answers)
            tool = recognise(file)
            person = _answering_person(file, tool, annotator, ledger.rule.each)
            counts = known_tools()[tool].read_answers(ledger, domains, file, person, mode)
        open_questions, rule = ledger.questions(open_only=True), ledger.rule.decide
    if as_json:
        print_json(asdict(counts) | {"open": len(open_questions), "images": image_count(open_questions)})
    else:
        print_import(
            counts, rule, shlex.join(["fewmask", "answer", str(run), "--from", answers, *annotator_option(annotator)])
        )
        still_open(run, open_questions)


def _answering_person(file: Path, tool: str, annotator: str | None, each: int) -> str:
    """The annotator of the answers at a path, unless the tool states it."""
    from fewmask.annotation.folder import written_for

    folder_owner = written_for(file) if tool == "folder" else None
    if folder_owner is not None and annotator not in (None, folder_owner):
        raise ValueError(
            f"--annotator {annotator}: {file} was written for {folder_owner}; leave the name out, or give the "
            f"folder of {annotator}"
        )
    if folder_owner is None and annotator is None and each > 1 and tool != "label-studio":
        raise ValueError(
            f"--annotator: missing, and every question is asked of {each} people; give the name of the person who "
            f"painted {file}, always in the same spelling"
        )
    return annotator or folder_owner or "person"
