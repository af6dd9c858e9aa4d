"""Ctrl-C, termination and hangup: an exception that stops the program, where that does no harm and nobody swallows it.

Python drops what is raised inside a weakref callback or a destructor, and a trace has thousands of those; and a record
that is half on the disk must get there whole. So a signal is also remembered.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN = 0.02
"""seconds after which what was swallowed is raised again"""


class Interrupted(BaseException):
    """Ctrl-C, a termination or a hangup. A kind of our own, since typer makes what it likes of KeyboardInterrupt."""


@dataclass(slots=True)
class _State:
    asked: bool = False
    holding: int = 0


_state = _State()


@contextmanager
def listening() -> Iterator[None]:
    """Take over the signals that end a program, and give them back at the end.

    Not those that are ignored already: `nohup` means what it says, and so does a script that starts us with `&`.
    """
    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    numbers = (*heard, signal.SIGALRM)
    before, hook = [signal.getsignal(number) for number in numbers], sys.unraisablehook
    try:
        for number in numbers:
            signal.signal(number, _interrupt)
        sys.unraisablehook = _swallowed
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler or signal.SIG_DFL)
        sys.unraisablehook = hook
        _state.asked, _state.holding = False, 0


def stopping() -> bool:
    """Whether a signal has come."""
    return _state.asked


def check() -> None:
    """Stop here if a signal has come."""
    if _state.asked and not _state.holding:
        raise Interrupted


@contextmanager
def held() -> Iterator[None]:
    """What must not stop half-way: a signal that comes inside takes effect at the end."""
    _state.holding += 1
    try:
        yield
    finally:
        _state.holding -= 1
    check()


def _interrupt(*_: object) -> None:
    _state.asked = True
    check()


def _swallowed(dropped: Any) -> None:
    """Where Python drops an exception. Ours is raised again, by the alarm clock, when the callback is over."""
    if dropped.exc_type is Interrupted:
        signal.setitimer(signal.ITIMER_REAL, AGAIN)
    else:
        sys.__unraisablehook__(dropped)
