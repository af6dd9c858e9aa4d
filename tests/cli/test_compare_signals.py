"""`memprof compare` as a process: a signal or a lost terminal ends it and its child."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from memprof.run_file import RECORDS, load
from tests.cli.comparisons import QUICK, ROOT

pytestmark = pytest.mark.usefixtures("nothing_left")


SLOW = [*QUICK, "--method", "adamw", "--device", "cpu", "--steps", "100000"]
"""a cell that takes minutes"""


def worker_of(program: int, run: Path, is_over: Callable[[], object]) -> psutil.Process | None:
    """The measuring child, once the run is there: another is asked before what the device is."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not is_over():
        time.sleep(0.05)
        if (run / RECORDS).exists():
            for child in psutil.Process(program).children():
                return child
    return None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_a_measurement_and_its_child(tmp_path: Path, number: signal.Signals) -> None:
    """The program waits for its measuring child when the signal comes: neither outlives it."""
    run = tmp_path / "run"
    program = subprocess.Popen(
        [sys.executable, "-m", "memprof", *SLOW, "-o", str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    with program:
        try:
            child = worker_of(program.pid, run, program.poll)
            program.send_signal(number)
            out, err = program.communicate(timeout=60)
        finally:
            program.kill()
    assert child is not None, err
    assert (program.returncode, out) == (130, "") and "Traceback" not in err
    told = f"memprof: interrupted; what had finished is kept in {run}; --resume goes on\n"
    assert err == f"memprof: timing 1 method in 6 rounds\n{told}"
    assert not psutil.pid_exists(child.pid)
    assert [(record.method, record.status) for record in load(run)] == [("adamw", "interrupted")]


def test_a_terminal_that_hangs_up_ends_it_as_a_signal_does(tmp_path: Path) -> None:
    """As a lost connection does: SIGHUP comes, and nothing can be written to the terminal any more."""
    run = tmp_path / "run"
    pid, terminal = pty.fork()
    if not pid:  # the controlling terminal of this one goes away
        os.execve(
            sys.executable,
            [sys.executable, "-m", "memprof", *SLOW, "-o", str(run)],
            os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm"},
        )
    try:
        child = worker_of(pid, run, lambda: False)
        os.close(terminal)
        program = psutil.Process(pid)
        program.wait(timeout=60)
        assert child is not None and not psutil.pid_exists(child.pid)
        assert [(record.method, record.status) for record in load(run)] == [("adamw", "interrupted")]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
