"""Names that become paths. Text of a user (a domain, a stem, an annotator) is joined to a folder here and nowhere else.

A configuration's names are refused early, by `fault`: they become folders on any system. Stems are the user's own file
names and may be stranger: `below` takes what the file system takes, as long as it stays below the folder.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from urllib.parse import quote

AnyPath = str | os.PathLike[str]
"""What functions for users take where they need a path: they make a `Path` of it first."""

LONGEST = 255
"""Bytes of a file's or folder's name, on all common file systems."""
LONGEST_NAME = 100
"""Bytes of a name in a configuration: it is written with other words around it, and quoted."""
LONGEST_STEM = LONGEST - len(".png")

# What Windows keeps for devices, whatever ending stands behind it.
DEVICES = frozenset({"con", "prn", "aux", "nul", "conin$", "conout$"}) | {
    f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³"
}
# Files that lie beside the domains' folders.
TAKEN = frozenset({"questions.json", "annotator.txt", "domains.csv"})


def fault(name: str) -> str:
    """Why a name cannot be the name of one folder on every system, with the fix; empty where it can."""
    if wrong := _unsafe(name) or _unsafe_on_windows(name):
        return wrong
    if any(unicodedata.category(c) == "Cf" for c in name) or name != name.strip():
        return f"it names a folder, and has what nobody sees ({name!a}); leave that out"
    if name.casefold() in TAKEN:
        return "it names a folder, and a file of this name lies beside it; take another name"
    if (size := len(name.encode())) > LONGEST_NAME:
        return f"it names a folder, and has {size} bytes in UTF-8; shorten it to {LONGEST_NAME}"
    return ""


def fault_of_stem(stem: str) -> str:
    """Why a file's name without its ending, with `/` between folders, cannot be used, with the fix; empty where it can.

    What other systems forbid and this one allows, such as a colon, can be used here.
    """
    for part in stem.split("/"):
        if wrong := _unsafe_here(part):
            return wrong
        if (size := len(part.encode())) > LONGEST_STEM:
            return f"it has {size} bytes in UTF-8; shorten it to {LONGEST_STEM}"
    return ""


def alike(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of names that are one name where case or Unicode's normal form do not count, as on macOS and Windows."""
    seen = dict[str, str]()
    found = []
    for name in names:
        first = seen.setdefault(_plain(name), name)
        if first != name:
            found.append((first, name))
    return found


def below(folder: Path, *names: str, ending: str = "") -> Path:
    """The path below a folder of what a user named. Each of `names` is one part, or several with `/` between them.

    A last part that is too long with its ending is cut, and a hash of it tells it from others. Raises ValueError for a
    name that would lead out of the folder or into what is hidden, or that no file can have.
    """
    for name in names:
        for part in name.split("/"):
            if wrong := _unsafe_here(part):
                raise ValueError(f"{name!r}: not a path below {folder}: {wrong}")
    parts = [part for name in names for part in name.split("/")]
    return folder.joinpath(*parts[:-1], _fitted(parts[-1], ending))


def quoted(text: str) -> str:
    """Any text as a part of a file's name: what is no letter, digit or one of `_.-~` is written as %XX."""
    return quote(text, safe="", errors="surrogatepass")


def _unsafe(part: str) -> str:
    """Why a part of a path would mean another place, or could not be written."""
    if not part:
        return "it is empty, or a part of it is; give it a name"
    if found := sorted(set(part) & set("/\\")):
        return f"it names one folder or file, and has {' and '.join(found)} in it; leave that out"
    if part.startswith("."):
        return "it begins with a dot, which hides it or means another folder; leave the dot out"
    if any("\ud800" <= c <= "\udfff" for c in part):
        return f"it is no text in UTF-8 ({part!a}); rename it"
    if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in part):
        return f"it has control characters ({part!a}); leave them out"
    return ""


def _unsafe_on_windows(part: str) -> str:
    if found := sorted(set(part) & set('<>:"|?*')):
        return f"it has {' '.join(found)} in it, which Windows allows in no file's name; leave that out"
    if part.endswith((" ", ".")):
        return "it ends in a dot or a blank, which Windows drops; leave that out"
    if part.partition(".")[0].strip().casefold() in DEVICES:
        return "it is what Windows calls a device; take another name"
    return ""


def _unsafe_here(part: str) -> str:
    return _unsafe(part) or (_unsafe_on_windows(part) if os.name == "nt" else "")


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _fitted(part: str, ending: str) -> str:
    if len((part + ending).encode()) <= LONGEST:
        return part + ending
    mark = f"~{blake2b(part.encode(), digest_size=8).hexdigest()}{ending}"
    return part.encode()[: LONGEST - len(mark.encode())].decode(errors="ignore") + mark
