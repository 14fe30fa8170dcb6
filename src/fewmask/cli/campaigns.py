"""campaign, query, answer: rounds of training and asking, and what people do between them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewmask.cli.imports import print_import
from fewmask.cli.label_studio import fetch, is_address, send
from fewmask.cli.page import open_page
from fewmask.cli.tables import print_scores, rounds_table
from fewmask.cli.terminal import (
    ConfigFile,
    Device,
    Json,
    OutFolder,
    Overrides,
    RunFolder,
    out,
    print_json,
    say,
    training_progress,
)
from fewmask.paths import below, quoted
from fewmask.plurals import agreeing, count
from fewmask.stopping import exit_on_signal

if TYPE_CHECKING:
    from fewmask.annotation.importer import Mode
    from fewmask.annotation.ledger import Ledger
    from fewmask.annotation.questions import Question
    from fewmask.config import Config
    from fewmask.data.domain import Domain

Enough = Annotated[
    bool, typer.Option("--enough", help="Train on the answers there are; the rest may be answered for a later round.")
]


@exit_on_signal()
def campaign(
    config: ConfigFile,
    overrides: Overrides = None,
    folder: OutFolder = None,
    enough: Enough = False,
    accept_older_ledger: Annotated[
        bool,
        typer.Option("--accept-older-ledger", help="Go on though the ledger lacks answers that were learnt from."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Rounds of train, score, ask, learn. It stops when people have questions; the same command goes on."""
    from fewmask.cli.training import settled
    from fewmask.config import read_config

    settings = settled(read_config(config, overrides or []))
    folder = folder or below(Path("runs"), settings.name)
    summary = run_campaign(settings, folder, enough, accept_older_ledger)
    if as_json:
        print_json(summary)
    else:
        again = ["campaign", str(config), *(overrides or []), "--out", str(folder)]
        print_campaign(summary, folder, again)


def query(
    run: RunFolder,
    folder: Annotated[Path | None, typer.Option("--out", help="Where to write; RUN/questions by default.")] = None,
    tool: Annotated[
        str | None,
        typer.Option("--for", metavar="TOOL", help="folder (PNGs), label-studio, cvat or coco.", show_default="folder"),
    ] = None,
    annotator: Annotated[
        str | None,
        typer.Option(help="For whom: without what they have answered, in RUN/questions-NAME.", show_default="anybody"),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A Label Studio server to send to; its token in LABEL_STUDIO_API_KEY."),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Write a campaign's open questions for a tool: a folder of PNGs to paint in, or tasks to import.

    With them goes what the network expects there, pixel by pixel. With --to they go to a running Label Studio; the same
    command again sends what is not there yet.
    """
    from fewmask.annotation.tools import known_tools

    annotator = _name(annotator)
    domains = opened(run)
    from fewmask.engine.device import choose_device
    from fewmask.engine.guess import with_guesses

    domains = with_guesses(run, domains, choose_device(device))
    if to is not None:
        if folder is not None or annotator is not None or tool not in (None, "label-studio"):
            raise ValueError(
                "--to: goes to a Label Studio server for all its people, and nothing is written; leave out --out, "
                "--annotator and --for"
            )
        _send(run, domains, to, as_json)
        return
    tool = tool or "folder"
    if tool not in known_tools():
        raise ValueError(f"--for: no tool {tool!r}; there are {', '.join(known_tools())}")
    folder = folder or _folder_for(run, annotator)
    with ledger_of(run) as ledger:
        some = ledger.questions(open_only=True, annotator=annotator)
        asked = known_tools()[tool].write_questions(ledger, domains, folder, annotator=annotator) if some else []
    images = _images(asked)
    if as_json:
        print_json({"open": len(asked), "images": images, "folder": str(folder) if asked else None})
    elif not asked:
        whom = "" if annotator is None else f" to {annotator}"
        say(f"No question is open{whom} in {run}. {_next(run)}")
    else:
        if _finished(run):
            say("The campaign is done: answers are kept, and no training follows that would learn from them.")
        say(f"{_questions(asked)} in {folder}:")
        if tool == "folder":
            _paint(folder, run, annotator)
        else:
            say("  import them into the tool, answer, export (docs/formats.md says how), and hand over what it wrote:")
            say(f"  {shlex.join(['fewmask', 'answer', str(run), *_by(annotator), '--from'])} FILE")


def answer(
    run: RunFolder,
    answers: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="PATH|URL",
            help="The folder that was painted in, what Label Studio, CVAT or a COCO tool wrote, or the address of a "
            "Label Studio server, its token in LABEL_STUDIO_API_KEY.",
        ),
    ] = None,
    annotator: Annotated[
        str | None, typer.Option(help="Who answers; of a file, where the tool does not say it.", show_default="person")
    ] = None,
    only: Annotated[
        list[int] | None,
        typer.Option("--question", help="Ask this one (again), by its id, and no others; may be repeated."),
    ] = None,
    corrections: Annotated[
        bool,
        typer.Option("--corrections", help="With --from: answer also questions that are answered already."),
    ] = False,
    take_back: Annotated[
        bool, typer.Option("--take-back", help="With --from: take back the answers that came from there.")
    ] = False,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The page's port; any free one by default.")
    ] = None,
    device: Device = "auto",
    sam: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="ENCODER DECODER", help="Smart select by a SAM, from its two ONNX files."),
    ] = None,
    learn: Annotated[
        bool, typer.Option("--learn/--no-learn", help="Guesses learn from the answers while people give them.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Open the labelling page; or, with --from, take answers from painted masks, a tool's export or Label Studio.

    Of these all answers to open questions are taken or, where something is wrong with one, none. What is no answer is
    left aside, counted and named.
    """
    from fewmask.annotation.tools import known_tools, recognise

    annotator = _name(annotator)
    if only and answers is not None:
        raise ValueError("--question: chooses what the page asks, and --from opens none; leave one of the two out")
    if ((corrections or take_back) and answers is None) or (corrections and take_back):
        raise ValueError("--corrections, --take-back: one of them, and with --from, which says what is meant")
    if sam and answers is not None:
        raise ValueError("--sam: is for the page, and --from opens none; leave one of the two out")
    domains = opened(run)
    if answers is None:
        open_page(run, domains, annotator, only or (), port, device, sam, learn, as_json)
        if not as_json:
            with ledger_of(run) as ledger:
                _still_open(run, ledger.questions(open_only=True))
        return
    mode: Mode = "corrections" if corrections else "take-back" if take_back else "open"
    with ledger_of(run) as ledger:
        if is_address(answers):
            counts = fetch(answers, ledger, domains, annotator or "person", mode)
        else:
            file = Path(answers)
            tool = recognise(file)
            who = _who(file, tool, annotator, ledger.rule.each)
            counts = known_tools()[tool].read_answers(ledger, domains, file, who, mode)
        still, rule = ledger.questions(open_only=True), ledger.rule.decide
    if as_json:
        print_json(asdict(counts) | {"open": len(still), "images": _images(still)})
    else:
        print_import(counts, rule, shlex.join(["fewmask", "answer", str(run), "--from", answers, *_by(annotator)]))
        _still_open(run, still)


def run_campaign(config: Config, folder: Path, enough: bool, accept_older_ledger: bool = False) -> dict[str, Any]:
    """Run a campaign, or go on with it, and tell how far it is."""
    from fewmask.acquisition.budget import counted
    from fewmask.campaigns import campaign as go_on
    from fewmask.campaigns.history import unit_of

    def spent() -> str:
        assert config.campaign is not None
        with ledger_of(folder) as ledger:
            now = ledger.progress()
        of = f"{now.answered:,} of {count(now.asked, 'question')} answered"
        return f"asked for {counted(now.cost, unit_of(config.campaign))}, {of}" if now.asked else ""

    with training_progress(spent) as observe:
        return go_on(config, folder, observe, enough, accept_older_ledger)


def print_campaign(summary: Mapping[str, Any], folder: Path, again: Sequence[str]) -> None:
    """What a campaign has come to. `again` are the arguments that go on with it."""
    from fewmask.acquisition.budget import counted

    if summary["state"] == "done" and summary["result"]:
        print_scores(summary["result"], f"{summary['result']['method']}: {folder}")
    if summary["history"]:
        from fewmask.campaigns.forecast import forecast_words
        from fewmask.runs import Forecast

        out.print(rounds_table(summary["history"], summary["unit"]))
        say(forecast_words(Forecast.model_validate(summary["forecast"]) if summary["forecast"] else None))
    for change in summary["changes"]:
        say(f"Since round {change['round']}: {change['key']} {change['now']}, before {change['before']}.")
    done = summary["state"] == "done"
    if summary["budget"]:
        so_far = "" if done else " so far"
        say(f"Asked for {counted(summary['spent'], summary['unit'])} of a budget of {summary['budget']:,.0f}{so_far}.")
    if done and summary["open"]:
        stay = agreeing(summary["open"], "stays", "stay")
        say(f"{count(summary['open'], 'question')} {stay} open; no training is left that would learn from the answers.")
    if summary["state"] == "waiting":
        with ledger_of(folder) as ledger:
            asked = ledger.questions(summary["round"], open_only=True)
            each = None if ledger.rule.each == 1 else "NAME"  # each paints in a folder of their own
        command = shlex.join(["fewmask", *again])
        say(f"Round {summary['round'] + 1} of {summary['rounds']} waits for answers: {_questions(asked)}. Next:")
        say(f"  fewmask answer {shlex.quote(str(folder))}\nor, with a painting program:")
        say(f"  {shlex.join(['fewmask', 'query', str(folder), *_by(each)])}")
        _paint(_folder_for(folder, each), folder, each)
        say(f"and then, to go on:\n  {command}\nor, to train on the answers there are:\n  {command} --enough")
        if summary["round"] == summary["rounds"] - 1:
            say("The training that follows is the last: what is open then is not learnt from.")


def _send(run: Path, domains: Mapping[str, Domain], to: str, as_json: bool) -> None:
    with ledger_of(run) as ledger:
        asked = ledger.questions(open_only=True)
        sent: dict[str, Any] = {"sent": 0, "sent_before": 0, "projects": {}}
        if asked:
            sent = send(to, run, ledger, domains)
    if as_json:
        print_json({"open": len(asked), "images": _images(asked)} | sent)
    elif not asked:
        say(f"No question is open in {run}. {_next(run)}")
    else:
        say(f"{_questions(asked)}: {sent['sent']} sent now, {sent['sent_before']} there before.")
        for domain, address in sent["projects"].items():
            say(f"  {domain}: {address}")
        say(f"Whenever people have answered some:\n  {shlex.join(['fewmask', 'answer', str(run), '--from', to])}")


def _folder_for(run: Path, annotator: str | None) -> Path:
    """Where an annotator's questions go, whatever they are called."""
    return run / "questions" if annotator is None else below(run, f"questions-{quoted(annotator)}")


def _name(given: str | None) -> str | None:
    """An annotator's name as it was typed, without what nobody sees. Raises ValueError where nothing is left."""
    if given is not None and not given.strip():
        raise ValueError(f"--annotator {given!r}: no name; say one, or leave the option out")
    return None if given is None else given.strip()


def _who(file: Path, tool: str, annotator: str | None, each: int) -> str:
    """Who painted what lies at a path, where the tool does not say it."""
    from fewmask.annotation.folder import written_for

    meant = written_for(file) if tool == "folder" else None
    if meant is not None and annotator not in (None, meant):
        raise ValueError(
            f"--annotator {annotator}: {file} was written for {meant}; leave the name out, or give {annotator}'s folder"
        )
    if meant is None and annotator is None and each > 1 and tool != "label-studio":
        raise ValueError(
            f"--annotator: missing, and every question is asked of {each} people; say who painted {file}, always by "
            "one name"
        )
    return annotator or meant or "person"


def _by(annotator: str | None) -> list[str]:
    return [] if annotator is None else ["--annotator", annotator]


def _paint(folder: Path, run: Path, annotator: str | None = None) -> None:
    say(f"  paint {folder}/<domain>/labels/*.png where asked/ shows it, with the ids of classes.yaml")
    say(f"  {shlex.join(['fewmask', 'answer', str(run), '--from', str(folder), *_by(annotator)])}")


def _still_open(run: Path, questions: Sequence[Question]) -> None:
    if _finished(run):
        say("The campaign is done: answers are kept, `fewmask campaign` puts them into labels/, no training follows.")
    elif questions:
        say(f"{_questions(questions)}. The campaign waits for them, or goes on without them: --enough.")
    else:
        say("No question is open: the same `fewmask campaign` command goes on.")


def _finished(run: Path) -> bool:
    from fewmask.runs import RunFolder

    return RunFolder(run).finished


def _next(run: Path) -> str:
    goes_on = "Its `fewmask campaign` command goes on, and asks the next ones."
    return "Its campaign is done." if _finished(run) else goes_on


def _questions(asked: Sequence[Question]) -> str:
    are = agreeing(len(asked), "is", "are")
    return f"{count(len(asked), 'question')} {are} open in {count(_images(asked), 'image')}"


def _images(asked: Sequence[Question]) -> int:
    return len({(question.domain, question.stem) for question in asked})


def opened(run: Path) -> dict[str, Domain]:
    """The domains of a campaign's run. Raises ValueError for any other folder."""
    from fewmask.data.domains import load_domains
    from fewmask.runs import RunFolder

    config = RunFolder(run).load_config()
    if config.campaign is None or not RunFolder(run).ledger.exists():
        raise ValueError(
            f"{run}: a run of `fewmask train`, which asks nothing; give the folder that `fewmask campaign` wrote"
        )
    return load_domains(config)


@contextmanager
def ledger_of(run: Path) -> Iterator[Ledger]:
    """The ledger of a campaign's run, to be read as its settings say."""
    from fewmask.annotation.ledger import Ledger
    from fewmask.runs import RunFolder

    settings, path = RunFolder(run).load_config().campaign, RunFolder(run).ledger
    assert settings is not None
    with Ledger(path, settings.answers) as ledger:
        yield ledger
