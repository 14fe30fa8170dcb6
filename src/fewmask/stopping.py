"""Ctrl-C and SIGTERM as a wish, which a run fulfils where nothing is lost: it ends its step, saves, and stops.

Python hands signals to the main thread alone. In any other thread nothing here changes anything.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], Any]

_asked = _heeded = _told = False


class Stopped(KeyboardInterrupt):
    """A run was asked to stop and has saved what it needs to go on; the message says where that is."""


def asked() -> bool:
    """Whether a signal came since the outermost `heeded` began. Whoever saves then raises `Stopped`."""
    return _asked


@contextmanager
def heeded() -> Iterator[None]:
    """While inside, the first signal makes `asked` true and does nothing else; the second does what signals did before.

    Inside of another one it changes nothing, so that a wish that came between two runs stops the second.
    """
    global _asked, _heeded
    if _heeded or threading.current_thread() is not threading.main_thread():
        yield
        return

    def wish(number: int, frame: FrameType | None) -> None:
        global _asked
        _asked = True
        _restore(before)
        if _told:
            os.write(2, b"\nstopping: what is begun is ended and saved first; the same signal again ends at once\n")

    _heeded, before = True, _install(wish)
    try:
        yield
    finally:
        _restore(before)
        _asked = _heeded = False


@contextmanager
def command() -> Iterator[None]:
    """For a command line: a signal that nobody heeds ends the process at once, in whatever it is, without a traceback.

    Files are put in their places in one step, so that the disk is as it was; locks end with the process.
    """
    global _told
    outer, _told = _told, True
    before = _install(_end) if threading.current_thread() is threading.main_thread() else {}
    try:
        yield
    finally:
        _restore(before)
        _told = outer


def _end(number: int, frame: FrameType | None) -> None:
    cursor = b"\x1b[?25h\n" if os.isatty(2) else b""  # a progress bar has hidden it
    os.write(2, cursor + b"error: stopped at once; the same command goes on from what is on the disk\n")
    os._exit(1)


def _install(handler: Handler) -> dict[signal.Signals, Any]:
    """Returns the handlers there were. A signal that the process was started to ignore stays ignored."""
    before = {one: there for one in SIGNALS if (there := signal.getsignal(one)) not in (None, signal.SIG_IGN)}
    for one in before:
        signal.signal(one, handler)
    return before


def _restore(before: dict[signal.Signals, Any]) -> None:
    for one, handler in before.items():
        signal.signal(one, handler)


@contextmanager
def workers_spared() -> Iterator[None]:
    """Processes that are started inside never get SIGINT: a terminal sends it to all, and their parent ends them."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


GRACE = 20
"""Seconds."""


def outlive_parents_step() -> None:
    """In a worker: end some seconds after SIGTERM, which schedulers send to every process of a job, and not at once:
    the parent's step needs its images."""
    if sys.platform != "win32":
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))
