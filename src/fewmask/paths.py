"""Paths made from a user's text (a domain, a stem, an annotator). Only this module joins such text to a folder.

`fault` checks a configuration's names early, since they become folders on any system. Stems are the names of the user's
files and are checked less strictly: `below` accepts every name that the file system accepts and that stays below the
folder.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from urllib.parse import quote

AnyPath = str | os.PathLike[str]
"""The type of a path in functions for users, which convert it to a `Path` first."""

LONGEST = 255
"""The largest number of bytes in the name of a file or folder, on all common file systems."""
LONGEST_NAME = 100
"""The largest number of bytes of a name in a configuration, which may become a part of a longer, quoted name."""
LONGEST_STEM = LONGEST - len(".png")

# Names that Windows reserves for devices, with any ending.
DEVICES = frozenset({"con", "prn", "aux", "nul", "conin$", "conout$"}) | {
    f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³"
}
# Files that lie beside the domains' folders.
TAKEN = frozenset({"questions.json", "annotator.txt", "domains.csv"})


def fault(name: str) -> str:
    """Why a name cannot be a folder's name on every system, with the fix; empty where it can."""
    if problem := _unsafe(name) or _unsafe_on_windows(name):
        return problem
    if any(unicodedata.category(c) == "Cf" for c in name) or name != name.strip():
        return f"it names a folder, and has invisible characters ({name!a}); leave them out"
    if name.casefold() in TAKEN:
        return "it names a folder, and a file of this name lies beside it; take another name"
    if (size := len(name.encode())) > LONGEST_NAME:
        return f"it names a folder, and has {size} bytes in UTF-8; shorten it to {LONGEST_NAME}"
    return ""


def fault_of_stem(stem: str) -> str:
    """Why a file's name without its ending, with `/` between folders, cannot be used, with the fix; empty where it can.

    Characters that only other systems forbid, such as a colon, are allowed.
    """
    for part in stem.split("/"):
        if problem := _unsafe_here(part):
            return problem
        if (size := len(part.encode())) > LONGEST_STEM:
            return f"it has {size} bytes in UTF-8; shorten it to {LONGEST_STEM}"
    return ""


def alike(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ in case or in Unicode's normal form alone, which macOS and Windows ignore."""
    first_of_form = dict[str, str]()
    pairs = []
    for name in names:
        first = first_of_form.setdefault(_plain(name), name)
        if first != name:
            pairs.append((first, name))
    return pairs


def below(folder: Path, *names: str, ending: str = "") -> Path:
    """The path of a user's names below a folder. Each of `names` is one part, or several with `/` between them.

    A last part that is too long with its ending is cut, and gets a hash that keeps it unique. Raises ValueError for a
    name that leads out of the folder or to a hidden file, or that no file can have.
    """
    for name in names:
        for part in name.split("/"):
            if problem := _unsafe_here(part):
                raise ValueError(f"{name!r}: not a path below {folder}: {problem}")
    parts = [part for name in names for part in name.split("/")]
    return folder.joinpath(*parts[:-1], _fitted(parts[-1], ending))


def quoted(text: str) -> str:
    """Any text as a part of a file's name. Characters other than letters, digits and `_.-~` are written as %XX."""
    return quote(text, safe="", errors="surrogatepass")


def _unsafe(part: str) -> str:
    """Why a part of a path would lead to another folder, or could not be written; empty if it is safe."""
    if not part:
        return "it is empty, or a part of it is; give it a name"
    if separators := sorted(set(part) & set("/\\")):
        return f"it names one folder or file, and has {' and '.join(separators)} in it; leave them out"
    if part.startswith("."):
        return "it begins with a dot, which hides it or means another folder; leave the dot out"
    if any("\ud800" <= c <= "\udfff" for c in part):
        return f"it cannot be encoded in UTF-8 ({part!a}); rename it"
    if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in part):
        return f"it has control characters ({part!a}); leave them out"
    return ""


def _unsafe_on_windows(part: str) -> str:
    if characters := sorted(set(part) & set('<>:"|?*')):
        return f"it has {' '.join(characters)} in it, which Windows allows in no file's name; leave them out"
    if part.endswith((" ", ".")):
        return "it ends in a dot or a space, which Windows drops; leave that out"
    if part.partition(".")[0].strip().casefold() in DEVICES:
        return "it is the name of a device in Windows; take another name"
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
