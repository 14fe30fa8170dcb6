"""A team at the labelling page, in a real browser: each with a link of their own, over TLS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browsing import Person, violations
from certificates import self_signed
from nearby import Nearby

from fewmask.annotation.page.address import Address
from fewmask.annotation.page.links import Links

pytestmark = [pytest.mark.slow, pytest.mark.browser]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Nearby]:
    server = Nearby(tmp_path / "run", "squares:24", address=Address(certificate=self_signed(tmp_path)))
    Links(server.folder).change(["anna", "ben"], [])
    yield server
    server.kill()


@contextmanager
def device_of(browser: Any) -> Iterator[Any]:
    """Somebody's browser, which accepts the certificate."""
    context = browser.new_context(ignore_https_errors=True, viewport={"width": 1280, "height": 720})
    yield context
    context.close()


def link_of(server: Nearby, name: str) -> str:
    return f"{server.address.base(server.port)}/{Links(server.folder).tokens()[name]}/"


def person_at(device: Any, server: Nearby, name: str) -> Person:
    server.link = link_of(server, name)
    return Person(device, server, None)  # whose name is that of the link


def test_each_answers_by_a_link_of_their_own_until_it_is_revoked(browser: Any, server: Nearby) -> None:
    with device_of(browser) as annas, device_of(browser) as bens:
        anna, ben = person_at(annas, server, "anna"), person_at(bens, server, "ben")
        assert anna.shown != ben.shown  # nobody paints what the other one looks at
        anna.page.click("#settings")
        assert anna.page.input_value("#name") == "anna"
        assert not anna.page.is_editable("#name")
        anna.page.click("#options-form button")
        anna.then("Enter")
        anna.saved()
        ben.then("Enter")
        ben.saved()
        assert sorted(answer.annotator for answer in server.answers()) == ["anna", "ben"]

        Links(server.folder).change([], ["anna"])
        anna.page.wait_for_selector("#notice:has-text('not valid any more')")
        anna.then("Enter")
        anna.page.wait_for_selector('#saved[data-state="unsaved"]')
        assert annas.request.get(anna.page.url).status == 403
        ben.then("Enter")
        ben.saved()
        assert len(server.answers()) == 3

        Links(server.folder).change(["anna"], [])
        again = person_at(annas, server, "anna")  # in the same browser, which has kept her answer
        again.saved()
        again.page.wait_for_function("() => !Object.keys(localStorage).some((key) => key.includes('/outbox/'))")
        assert [answer.annotator for answer in server.answers()].count("anna") == 2


def test_answers_that_wait_are_not_sent_by_the_link_of_somebody_else(browser: Any, server: Nearby) -> None:
    """One device is passed on while its first annotator's link is revoked."""
    with device_of(browser) as shared:
        anna = person_at(shared, server, "anna")
        Links(server.folder).change([], ["anna"])
        anna.then("Enter")
        anna.page.wait_for_selector('#saved[data-state="unsaved"]')
        ben = person_at(shared, server, "ben")
        ben.then("Enter")
        ben.saved()
        assert [answer.annotator for answer in server.answers()] == ["ben"]
        Links(server.folder).change(["anna"], [])
        person_at(shared, server, "anna").page.wait_for_function(
            "() => !Object.keys(localStorage).some((key) => key.includes('/outbox/'))"
        )
        assert [answer.annotator for answer in server.answers()] == ["ben", "anna"]


def test_the_page_of_the_team(browser: Any, server: Nearby) -> None:
    with device_of(browser) as device:
        anna = person_at(device, server, "anna")
        anna.then("Enter")
        anna.saved()
        page = device.new_page()
        page.goto(f"{link_of(server, 'ben')}team")
        row = page.locator("#people tr", has_text="anna")
        page.wait_for_selector(f"#people tr:has-text('anna'):has-text('{anna.shown}')")
        assert row.locator("td").nth(0).inner_text() == "1"
        assert row.locator("td").nth(4).inner_text() != "never"
        assert page.locator("#people tr").count() == 2
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert violations(page) == []
        page.set_viewport_size({"width": 390, "height": 844})
        assert violations(page) == []
        page.goto(f"{link_of(server, 'ben')}review")
        page.wait_for_selector('#cards[aria-busy="false"]', state="attached")
        assert page.input_value("#name") == "ben"
        assert not page.is_editable("#name")
        page.click('.card button:text-is("Accept")')
        page.wait_for_selector('.card[data-state="accepted"]')
        with server.ledger as ledger:
            assert [verdict.reviewer for verdict in ledger.verdicts()] == ["ben"]
        page.click("text=Team")
        page.wait_for_selector("#people tr")
