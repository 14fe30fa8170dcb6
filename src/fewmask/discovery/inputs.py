"""The channels and the depth of a folder's images, where they are not 8-bit RGB."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fewmask.config.inputs import MOST_CHANNELS, PLAIN, RGB, InputSettings
from fewmask.data.headers import examine
from fewmask.data.inputs import COUNTS, input_kind, read_values
from fewmask.data.reading import read_bytes

SAMPLE = 50
"""The number of images that are examined."""


def detect_input(paths: Sequence[Path]) -> InputSettings:
    """The channels and the depth of the images. 8-bit RGB where one of them is read as that, or where no settings read
    all of them; `fewmask check` then reports what is wrong."""
    chosen = paths[:: max(1, len(paths) // SAMPLE)]
    if not chosen or any(_reads(path, PLAIN) for path in chosen):
        return PLAIN
    channels = _channels(chosen[0])
    for depth in (8, 16, 32, "float") if channels else ():
        settings = InputSettings.model_validate({"channels": channels, "depth": depth})
        try:
            read_values(chosen[0], settings)
        except ValueError:
            continue
        return settings if all(_reads(path, settings) for path in chosen) else PLAIN
    return PLAIN


def _channels(path: Path) -> tuple[str, ...]:
    """Names of an image's channels; empty where the number of channels is unknown."""
    try:
        kind = examine(read_bytes(path), path)
    except ValueError:
        return ()
    number = kind.bands or COUNTS.get(kind.channels, 0)
    named = {"grey": ("grey",), "RGB": RGB, "RGB and alpha": (*RGB, "alpha")}.get(kind.channels, ())
    if len(named) == number:
        return named
    return tuple(f"channel-{n}" for n in range(1, number + 1)) if number <= MOST_CHANNELS else ()


def _reads(path: Path, settings: InputSettings) -> bool:
    try:
        input_kind(path, settings)
    except ValueError:
        return False
    return True
