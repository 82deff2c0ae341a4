"""Ctrl-C and SIGTERM: training stops after the step that is running, everything else at once.

Only a program that owns its process, such as the command line, listens for the signals (`handling`). From Python,
Ctrl-C is a KeyboardInterrupt as anywhere else.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal ended the work; a program that it ends has the exit status 128 + `last()`."""


class _State:
    requested: int | None = None
    last: int = signal.SIGINT
    at_a_step: bool = False


def requested() -> int | None:
    """The signal that asked for an end still to come."""
    return _State.requested


def last() -> int:
    """The signal that came last; SIGINT where none came while this module listened."""
    return _State.last


@contextmanager
def handling() -> Iterator[None]:
    """Handle SIGINT and SIGTERM inside; a second one ends the work wherever it is."""
    if threading.current_thread() is not threading.main_thread():  # only it may set handlers
        yield
        return
    before = {number: signal.signal(number, _on_signal) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _State.requested = None


@contextmanager
def deferred() -> Iterator[None]:
    """Inside, a first signal is only noted: the work looks at `requested` after each step and ends itself.

    Raises:
        Stopped: at the end of the block, if there was a signal.
    """
    _State.at_a_step = True
    try:
        yield
    finally:
        _State.at_a_step = False
    if _State.requested is not None:
        raise Stopped


def _on_signal(number: int, frame: object) -> None:
    _State.last = number
    if _State.at_a_step and _State.requested is None:
        _State.requested = number
        return
    raise Stopped
