"""memprof as a process that faults can be injected into: forked from one that has loaded it, so that a start is cheap.

What runs is the real command line. A `prepare` function may change the forked process first: set a resource limit,
or make it kill itself at a given record. The program itself has no door for that.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

import memprof.cli.main
from memprof.errors import MemprofError
from memprof.record import Record
from memprof.run_file import RECORDS, load

METHODS = ("adamw", "lora", "galore", "adafactor")
TINY = "compare --model 9m --num-layers 1 --vocab-size 64 --batch 1 --seq 8 --dtype fp32 --kernels cpu --steps 2"
MEASURED = ("--device", "cpu")
PATIENCE = 120.0
"""seconds after which a run is given up"""


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

    def wait_for_worker(self, records: int) -> psutil.Process:
        """The process that measures when so many records are kept."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            file = self.folder / RECORDS
            if file.exists() and file.read_bytes().count(b"\n") == records + 1:
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
        """Measuring processes that still run; the operating system has a moment to end them."""
        end = time.monotonic() + 5
        while (left := sum(map(_runs, self.workers))) and time.monotonic() < end:
            time.sleep(0.05)
        return left

    def said(self) -> str:
        """The last line on standard error, without the folder it ran in."""
        lines = (self.folder.parent / "err").read_text(errors="replace").strip().splitlines()
        return (lines[-1] if lines else "").replace(str(self.folder.parent) + "/", "")

    def records(self) -> list[Record]:
        try:
            return load(self.folder)
        except MemprofError:
            return []


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
