"""Ctrl-C and SIGTERM as a request to stop without loss: a run finishes its step, saves and stops.

Python delivers signals to the main thread alone. In any other thread these functions have no effect.
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

_stop_requested = _deferring = _announce = False


class Stopped(KeyboardInterrupt):
    """A run was stopped and has saved its state. The message says where."""


def stop_requested() -> bool:
    """Whether a signal came since the outermost `defer_signals` began. The run then saves and raises `Stopped`."""
    return _stop_requested


@contextmanager
def defer_signals() -> Iterator[None]:
    """Inside this context the first signal only makes `stop_requested` true. The second one has its former effect.

    A nested call changes nothing, so that a request between two runs stops the second one.
    """
    global _stop_requested, _deferring
    if _deferring or threading.current_thread() is not threading.main_thread():
        yield
        return

    def request_stop(number: int, frame: FrameType | None) -> None:
        global _stop_requested
        _stop_requested = True
        _restore(before)
        if _announce:
            os.write(2, b"\nstopping: what is begun is ended and saved first; the same signal again ends at once\n")

    _deferring, before = True, _install(request_stop)
    try:
        yield
    finally:
        _restore(before)
        _stop_requested = _deferring = False


@contextmanager
def exit_on_signal() -> Iterator[None]:
    """For a command line: a signal that is not deferred ends the process at once and without a traceback.

    Files are put in their places in one step, so that the disk stays as it was. Locks end with the process.
    """
    global _announce
    outer, _announce = _announce, True
    before = _install(_end) if threading.current_thread() is threading.main_thread() else {}
    try:
        yield
    finally:
        _restore(before)
        _announce = outer


def _end(number: int, frame: FrameType | None) -> None:
    cursor = b"\x1b[?25h\n" if os.isatty(2) else b""  # a progress bar has hidden it
    os.write(2, cursor + b"error: stopped at once; the same command goes on from what is on the disk\n")
    os._exit(1)


def _install(handler: Handler) -> dict[signal.Signals, Any]:
    """Returns the former handlers. A signal that the process was started to ignore stays ignored."""
    before = {
        number: handler_before
        for number in SIGNALS
        if (handler_before := signal.getsignal(number)) not in (None, signal.SIG_IGN)
    }
    for number in before:
        signal.signal(number, handler)
    return before


def _restore(before: dict[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)


@contextmanager
def shield_workers() -> Iterator[None]:
    """Processes that are started inside never get SIGINT. A terminal sends it to all, and their parent ends them.

    They get SIGTERM from their `delay_sigterm` on: before, it would end them at once.
    """
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


GRACE = 20
"""Seconds that a worker goes on after SIGTERM."""


def delay_sigterm() -> None:
    """Make a worker end some seconds after SIGTERM and not at once. Schedulers send the signal to every process of a
    job, and the parent still needs the images of its step."""
    if sys.platform != "win32":
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
