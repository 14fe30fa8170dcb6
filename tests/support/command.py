"""The command line in a test's own process, and what it must say of wrong input."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from fewmask import cli


class Done(NamedTuple):
    code: int
    out: str
    err: str


Fewmask = Callable[..., Done]


@pytest.fixture
def fewmask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fewmask:
    """Run the command in this process, as `main` does."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["fewmask", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


def is_refused(done: Done, *parts: str) -> None:
    """Code 2, nothing on stdout, and one message on stderr without a traceback."""
    assert done.code == 2, done
    assert done.out == ""
    assert "Traceback" not in done.err
    for part in parts:
        assert part in done.err
