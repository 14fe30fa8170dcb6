"""Class guidelines at the labelling page and on their own page, in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pages
import pytest
from browsing import Person, profile, violations
from test_guidelines import picture

pytestmark = [pytest.mark.slow, pytest.mark.browser]
MARKUP = "<img src=x onerror=alert(1)>"


def write(folder: Path) -> None:
    """Guidelines of three classes, longer than a screen. The first class's name is markup."""
    names = pages.streets().space.names
    paragraphs = "\n\n".join(f"Paragraph {number} of many." for number in range(40))
    picture(folder / "guidelines" / "kerb.png")
    (folder / "guidelines" / "guidelines.md").write_text(
        f"Ask <b>Ann</b>.\n\n# {MARKUP}\n{paragraphs}\n# {names[2]}\n## Where it ends\n- at the <i>kerb</i>\n"
        f"- at the grass\n\n![the kerb <script>](kerb.png)\n# void\n{paragraphs}\n"
    )


def in_view(page: Any, selector: str) -> bool:
    """Whether the top of an element is inside of the guidelines' part of the screen."""
    inner, outer = (page.locator(s).bounding_box() for s in (selector, "#rules"))
    return bool(outer["y"] - 1 <= inner["y"] < outer["y"] + outer["height"])


def test_a_key_shows_the_guideline_of_the_chosen_class(nearby: Callable[..., Any], context: Any) -> None:
    server = nearby("squares:24")
    write(server.folder)
    person = Person(context, server)
    page, names = person.page, pages.streets().space.names
    assert page.locator("#list .guided").evaluate_all("nodes => nodes.map((n) => +n.dataset.value)") == [0, 2]
    assert page.locator("#always .guided").get_attribute("data-value") == "255"
    person.press("3", "!")
    page.wait_for_selector("#guidelines[open]")
    title = page.locator("#rules section.chosen h3")
    assert title.inner_text() == names[2] and in_view(page, "#rules section.chosen h3")
    assert page.locator("#rules section.chosen").inner_text().split("\n")[-1] == "the kerb <script>"
    page.wait_for_function("document.querySelector('#rules section.chosen img').naturalWidth === 30")
    assert page.locator("#rules b, #rules i, #rules script, #rules h3 img").count() == 0
    before = person.shown
    person.press("v")  # leads to void, and chooses nothing
    assert title.inner_text() == "void" and in_view(page, "#rules section.chosen h3")
    person.press("1")
    assert title.inner_text() == MARKUP and in_view(page, "#rules section.chosen h3")
    person.press("x")  # answers nothing
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
    person.press("!")
    page.wait_for_selector("#canvas:focus")
    page.evaluate("new Promise((done) => setTimeout(done))")
    assert page.is_hidden("#guidelines") and "guidelines" not in asked  # the key does not open them again
    assert person.shown == before and not server.answers()
    assert page.get_attribute('#classes [aria-pressed="true"]', "data-value") == "2"
    page.wait_for_selector("#canvas:focus")

    # The button does the same, and the link leads to the page.
    page.click("#guide")
    page.wait_for_selector("#guidelines[open]")
    with context.expect_page() as opened:
        page.click("#guidelines a")
    own = opened.value
    own.wait_for_selector("#rules[data-shown]")
    assert own.locator("#contents a").all_inner_texts() == [MARKUP, names[2], "void"]
    assert own.locator("#rules h2").all_inner_texts() == [MARKUP, names[2], "void"]
    assert own.inner_text("#rules > section:first-child") == "Ask <b>Ann</b>."
    own.click(f'#contents a:text-is("{names[2]}")')
    assert in_view(own, f'#rules h2:has-text("{names[2]}")')
    own.click('header a:text-is("To the questions")')
    own.wait_for_selector("#canvas[data-shown]")


def test_guidelines_that_are_written_or_broken_meanwhile(nearby: Callable[..., Any], context: Any) -> None:
    server = nearby("points")
    person = Person(context, server)
    page, file = person.page, server.folder / "guidelines" / "guidelines.md"
    assert page.is_hidden("#guide")
    person.press("!")
    write(server.folder)
    page.reload()
    person.ready()
    person.press("!")
    page.wait_for_selector("#guidelines[open]")
    page.click("#guidelines button")
    page.wait_for_selector("#canvas:focus")
    file.write_text("# void\nNew.")
    person.press("!")
    page.wait_for_selector("#guidelines[open]")
    assert page.locator("#rules h3").all_inner_texts() == ["void"]
    page.keyboard.press("Escape")
    page.wait_for_selector("#canvas:focus")
    assert person.shown and not server.answers()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 720), (390, 844)])
def test_axe_finds_nothing_at_the_guidelines(
    nearby: Callable[..., Any], browser: Any, width: int, height: int, scheme: str
) -> None:
    server = nearby("squares:24")
    with profile(browser, width, height, color_scheme=scheme) as context:
        own = context.new_page()
        own.goto(f"{server.link}guidelines")
        own.wait_for_selector("#none:not([hidden])")
        problems = {"none": violations(own)}
        write(server.folder)
        own.reload()
        own.wait_for_selector("#rules[data-shown] section")
        problems["page"] = violations(own)
        assert own.evaluate("document.documentElement.scrollWidth <= innerWidth")
        person = Person(context, server)
        problems["button"] = violations(person.page)
        person.press("3")
        person.page.click("#guide")
        person.page.wait_for_selector("#guidelines[open]")
        problems["dialog"] = violations(person.page)
        assert person.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert problems == {name: [] for name in problems}
