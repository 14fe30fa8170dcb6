"""Pretrained weights from a network: said before it begins, and given up soon where there is none."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies

SECONDS = 5.0


@contextmanager
def fetching(weights: str) -> Iterator[None]:
    """While inside, timm and smp look for weights on the Hugging Face Hub; where it does not answer, only in its cache
    on this machine, instead of trying again for a minute."""
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE
    if not offline:
        _say(f"model.weights: {weights} come from {constants.ENDPOINT}, unless they were fetched before")
        if not answers(constants.ENDPOINT):
            _say(f"model.weights: {constants.ENDPOINT} does not answer; only what was fetched before can be used")
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline


@cache
def _say(text: str) -> None:
    """Once in a process: a campaign builds many networks."""
    logging.getLogger("fewmask").warning(text)


@cache
def answers(address: str) -> bool:
    """Whether the server of an address, or the proxy before it, takes a connection."""
    parts = urlsplit(getproxies().get(urlsplit(address).scheme, address))
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), SECONDS).close()
    except OSError:
        return False
    return True
