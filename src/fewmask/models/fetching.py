"""Downloads of pretrained weights: announced before they begin, and abandoned soon without a network connection."""

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
def fetching_weights(weights: str) -> Iterator[None]:
    """Inside this context timm and smp load weights from the Hugging Face Hub. If the hub does not answer, they use its
    local cache alone, instead of retrying for a minute."""
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE
    if not offline:
        _say(f"model.weights: {weights} come from {constants.ENDPOINT}, unless the cache holds them")
        if not is_reachable(constants.ENDPOINT):
            _say(f"model.weights: {constants.ENDPOINT} does not answer; only cached weights can be used")
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline


@cache
def _say(text: str) -> None:
    """Log a warning once in a process, since a campaign builds many networks."""
    logging.getLogger("fewmask").warning(text)


@cache
def is_reachable(address: str) -> bool:
    """Whether the server of an address, or the proxy before it, accepts a connection."""
    parts = urlsplit(getproxies().get(urlsplit(address).scheme, address))
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), SECONDS).close()
    except OSError:
        return False
    return True
