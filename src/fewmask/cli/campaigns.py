"""campaign, query: run the rounds of a campaign, and hand out its questions between them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewmask.cli.label_studio import send
from fewmask.cli.tables import print_scores, rounds_table
from fewmask.cli.terminal import (
    ConfigFile,
    Device,
    Json,
    OutFolder,
    Overrides,
    RunFolder,
    err,
    out,
    print_json,
    say,
    training_progress,
)
from fewmask.paths import below, quoted
from fewmask.plurals import agreeing, count
from fewmask.stopping import exit_on_signal

if TYPE_CHECKING:
    from fewmask.annotation.ledger import Ledger
    from fewmask.annotation.questions import Question
    from fewmask.config import Config
    from fewmask.data.domain import Domain

Enough = Annotated[
    bool, typer.Option("--enough", help="Train on the present answers; other questions stay open for a later round.")
]


@exit_on_signal()
def campaign(
    config: ConfigFile,
    overrides: Overrides = None,
    folder: OutFolder = None,
    enough: Enough = False,
    accept_older_ledger: Annotated[
        bool,
        typer.Option("--accept-older-ledger", help="Go on although the ledger lacks answers that a training used."),
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Wait for people's answers, and go on by itself when they are enough.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run rounds of training, scoring the pool, and asking. It stops for people's answers; the same command goes on."""
    from fewmask.cli.training import settled
    from fewmask.config import read_config

    settings = settled(read_config(config, overrides or []))
    folder = folder or below(Path("runs"), settings.name)
    if watch and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("--watch: waits in one process; leave it out under torchrun, and give the command when needed")
    summary = run_campaign(settings, folder, enough, accept_older_ledger)
    if watch:
        from fewmask.campaigns.watching import wait_and_go_on

        summary = wait_and_go_on(
            folder, settings, lambda: run_campaign(settings, folder, False), summary, lambda line: say(line, err)
        )
    if as_json:
        print_json(summary)
    else:
        again = ["campaign", str(config), *(overrides or []), "--out", str(folder)]
        print_campaign(summary, folder, again)


def query(
    run: RunFolder,
    folder: Annotated[
        Path | None, typer.Option("--out", help="The folder to write to; RUN/questions by default.")
    ] = None,
    tool: Annotated[
        str | None,
        typer.Option("--for", metavar="TOOL", help="folder (PNGs), label-studio, cvat or coco.", show_default="folder"),
    ] = None,
    annotator: Annotated[
        str | None,
        typer.Option(
            help="Leave out what this annotator has answered; write to RUN/questions-NAME.", show_default="anybody"
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Send to this Label Studio server; its token is in LABEL_STUDIO_API_KEY."),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Write a campaign's open questions for a tool: a folder of PNGs to paint in, or tasks to import.

    The network's predictions go with them, pixel by pixel. With --to the questions go to a running Label Studio; the
    same command again sends only new ones.
    """
    from fewmask.annotation.tools import known_tools

    annotator = annotator_name(annotator)
    domains = opened(run)
    from fewmask.engine.device import choose_device
    from fewmask.engine.guess import with_guesses

    domains = with_guesses(run, domains, choose_device(device))
    if to is not None:
        if folder is not None or annotator is not None or tool not in (None, "label-studio"):
            raise ValueError(
                "--to: sends to all people of a Label Studio server and writes no files; leave out --out, --annotator "
                "and --for"
            )
        _send(run, domains, to, as_json)
        return
    tool = tool or "folder"
    if tool not in known_tools():
        raise ValueError(f"--for: no tool {tool!r}; there are {', '.join(known_tools())}")
    folder = folder or _folder_for(run, annotator)
    with ledger_of(run) as ledger:
        open_questions = ledger.questions(open_only=True, annotator=annotator)
        written = (
            known_tools()[tool].write_questions(ledger, domains, folder, annotator=annotator) if open_questions else []
        )
    images = image_count(written)
    if as_json:
        print_json({"open": len(written), "images": images, "folder": str(folder) if written else None})
    elif not written:
        addressee = "" if annotator is None else f" to {annotator}"
        say(f"No question is open{addressee} in {run}. {_next_step(run)}")
    else:
        if _finished(run):
            say("The campaign is done: answers are saved, but no training follows that uses them.")
        say(f"{_open_in_words(written)} in {folder}:")
        if tool == "folder":
            _say_how_to_paint(folder, run, annotator)
        else:
            say("  import them into the tool, answer, and export (see docs/formats.md). Then give the exported file:")
            say(f"  {shlex.join(['fewmask', 'answer', str(run), *annotator_option(annotator), '--from'])} FILE")


def run_campaign(config: Config, folder: Path, enough: bool, accept_older_ledger: bool = False) -> dict[str, Any]:
    """Run a campaign or resume it, and return its summary."""
    from fewmask.acquisition.budget import counted
    from fewmask.campaigns import campaign as go_on
    from fewmask.campaigns.history import unit_of

    def spent() -> str:
        assert config.campaign is not None
        with ledger_of(folder) as ledger:
            progress = ledger.progress()
        answers = f"{progress.answered:,} of {count(progress.asked, 'question')} answered"
        return f"asked for {counted(progress.cost, unit_of(config.campaign))}, {answers}" if progress.asked else ""

    with training_progress(spent) as observe:
        return go_on(config, folder, observe, enough, accept_older_ledger)


def print_campaign(summary: Mapping[str, Any], folder: Path, again: Sequence[str]) -> None:
    """Print the results and the progress of a campaign. `again` are the arguments that resume it."""
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
        say(f"{count(summary['open'], 'question')} {stay} open; no training follows that uses the answers.")
    if summary["state"] == "waiting":
        with ledger_of(folder) as ledger:
            questions = ledger.questions(summary["round"], open_only=True)
            each = None if ledger.rule.each == 1 else "NAME"  # each annotator has a folder
        command = shlex.join(["fewmask", *again])
        say(
            f"Round {summary['round'] + 1} of {summary['rounds']} waits for answers: {_open_in_words(questions)}. Next:"
        )
        say(f"  fewmask answer {shlex.quote(str(folder))}\nor, with a painting program:")
        say(f"  {shlex.join(['fewmask', 'query', str(folder), *annotator_option(each)])}")
        _say_how_to_paint(_folder_for(folder, each), folder, each)
        say(f"and then, to go on:\n  {command}\nor, to train on the present answers:\n  {command} --enough")
        if summary["round"] == summary["rounds"] - 1:
            say("The next training is the last one; it ignores questions that are still open.")


def _send(run: Path, domains: Mapping[str, Domain], to: str, as_json: bool) -> None:
    with ledger_of(run) as ledger:
        questions = ledger.questions(open_only=True)
        sent: dict[str, Any] = {"sent": 0, "sent_before": 0, "projects": {}}
        if questions:
            sent = send(to, run, ledger, domains)
    if as_json:
        print_json({"open": len(questions), "images": image_count(questions)} | sent)
    elif not questions:
        say(f"No question is open in {run}. {_next_step(run)}")
    else:
        say(f"{_open_in_words(questions)}: {sent['sent']} sent now, {sent['sent_before']} there before.")
        for domain, address in sent["projects"].items():
            say(f"  {domain}: {address}")
        say(f"To import the answers at any time:\n  {shlex.join(['fewmask', 'answer', str(run), '--from', to])}")


def _folder_for(run: Path, annotator: str | None) -> Path:
    """The folder of an annotator's questions; any name is safe."""
    return run / "questions" if annotator is None else below(run, f"questions-{quoted(annotator)}")


def annotator_name(text: str | None) -> str | None:
    """An annotator's name without spaces around it. Raises ValueError for an empty name."""
    if text is not None and not text.strip():
        raise ValueError(f"--annotator {text!r}: the name is empty; give a name, or leave the option out")
    return None if text is None else text.strip()


def annotator_option(annotator: str | None) -> list[str]:
    return [] if annotator is None else ["--annotator", annotator]


def _say_how_to_paint(folder: Path, run: Path, annotator: str | None = None) -> None:
    say(f"  paint {folder}/<domain>/labels/*.png at the places that asked/ shows, with the ids of classes.yaml")
    say(f"  {shlex.join(['fewmask', 'answer', str(run), '--from', str(folder), *annotator_option(annotator)])}")


def still_open(run: Path, questions: Sequence[Question]) -> None:
    if _finished(run):
        say("The campaign is done: `fewmask campaign` writes the answers to labels/, but no training follows.")
    elif questions:
        say(f"{_open_in_words(questions)}. The campaign waits for the answers; with --enough it goes on without them.")
    else:
        say("No question is open: the same `fewmask campaign` command goes on.")


def _finished(run: Path) -> bool:
    from fewmask.runs import RunFolder

    return RunFolder(run).finished


def _next_step(run: Path) -> str:
    goes_on = "Its `fewmask campaign` command goes on and asks the next questions."
    return "Its campaign is done." if _finished(run) else goes_on


def _open_in_words(questions: Sequence[Question]) -> str:
    are = agreeing(len(questions), "is", "are")
    return f"{count(len(questions), 'question')} {are} open in {count(image_count(questions), 'image')}"


def image_count(questions: Sequence[Question]) -> int:
    return len({(question.domain, question.stem) for question in questions})


def opened(run: Path) -> dict[str, Domain]:
    """The domains of a campaign's run. Raises ValueError for any other folder."""
    from fewmask.data.domains import load_domains
    from fewmask.runs import RunFolder

    config = RunFolder(run).load_config()
    if config.campaign is None or not RunFolder(run).ledger.exists():
        raise ValueError(
            f"{run}: a run of `fewmask train`, which asks no questions; give a folder of `fewmask campaign`"
        )
    return load_domains(config)


@contextmanager
def ledger_of(run: Path) -> Iterator[Ledger]:
    """The ledger of a campaign's run, with the rule of its settings."""
    from fewmask.annotation.ledger import Ledger
    from fewmask.runs import RunFolder

    settings, path = RunFolder(run).load_config().campaign, RunFolder(run).ledger
    assert settings is not None
    with Ledger(path, settings.answers) as ledger:
        yield ledger
