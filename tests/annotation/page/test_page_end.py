"""What the labelling page says when nothing is left to answer: who goes on with the campaign."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pages
import pytest
from browsing import Person

from fewmask.annotation.page.service import LabellingService
from fewmask.files import hold
from fewmask.runs import RunFolder


def test_the_page_hears_of_a_process_that_watches_the_run(tmp_path: Path) -> None:
    service = LabellingService(pages.ask(tmp_path, pages.streets(), "points"))
    assert service.session()["watched"] is False
    with hold(RunFolder(tmp_path).watch_lock, "", ""):
        assert service.session()["watched"] is True
        assert service.changes(0)["watched"] is True
    assert service.changes(0)["watched"] is False  # the file stays and means nothing


@pytest.mark.slow
@pytest.mark.browser
def test_the_end_says_which_command_goes_on_or_that_the_campaign_does_so_itself(
    nearby: Callable[..., Any], context: Any
) -> None:
    server = nearby("points")
    person = Person(context, server)
    for _ in server.questions():
        person.then("1")
    person.saved()
    assert "give this command: go on" in person.page.inner_text("#end")
    with hold(RunFolder(server.folder).watch_lock, "", ""):
        person.page.wait_for_selector("#watched:visible")
        assert "goes on by itself" in person.page.inner_text("#end")
        assert "give this command" not in person.page.inner_text("#end")
        person.page.reload()
        person.page.wait_for_selector("#watched:visible")
    person.page.wait_for_selector("#then:visible")
