"""Every fault that is injected, one function each: what was on the disk before, what is lost, what is left running."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fuzz import fuzz
from benchmarks.program import MEASURED, Program, program
from memprof.errors import MemprofError
from memprof.record import Record
from memprof.store import RECORDS, RunStore, load

TWO = ("adamw", "lora")
LIMIT = 8 * 2**30
TOO_MUCH = ("--batch", str(2**23), "--max-fraction", "100")
"""one tensor of it is larger than LIMIT"""
NO_CGROUP = "not injected: it needs a cgroup of its own; what it does to a process, SIGKILL, is above"
LIAR = """#!{python}
import json, os, sys
request = sys.stdin.read()
if '"method": "adamw"' in request:
    {says}
else:
    os.execv({python!r}, [{python!r}, "-c", {honest!r} + repr(request) + {main!r}])
"""
HONEST = "import io, sys; from memprof import worker; sys.stdin = io.StringIO("
RUBBISH = {
    "random bytes": "os.write(1, os.urandom(5000))",
    "half a JSON document": 'print(\'{"measured": {"param": 1, \')',
    "a figure that is no number": 'print(\'{"measured": {"param": NaN}}\')',
    "bytes without end": "\n    while True: os.write(1, b'x' * 65536)",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the fault table. None is a figure that the fault has no place for."""

    fault: str
    before: int | None = None
    lost: int | None = None
    children: int | None = None
    code: int | None = None
    message: str = ""
    skipped: bool = False


def _row(fault: str, run: Program, before: int) -> Row:
    """After a fault: finished records that are gone, and, once it was continued, that nothing more is missing."""
    code, left = run.wait(), run.left()
    told = "nothing: it was killed" if code < 0 else run.said()
    lost = before - sum(record.status == "ok" for record in run.records())
    again = Program(run.folder, [*run.arguments, "--resume"])
    again.start().wait()
    whole = again.code == 0 and all(record.status == "ok" for record in again.records())
    return Row(fault, before, max(0, lost), left, code, told + ("" if whole else "; NOT CONTINUED: " + again.said()))


def killed_at_records(folder: Path) -> Iterator[Row]:
    """kill -9 of the program before, in the middle of and after the writing of each record."""
    for count in range(4):
        for when in ("before", "inside", "after"):
            run = program(folder / f"{when}{count}", prepare=lambda c=count, w=when: _die_at(c, w))  # type: ignore[misc]
            yield _row(f"kill -9 of memprof {when} record {count + 1}", run.start(), count + (when == "after"))


def _die_at(count: int, when: str) -> None:
    real, seen = RunStore.append, iter(range(100))

    def append(self: RunStore, record: Record) -> None:
        if next(seen) != count:
            return real(self, record)
        if when == "inside":
            line = json.dumps(record.to_dict()).encode()
            with self.records.open("ab") as file:
                file.write(line[: len(line) // 2])
        if when == "after":
            real(self, record)
        os.kill(os.getpid(), signal.SIGKILL)

    RunStore.append = append  # type: ignore[method-assign]


def signals(folder: Path) -> Iterator[Row]:
    """Signals to the program, and to its measuring process, at each record."""
    for name in ("SIGINT", "SIGTERM", "SIGKILL"):
        run = program(folder / name, *MEASURED, methods=TWO).start()
        run.wait_for_worker(1)
        os.kill(run.pid, signal.Signals[name])
        yield _row(f"{name} to memprof while record 2 is measured", run, 1)
    for name, count in (("SIGKILL", 0), ("SIGKILL", 1), ("SIGSEGV", 1)):
        run = program(folder / f"child{name}{count}", *MEASURED, methods=TWO).start()
        run.wait_for_worker(count).send_signal(signal.Signals[name])
        yield _cell(f"{name} to the measuring process of record {count + 1}", run, count)


def _cell(fault: str, run: Program, place: int, cells: int = 2) -> Row:
    """A fault inside one cell: the others finish, and the cell says what became of it."""
    code, left, records = run.wait(), run.left(), run.records()
    fine = sum(record.status == "ok" for record in records)
    cell = records[place]
    return Row(fault, place, cells - 1 - fine, left, code, f"{cell.status}: {cell.reason}")


def memory_and_time(folder: Path) -> Iterator[Row]:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))

    run = program(folder / "limit", *MEASURED, *TOO_MUCH, methods=("adamw",), prepare=limited).start()
    yield _cell("out of memory: address space limited (RLIMIT_AS), record 2", run, 1)
    yield Row("out of memory: the kernel's own killer in a memory cgroup", message=NO_CGROUP, skipped=True)
    run = program(folder / "hang", *MEASURED, "--timeout", "60", methods=TWO).start()
    run.wait_for_worker(0).send_signal(signal.SIGSTOP)
    yield _cell("the measuring process hangs (stopped) past --timeout", run, 0)


def rubbish(folder: Path) -> Iterator[Row]:
    for name, says in RUBBISH.items():
        liar = folder / name.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        liar.write_text(LIAR.format(python=sys.executable, says=says, honest=HONEST, main="); worker.main()"))
        liar.chmod(0o755)
        run = program(folder / f"{liar.name}.run", *MEASURED, methods=TWO, prepare=lambda p=liar: _use(p))  # type: ignore[misc]
        yield _cell(f"on the pipe, for record 1: {name}", run.start(), 0)


def _use(python: Path) -> None:
    sys.executable = str(python)


def torn_files(folder: Path) -> Iterator[Row]:
    """A finished run, cut at 400 places and then with a byte put wrong at 400."""
    run = program(folder / "whole").start()
    run.wait()
    whole, rng = (run.folder / RECORDS).read_bytes(), random.Random(0)
    finished = run.records()
    copy = folder / "copy" / RECORDS
    copy.parent.mkdir(parents=True)
    lost = 0
    for _ in range(400):
        end = rng.randrange(len(whole))
        copy.write_bytes(whole[:end])
        store = RunStore.create(copy.parent, resume=True)
        lost += max(0, whole[:end].count(b"\n") - 1 - sum(record in finished for record in store.load()))
        store.close()
    yield Row("records.jsonl cut at 400 places, then continued", 4, lost, 0, 0, "a torn last line is left out")
    refused = sum(_is_refused(copy, whole, rng.randrange(len(whole)), rng.randrange(256)) for _ in range(400))
    text = f"{refused} refused with their line, {400 - refused} still a run; no other error"
    yield Row("one byte of records.jsonl put wrong, 400 times", 4, None, 0, None, text)
    lines = whole.splitlines(keepends=True)
    (run.folder / RECORDS).write_bytes(b"".join([*lines[:2], lines[2][:99] + b"\n", *lines[3:]]))
    again = Program(run.folder, [*run.arguments, "--resume"]).start()
    yield Row("a line in the middle of records.jsonl torn", 4, 0, 0, again.wait(), again.said())


def _is_refused(file: Path, whole: bytes, place: int, byte: int) -> bool:
    file.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
    try:
        load(file)
    except MemprofError:
        return True
    return False


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[str]:
    """A file system of that size, mounted while open; yields why not, or nothing."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    yield "" if done.returncode == 0 else "not injected: no file system can be mounted here (it takes root)"
    if done.returncode == 0:
        subprocess.run(["umount", str(folder)], check=True)


def full_disk(folder: Path) -> Iterator[Row]:
    for size, what in ((4, "a record comes"), (16, "the tables come")):
        name, disk = f"the disk is full when {what} (a tmpfs of {size} KiB)", folder / f"{size}"
        with small_disk(disk, f"{size}k") as why_not:
            if why_not:
                yield Row(name, message=why_not, skipped=True)
                continue
            run = program(folder / "outside")
            run.folder = disk
            code, kept, told = run.start().wait(), run.records(), run.said()
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            again = Program(disk, [*run.arguments, "--resume"]).start()
            whole = again.wait() == 0 and all(record.status == "ok" for record in again.records())
            lost = sum(record not in again.records() for record in kept)
            yield Row(name, len(kept), lost, run.left(), code, told if whole else f"NOT CONTINUED: {again.said()}")


def two_writers(folder: Path) -> Iterator[Row]:
    first = program(folder / "both", *MEASURED, methods=TWO).start()
    first.wait_for_worker(1)
    for flag in ("--resume", "--force"):
        second = Program(first.folder, [*first.arguments, flag]).start()
        code = second.wait()
        yield Row(
            f"a second memprof on the folder, {flag}", 1, 1 - min(1, len(first.records())), 0, code, second.said()
        )
    os.kill(first.pid, signal.SIGKILL)
    yield _row("the first one is killed: the lock is free, and --resume goes on", first, 1)


def random_input(folder: Path) -> Iterator[Row]:
    for target in ("config.json", "method string"):
        tally = fuzz(target, range(10_000))
        told = f"{tally.answered} taken, {tally.refused} refused, {len(tally.findings)} other errors"
        yield Row(f"10,000 random inputs: {target}", None, None, 0, None, told)


INJECTIONS: tuple[Callable[[Path], Iterator[Row]], ...] = (
    killed_at_records, signals, memory_and_time, rubbish, torn_files, full_disk, two_writers, random_input
)  # fmt: skip
