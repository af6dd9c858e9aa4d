"""Every fault that is injected, one function each: what was on the disk before, what is lost, what is left running."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import memprof.child
from benchmarks.disk_faults import full_disk, torn_files
from benchmarks.fuzz import fuzz
from benchmarks.program import MEASURED, Program, program
from benchmarks.row import Row
from memprof.oom import CGROUPS, oom_kills
from memprof.record import Record
from memprof.store import RunStore

TWO = ("adamw", "lora")
LIMIT = 8 * 2**30
TOO_MUCH = ("--batch", str(2**23), "--max-fraction", "100")
"""one tensor of it is larger than LIMIT"""
NO_CGROUP = {
    False: "not injected: control groups (v2) have no memory controller on this machine",
    True: "not injected: it takes a control group with a memory limit, and this script makes none",
}
"""why, by whether there is a controller that could"""
LIAR = """#!{python}
import json, os, sys
request = sys.stdin.read()
if '"method": "adamw"' in request:
    {says}
else:
    os.execv({python!r}, [{python!r}, "-c", {honest!r} + repr(request) + {main!r}])
"""
HONEST = "import io, sys; from memprof import worker; sys.stdin = io.StringIO("
EVENTS = "memory.events"
KILLER = f"""
    with open({EVENTS!r}, "w") as file:
        file.write("oom_kill 1\\n")
    os.kill(os.getpid(), 9)"""
"""what the kernel's killer does, as a process sees it: the group's count grows and signal 9 comes"""
RUBBISH = {
    "random bytes": "os.write(1, os.urandom(5000))",
    "half a JSON document": 'print(\'{"measured": {"param": 1, \')',
    "a figure that is no number": 'print(\'{"measured": {"param": NaN}}\')',
    "bytes without end": "\n    while True: os.write(1, b'x' * 65536)",
}


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
    yield Row(
        "out of memory: the kernel's own killer in a memory cgroup", message=NO_CGROUP[_has_controller()], skipped=True
    )
    yield _stand_in_for_the_killer(folder / "killer")
    run = program(folder / "hang", *MEASURED, "--timeout", "60", methods=TWO).start()
    run.wait_for_worker(0).send_signal(signal.SIGSTOP)
    yield _cell("the measuring process hangs (stopped) past --timeout", run, 0)


def _has_controller() -> bool:
    lists = (CGROUPS / "cgroup.controllers", CGROUPS / "unified" / "cgroup.controllers")
    return any("memory" in file.read_text().split() for file in lists if file.exists())


def _stand_in_for_the_killer(folder: Path) -> Row:
    """The kernel's part played: a measuring process that counts itself in the file that memprof is told to read."""
    fault = "out of memory: signal 9 while oom_kill grows in memory.events (a file in its place), record 1"
    child = _liar(folder / "child", KILLER.replace(repr(EVENTS), repr(str(folder / "sys" / EVENTS))))
    (folder / "proc" / "self").mkdir(parents=True)
    (folder / "proc" / "self" / "cgroup").write_text("0::/\n")
    (folder / "sys").mkdir()
    (folder / "sys" / EVENTS).write_text("oom_kill 0\n")

    def prepare() -> None:
        _use(child)
        vars(memprof.child).update(oom_kills=partial(oom_kills, folder / "proc", folder / "sys"))

    return _cell(fault, program(folder / "run", *MEASURED, methods=TWO, prepare=prepare).start(), 0)


def rubbish(folder: Path) -> Iterator[Row]:
    for name, says in RUBBISH.items():
        liar = _liar(folder / name.replace(" ", "-"), says)
        run = program(folder / f"{liar.name}.run", *MEASURED, methods=TWO, prepare=lambda p=liar: _use(p))  # type: ignore[misc]
        yield _cell(f"on the pipe, for record 1: {name}", run.start(), 0)


def _liar(file: Path, says: str) -> Path:
    """A program in the place of Python: for record 1 it does as it is told, for the others it is Python."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(LIAR.format(python=sys.executable, says=says, honest=HONEST, main="); worker.main()"))
    file.chmod(0o755)
    return file


def _use(python: Path) -> None:
    sys.executable = str(python)


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
