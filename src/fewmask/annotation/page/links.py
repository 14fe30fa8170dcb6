"""The links of named annotators. Who opens one answers under its name and no other; a link can be revoked at any time.

They are in `links.json` in the run's folder, which only its owner can read. The server reads the file at every request,
so that a new link opens the page, and a revoked one does not, from the same moment.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from fewmask.annotation.page.secret_file import expect_file, read_secret, write_secret
from fewmask.annotation.questions import name_fault
from fewmask.files import hold

FILE = "links.json"
TOKEN = re.compile(r"[\w-]{32,64}", re.ASCII)
LONGEST_NAME = 80
"""The most letters of a name, as everywhere on the page."""


class Links:
    """The links of a run. Several processes may change them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def tokens(self) -> dict[str, str]:
        """The tokens by name. Raises ValueError where the file was not written here, or where others can read it."""
        expect_file(self.path)
        if not self.path.exists():
            return {}
        content = read_secret(self.path)
        tokens = content[0].get("tokens") if content else None
        if content is None or not isinstance(tokens, dict) or not all(map(_valid, tokens, tokens.values())):
            raise ValueError(f"{self.path}: no file of links; remove it, and give the annotators new links")
        if not content[1]:
            raise ValueError(
                f"{self.path}: copied, moved, or readable by others, so no link of it opens anything; remove it, and "
                "give the annotators new links"
            )
        return dict(tokens)

    def change(self, added: Sequence[str], revoked: Sequence[str]) -> None:
        """Revoke links and make new ones, all of them or none.

        Raises ValueError for a name that already has a link or is no name, and for a revoked one without a link.
        """
        if not added and not revoked:
            return
        lock = self.path.with_name(".links.lock")
        with hold(lock, "its links are being changed", "do the same again", wait=10.0):
            tokens = self.tokens()
            for name in revoked:
                if tokens.pop(name, None) is None:
                    raise ValueError(f"--revoke {name!r}: has no link; those who have: {', '.join(tokens) or 'nobody'}")
            for name in added:
                fault = name_fault(name)
                if fault or len(name) > LONGEST_NAME:
                    raise ValueError(f"--add: {fault or f'{name!r} is longer than {LONGEST_NAME} letters; shorten it'}")
                if name in tokens:
                    raise ValueError(f"--add {name!r}: has a link already; with --revoke too, a new one replaces it")
                tokens[name] = secrets.token_urlsafe(24)
            write_secret(self.path, {"tokens": tokens})

    def names(self) -> tuple[str, ...]:
        """Who has a link that opens the page."""
        try:
            return tuple(self.tokens())
        except ValueError:
            return ()  # nothing is open by a file that is not sound

    def annotator(self, token: bytes) -> str | None:
        """The name of the link with a token; None where no valid link has it."""
        try:
            known = self.tokens()
        except ValueError:
            return None  # nothing is open by a file that is not sound
        # Each of them is compared, so that the time says nothing about the tokens.
        found = [name for name, own in known.items() if secrets.compare_digest(own.encode(), token)]
        return found[0] if found else None


def _valid(name: str, token: object) -> bool:
    return isinstance(token, str) and TOKEN.fullmatch(token) is not None and not name_fault(name)
