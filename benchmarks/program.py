"""memprof as a process that faults can be injected into: forked from one that has loaded it, so that a start is cheap.

What runs is the real command line. A `prepare` function may change the forked process first: set a resource limit,
or make it kill itself at a given record. The program itself has no door for that.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import psutil

import memprof.cli.main
from memprof.api import compare
from memprof.errors import MemprofError
from memprof.interrupt import SIGNALS
from memprof.record import Record
from memprof.run_file import RECORDS, load

METHODS = ("adamw", "lora")
TINY = "compare --model 9m --num-layers 1 --vocab-size 64 --batch 1 --seq 8 --dtype fp32 --kernels cpu --steps 2"
MEASURED = ("--device", "cpu")
PATIENCE = 300.0
"""seconds after which a run is given up, on a machine with other work too"""


@dataclass(slots=True)
class Program:
    """One run of memprof in a process of its own."""

    folder: Path
    arguments: list[str]
    prepare: Callable[[], None] = lambda: None
    pid: int = 0
    code: int | None = None
    workers: set[int] = field(default_factory=set)
    """every measuring process that was seen"""

    def start(self) -> Program:
        _warm()
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            self._become_it()
        return self

    def _become_it(self) -> None:
        """Never returns: whatever happens ends this process and not its parent's work."""
        try:
            for number, name in ((1, "out"), (2, "err")):
                file = os.open(self.folder.parent / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(file, number)
            for given in SIGNALS:  # a script that starts us with `&` has some ignored
                signal.signal(given, signal.SIG_DFL)
            sys.argv = ["memprof", *self.arguments, "-o", str(self.folder)]
            self.prepare()
            memprof.cli.main.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
            code = 99
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def children(self) -> list[psutil.Process]:
        found = psutil.Process(self.pid).children() if self.code is None else []
        self.workers |= {child.pid for child in found}
        return found

    def wait_for_worker(self, records: int, ready: Path | None = None) -> psutil.Process:
        """The process that measures when so many records are kept and, where it is given, the file `ready` is there."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            file = self.folder / RECORDS
            if (ready is None or ready.exists()) and file.exists() and file.read_bytes().count(b"\n") == records + 1:
                for child in self.children():
                    return child
            time.sleep(0.02)
        raise TimeoutError("no measuring process appeared")

    def wait(self) -> int:
        """The exit code; below 0 the signal that ended it."""
        end = time.monotonic() + PATIENCE
        while self.code is None and time.monotonic() < end:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.code = os.waitstatus_to_exitcode(status)
            else:
                self.children()
                time.sleep(0.02)
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            raise TimeoutError("memprof did not end")
        return self.code

    def left(self) -> int:
        """Measuring processes that still run; the operating system has a moment to end them. Then they are ended."""
        end = time.monotonic() + 1
        while (left := [pid for pid in self.workers if _runs(pid)]) and time.monotonic() < end:
            time.sleep(0.05)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        return len(left)

    def kill(self) -> None:
        """As nobody can prepare for; nothing where it has ended already."""
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)

    def said(self) -> str:
        """The last line on standard error, without the folder it ran in."""
        lines = (self.folder.parent / "err").read_text(errors="replace").strip().splitlines()
        return (lines[-1] if lines else "").replace(str(self.folder.parent) + "/", "")

    def lines(self) -> list[bytes]:
        """The whole lines of the run's file."""
        file = self.folder / RECORDS
        return file.read_bytes().split(b"\n")[:-1] if file.exists() else []

    def continued(self) -> Program:
        """The same command with --resume, as somebody would give it after the fault."""
        again = Program(self.folder, [*self.arguments, "--resume"]).start()
        again.wait()
        return again

    def records(self) -> list[Record]:
        try:
            return load(self.folder)
        except MemprofError:
            return []


@cache
def _warm() -> None:
    """Have loaded here, once, what every run loads: the ledger's operators, and what draws the tables."""
    importlib.import_module("memprof.report.files")
    compare(["9m"], METHODS, num_layers=1, vocab_size=64, batch_size=1, seq_len=8, dtype="fp32", kernels="cpu")


def _runs(pid: int) -> bool:
    """Dead but not yet taken note of by whoever inherited it is dead."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def program(
    folder: Path, *extra: str, methods: tuple[str, ...] = METHODS, prepare: Callable[[], None] = lambda: None
) -> Program:
    named = [part for method in methods for part in ("--method", method)]
    return Program(folder / "run", [*TINY.split(), *named, *extra], prepare)
