"""Names that become paths: what is refused when a configuration is read, and what stays below its folder."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewmask.annotation.tasks import png
from fewmask.config import parse
from fewmask.files import write_bytes
from fewmask.models.fusion import AUTO, FUSED
from fewmask.paths import LONGEST, LONGEST_STEM, alike, below, fault, fault_of_stem, quoted

SCENES = {"layout": "scenes", "kind": "streets"}
REFUSED = [
    "", ".", "..", "../..", "/data/mine", "a/b", "a\\b", "C:\\data", "c:", ".hidden", "a\0b", "a\nb", "a\x1b[2Jb",
    " a", "a ", "a.", "a\u00a0", "CON", "nul.txt", "Aux.d", "com1", "LPT9.x", "com¹", "a<b", "a>b", 'a"b', "a|b",
    "a?", "a*", "x" * 101, "ä" * 51, "\u202egnp", "a\u200bb", "a\u2028b", "a\ud800b", "Questions.json", "domains.csv",
]  # fmt: skip
TAKEN = ["mine", "my data", "größe", "街道", "a.b%", "100%", "a-b_c~d", "x" * 100, "conserve", "com", "com10", "l'été"]
STEMS = [
    "a",
    "town/0001",
    "12:30:05",
    "what?",
    " x ",
    "a.b.",
    "%2e%2e",
    "n" * LONGEST_STEM,
    "街" * 83,
    "~",
    "-rf",
    "con",
]
# A stem may be anything that this system's files can be called.
NO_STEMS = ["", "/etc/passwd", "..", "a/../b", "a//b", "a/", "./a", ".a", "a/.b", "a\\b", "a\nb", "a\ud8ffb"]


def config(*domains: str, **more: object) -> dict[str, object]:
    return {"name": "run", "method": "joint", "domains": dict.fromkeys(domains, SCENES)} | more


@pytest.mark.parametrize("name", REFUSED, ids=ascii)
def test_a_name_that_is_no_folder_is_refused_when_the_configuration_is_read(name: str) -> None:
    for wrong in (config(name), config("mine", held_out={name: SCENES})):
        with pytest.raises(
            ValueError, match=r"(domains|held_out)\..*: it .*; (leave|give|take|shorten|rename) "
        ) as error:
            parse(wrong)
        assert all(c.isprintable() for c in str(error.value).replace("\n", ""))


@pytest.mark.parametrize("name", TAKEN, ids=ascii)
def test_other_names_are_taken(name: str) -> None:
    assert list(parse(config(name)).domains) == [name]


@pytest.mark.parametrize("name", ["nul", "Com1.x", "a.", "x" * 101, "..", ".a", "a/b", "a\n", ""])
def test_a_runs_name_is_a_folders_name_too(name: str) -> None:
    with pytest.raises(ValueError, match=r"name: it .*; |name: it names a folder: write letters"):
        parse(config("mine", name=name))


@pytest.mark.parametrize("name", [FUSED, AUTO])
def test_what_stands_for_all_heads_is_no_domains_name(name: str) -> None:
    for wrong in (config(name), config("mine", held_out={name: SCENES})):
        with pytest.raises(ValueError, match=f"'{name}' means all domains in `predict --domain`; rename the domain"):
            parse(wrong)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Mine", "mine"), ("straße", "STRASSE"), ("é", unicodedata.normalize("NFD", "é")), ("\u00c5", "\u212b")],
)
def test_two_names_that_some_systems_take_for_one_are_refused(one: str, other: str) -> None:
    for wrong in (config(one, other), config(one, held_out={other: SCENES})):
        with pytest.raises(
            ValueError, match="name the same folder on a file system that ignores case or Unicode's form"
        ):
            parse(wrong)
    assert alike([one, other, "else"]) == [(one, other)]


@pytest.mark.parametrize("stem", STEMS, ids=ascii)
def test_a_stem_is_a_file_of_its_own_below_the_folder(stem: str, tmp_path: Path) -> None:
    assert not fault_of_stem(stem)
    for ending in (".png", ".confidence.png"):
        write_bytes(below(tmp_path, "d", stem, ending=ending), stem.encode())
        assert below(tmp_path, "d", stem, ending=ending).read_bytes() == stem.encode()
    assert sum(p.is_file() for p in tmp_path.rglob("*")) == 2
    assert png(tmp_path / "d", stem).relative_to(tmp_path / "d").as_posix() == f"{stem}.png"


@pytest.mark.parametrize("stem", NO_STEMS, ids=ascii)
def test_other_stems_are_refused(stem: str, tmp_path: Path) -> None:
    assert fault_of_stem(stem)
    with pytest.raises(ValueError, match="not a path below"):
        below(tmp_path, "d", stem, ending=".png")


NAMES = st.text(st.characters() | st.sampled_from("./\\:~\0\n "), max_size=300)


@given(st.lists(NAMES, min_size=1, max_size=3), st.sampled_from(["", ".png", ".confidence.png"]))
def test_whatever_the_text_is_the_path_stays_below(names: list[str], ending: str) -> None:
    try:
        path = below(Path("folder"), *names, ending=ending)
    except ValueError:
        return
    # Its parts are those of the names, none of them means another place, and each fits.
    assert path.parts[0] == "folder"
    assert len(path.parts) == 1 + sum(len(name.split("/")) for name in names)
    assert not {".", "..", ""} & set(path.parts)
    assert all(len(part.encode()) <= LONGEST for part in path.parts[-1:])
    assert path.name.endswith(ending)


@given(NAMES, NAMES)
def test_two_stems_never_share_a_file(one: str, other: str) -> None:
    one, other = (text.replace("/", "").lstrip(".") + "n" * 230 for text in (one, other))
    if one != other and not fault_of_stem(one) and not fault_of_stem(other):
        assert below(Path(), one, ending=".confidence.png") != below(Path(), other, ending=".confidence.png")


@given(NAMES)
def test_what_is_taken_as_a_name_is_one_part_of_a_path(name: str) -> None:
    if not fault(name):
        assert below(Path("folder"), name) == Path("folder") / name
        assert Path("folder", name).parent == Path("folder")
        assert len(name.encode()) <= 100


@given(NAMES)
def test_any_text_can_be_quoted_into_a_files_name(text: str) -> None:
    path = below(Path("run"), f"questions-{quoted(text)}")
    assert path.parent == Path("run")
    assert len(path.name) <= LONGEST
