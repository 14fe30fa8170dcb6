"""What `answer --from` says: every count and name of an import, and the commands that go on from there."""

from __future__ import annotations

import pytest

from fewmask.annotation.importer import Import, LeftOut
from fewmask.cli.imports import print_import

COMMAND = "fewmask answer runs/x --from e.json"
LEFT_OUT = (
    LeftOut("a box or a caption, without a segmentation", 1200, ("annotation 1", "annotation 2")),
    LeftOut("not open, answered or skipped before by ada", 2, ("a/x squares #1", "a/x squares #2")),
)


def printed(capsys: pytest.CaptureFixture[str], counts: Import, rule: str = "latest") -> list[str]:
    print_import(counts, rule, COMMAND)
    return capsys.readouterr().out.splitlines()


def test_nothing_more_than_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, Import(1, 2, 3, 0)) == ["1 answered, 2 answered before, 3 not painted."]


def test_what_was_left_out_is_counted_by_reason_with_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, Import(0, 0, 0, 0, closed=2, left_out=LEFT_OUT))[1:] == [
        "1,202 left out:",
        "  1,200 a box or a caption, without a segmentation: annotation 1, annotation 2 and 1,198 more",
        "  2 not open, answered or skipped before by ada: a/x squares #1, a/x squares #2",
        "  To answer the 2 questions that are not open too:",
        f"  {COMMAND} --corrections",
    ]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("latest", "THESE REPLACE answers by others: 9 by ada, 1 by cyd."),
        ("majority", "These are votes beside answers by others (answers.decide: majority): 9 by ada, 1 by cyd."),
        ("trust", "These are votes beside answers by others (answers.decide: trust): 9 by ada, 1 by cyd."),
    ],
)
def test_whose_answers_are_touched_and_how_to_take_that_back(
    rule: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(capsys, Import(10, 0, 0, 0, corrected=1, beside={"ada": 9, "cyd": 1}), rule)
    assert lines[1].startswith(words)
    assert lines[2:] == [
        "1 of these replaces another answer by the same annotator.",
        "  To take back the answers of this import:",
        f"  {COMMAND} --take-back",
    ]


def test_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, Import(3, 0, 0, 1234, skipped=1, in_part=2, changed_since=4, taken_back=5))
    for words in (
        "1 skipped.",
        "5 taken back:",
        "4 were imported before",
        "2 of these are answered in part",
        "with --corrections.",
    ):
        assert any(words in line for line in lines), words
    assert lines[-1].startswith("1,234 painted pixels outside")
