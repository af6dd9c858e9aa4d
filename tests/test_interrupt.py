"""Signals: they stop the program once, late where stopping would harm, and never get lost."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator

import psutil
import pytest

import memprof.child
from memprof.interrupt import SIGNALS, Interrupted, check, held, listening, stopping


class Thing:
    """Something that a weak reference can point to."""


def struck(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    busy(0.01)  # Python acts on a signal between two instructions


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Whoever started these tests may have had some ignored: a script does, with `&`."""
    given = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = [*map(signal.getsignal, SIGNALS), sys.unraisablehook]
    with listening():
        yield
    assert [*map(signal.getsignal, SIGNALS), sys.unraisablehook] == before
    check()
    for number, handler in given.items():
        signal.signal(number, handler)


def busy(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_a_signal_stops_the_program() -> None:
    with pytest.raises(Interrupted):
        struck()


@pytest.mark.parametrize("number", SIGNALS)
def test_each_of_the_signals_does(number: signal.Signals) -> None:
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} == set(SIGNALS)
    with pytest.raises(Interrupted):
        os.kill(os.getpid(), number)
        busy(0.01)
    assert stopping()


def test_what_is_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `nohup` leaves a hangup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with listening():
        os.kill(os.getpid(), signal.SIGHUP)
        busy(0.01)
        assert not stopping()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_a_signal_inside_a_weakref_callback_is_not_lost(capfd: pytest.CaptureFixture[str]) -> None:
    thing = Thing()
    watched = weakref.ref(thing, struck)
    with pytest.raises(Interrupted):
        del thing
        gc.collect()
        busy(5.0)
    assert watched() is None and capfd.readouterr().err == ""
    with pytest.raises(Interrupted):
        check()


def test_what_is_held_is_finished_first() -> None:
    finished = []
    with pytest.raises(Interrupted), held():
        with held():
            struck()
        finished.append("inner")
        finished.append("outer")
    assert finished == ["inner", "outer"]


def test_what_others_drop_is_still_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr("sys.__unraisablehook__", seen.append)

    def fail(_: object) -> None:
        raise ValueError("of somebody else")

    make: Callable[[], Thing] = Thing
    thing = make()
    watched = weakref.ref(thing, fail)
    del thing
    assert watched() is None and len(seen) == 1
    check()


def test_a_signal_while_a_child_starts_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes when the process is there and nobody knows it yet."""
    started: list[subprocess.Popen[bytes]] = []
    real = memprof.child._start

    def start() -> subprocess.Popen[bytes]:
        started.append(real())
        struck()
        return started[0]

    monkeypatch.setattr(memprof.child, "_start", start)
    with pytest.raises(Interrupted):
        memprof.child.ask_child({"describe": "cpu"}, 60.0)
    assert not psutil.pid_exists(started[0].pid)
