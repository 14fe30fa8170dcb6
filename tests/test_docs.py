"""Every method has a page, with the headings and the settings that a reader looks for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fewmask.config import AnswerSettings, AskSettings, BudgetSettings, CampaignSettings, PoolSettings, Settings
from fewmask.config.campaign import CostSettings
from fewmask.config.loading import Config
from fewmask.config.reference import keys, reference
from fewmask.methods import METHODS, SETTINGS

PAGES = Path(__file__).parents[1] / "docs" / "methods"
HEADINGS = ["Idea", "Formula", "Settings and where they come from", "Cost", "Results", "Known limits"]


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def test_every_method_has_a_page_and_every_page_a_method() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == {*METHODS, "campaign"}


def test_the_page_of_campaigns_names_every_setting() -> None:
    terms = set(re.findall(r"`([^`\n]+)`", page("campaign")))
    inside: dict[str, type[Settings]] = {"pool": PoolSettings, "cost": CostSettings, "budget": BudgetSettings}
    inside |= {"answers": AnswerSettings}
    for kind in (CampaignSettings, AskSettings):
        for name in kind.model_fields:
            names = [f"{name}.{inner}" for inner in inside[name].model_fields] if name in inside else [name]
            assert not [missing for missing in names if missing not in terms]


@pytest.mark.parametrize("name", [*METHODS, "campaign"])
def test_a_page_has_the_fixed_headings_with_something_under_each(name: str) -> None:
    title, *sections = re.split(r"^## ", page(name), flags=re.MULTILINE)
    assert title.strip() == f"# {name}"
    assert [section.splitlines()[0] for section in sections] == HEADINGS
    assert all(len(section.split("\n", 1)[1].strip()) > 20 for section in sections)


@pytest.mark.parametrize("name", METHODS)
def test_a_page_names_every_setting_of_its_method(name: str) -> None:
    terms = set(re.findall(r"`([^`\n]+)`", page(name)))
    assert not [setting for setting in own(SETTINGS[name]) if setting not in terms]


def own(settings: type[Settings], at: str = "") -> Iterator[str]:
    """The names of a method's settings; of those with settings inside that belong to methods alone, theirs."""
    for name, field in settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Settings) and kind.__module__ == "fewmask.config.methods":
            yield from own(kind, f"{at}{name}.")
        elif name != "name":
            yield f"{at}{name}"


def test_the_reference_of_the_configuration_is_that_of_the_source() -> None:
    page = (PAGES.parent / "reference" / "configuration.md").read_text(encoding="utf-8")
    assert page == reference(), "run `make docs`"


def test_every_key_is_described_with_a_type_as_people_write_it() -> None:
    every = [*keys(Config), *(key for kind in SETTINGS.values() for key in keys(kind, f"method.{kind.__name__}."))]
    assert len(every) > 250 and {"seed", "train.optimiser.lr", "campaign.ask.budget.unit"} <= {
        key.name for key in every
    }
    assert not [key.name for key in every if not key.description.strip().endswith((".", ")"))]
    assert not [key for key in every if re.search(r"class |typing|Annotated|constrained|None|<", key.type)]
    types = {key.name: (key.type, key.default) for key in every}
    assert types["seed"] == ("whole number at least 0", "`0`")
    assert types["train.crop"][1] == "`[256, 256]`"
    assert types["train.precision"] == ("`auto`, `fp32`, `bf16`", "`auto`")
    assert types["campaign"] == ("mapping or `null`", "`null`")
    assert types["method.S4alSettings.view.hue"][1] == "`0.0`"  # the method's own default, not the view's


@pytest.mark.parametrize("path", sorted(PAGES.glob("*.md")), ids=lambda path: path.stem)
def test_a_link_of_a_page_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target
