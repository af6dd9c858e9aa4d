"""Every fault that is injected, one function each: what was on the disk before, what is lost, what is left running."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

import memprof.child
from benchmarks.disk_faults import full_disk, torn_files
from benchmarks.fuzz import fuzz
from benchmarks.program import MEASURED, METHODS, Program, program
from benchmarks.row import Row
from benchmarks.stand_in import EVENTS, RUBBISH, kernels_killer, never_ends, stand_in, use
from memprof.oom import CGROUPS, oom_kills
from memprof.record import Record
from memprof.store import RunStore

Injection = Callable[[Path], Iterator[Row]]
FIRST, SECOND = METHODS
INPUTS = 10_000
LIMIT = 8 * 2**30
TOO_MUCH = ("--batch", str(2**23), "--max-fraction", "100")
"""one tensor of it is larger than LIMIT"""
NO_CGROUP = {
    False: "not injected: control groups (v2) have no memory controller on this machine",
    True: "not injected: it takes a control group with a memory limit, and this script makes none",
}
"""why, by whether there is a controller that could"""
KILLED = "nothing: it was killed"
STOPPED = r"memprof: interrupted; what had finished is kept in run; --resume goes on$"
CRASHED = "crashed: the measuring process "
KILLED_CHILD = "(crashed: .* killed by signal 9, though the kernel counted no|oom: .* killed by signal 9, perhaps) "
"""the second where nothing counts the kernel's kills"""
SIGNALS_SENT = (
    ("SIGINT", 130, STOPPED), ("SIGTERM", 130, STOPPED), ("SIGHUP", 130, STOPPED), ("SIGKILL", -9, KILLED)
)  # fmt: skip


def _row(fault: str, run: Program, before: int, wanted: int, says: str = KILLED) -> Row:
    """After a fault: finished records that are gone, and, once it was continued, that exactly the rest was run.

    What was on the disk stays there byte for byte: a line that has changed is a lost record.
    """
    code, left, kept, told = run.wait(), run.left(), run.lines(), run.said()
    finished = sum(record.status == "ok" for record in run.records())
    again = run.continued()
    changed = sum(line != now for line, now in zip(kept, [*again.lines(), *kept], strict=False))
    ran = len(again.lines()) - max(1, len(kept))  # the header is a line too
    told = KILLED if code < 0 else told
    if again.code != 0 or ran != len(METHODS) - finished or any(r.status != "ok" for r in again.records()):
        told = f"NOT CONTINUED ({ran} ran): {again.said()}"
    return Row(
        fault=fault, before=before, lost=max(0, before - finished) + changed, children=left + again.left(), code=code,
        message=told, wanted=wanted, says=says,
    )  # fmt: skip


def killed_at_records(folder: Path) -> Iterator[Row]:
    """kill -9 of the program before, in the middle of and after the writing of each record."""
    for count in range(len(METHODS)):
        for when in ("before", "inside", "after"):
            run = program(folder / f"{when}{count}", *MEASURED, prepare=partial(_die_at, count, when))
            before = count + (when == "after")
            yield _row(f"kill -9 of memprof {when} record {count + 1}", run.start(), before, -signal.SIGKILL)


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
    """Signals to the program while it measures for longer than anybody waits, and to its measuring process."""
    ready = folder / "ready"
    endless = stand_in(folder / "endless", SECOND, never_ends(ready))
    for name, wanted, says in SIGNALS_SENT:
        run = program(folder / name, *MEASURED, prepare=partial(use, endless)).start()
        run.wait_for_worker(1, ready)
        ready.unlink()
        os.kill(run.pid, signal.Signals[name])
        yield _row(f"{name} to memprof while record 2 is measured", run, 1, wanted, says)
    for name, count, says in (("SIGKILL", 0, KILLED_CHILD), ("SIGSEGV", 1, f"{CRASHED}died of signal 11$")):
        run = program(folder / f"child{name}{count}", *MEASURED).start()
        run.wait_for_worker(count).send_signal(signal.Signals[name])
        yield _cell(f"{name} to the measuring process of record {count + 1}", run, count, says)


def _cell(fault: str, run: Program, place: int, says: str) -> Row:
    """A fault inside one cell: the others finish, and the cell says what became of it."""
    code, left, records = run.wait(), run.left(), run.records()
    others = [record for number, record in enumerate(records) if number != place]
    gone = run.arguments.count("--method") * run.arguments.count("--batch") - len(records)
    lost = gone + sum(record.status != "ok" for record in others)
    told = f"{records[place].status}: {records[place].reason}" if place < len(records) else run.said()
    return Row(fault=fault, before=place, lost=lost, children=left, code=code, message=told, wanted=3, says=says)


def memory_and_time(folder: Path) -> Iterator[Row]:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))

    run = program(folder / "limit", *MEASURED, *TOO_MUCH, methods=(FIRST,), prepare=limited).start()
    yield _cell("out of memory: address space limited (RLIMIT_AS), record 2", run, 1, r"oom: .*can't allocate memory")
    yield _cuda(folder / "cuda")
    fault = "out of memory: the kernel's own killer in a memory cgroup"
    yield Row(fault=fault, message=NO_CGROUP[_has_controller()], skipped=True)
    yield _stand_in_for_the_killer(folder / "killer")
    run = program(folder / "hang", *MEASURED, "--timeout", "5", methods=(FIRST,)).start()
    run.wait_for_worker(0).send_signal(signal.SIGSTOP)
    yield _cell("the measuring process hangs (stopped) past --timeout", run, 0, "timeout: no answer within 5 s; ")


def _cuda(folder: Path) -> Row:
    fault = "out of memory: CUDA's allocator, record 2"
    if not torch.cuda.is_available():
        return Row(fault=fault, message="not injected: torch sees no CUDA device on this machine", skipped=True)
    run = program(folder, "--device", "cuda", "--kernels", "cuda", *TOO_MUCH, methods=(FIRST,)).start()
    return _cell(fault, run, 1, "oom: CUDA.*out of memory")


def _has_controller() -> bool:
    lists = (CGROUPS / "cgroup.controllers", CGROUPS / "unified" / "cgroup.controllers")
    return any("memory" in file.read_text().split() for file in lists if file.exists())


def _stand_in_for_the_killer(folder: Path) -> Row:
    """The kernel's part played: a measuring process that counts itself in the file that memprof is told to read."""
    fault = "out of memory: signal 9 while oom_kill grows in memory.events (a file in its place), record 1"
    (folder / "proc" / "self").mkdir(parents=True)
    (folder / "proc" / "self" / "cgroup").write_text("0::/\n")
    (folder / "sys").mkdir()
    (folder / "sys" / EVENTS).write_text("oom_kill 0\n")
    child = stand_in(folder / "child", FIRST, kernels_killer(folder / "sys" / EVENTS))

    def prepare() -> None:
        use(child)
        vars(memprof.child).update(oom_kills=partial(oom_kills, folder / "proc", folder / "sys"))

    run = program(folder / "run", *MEASURED, prepare=prepare).start()
    return _cell(fault, run, 0, r"oom: .*out-of-memory killer \(oom_kill in memory.events went from 0 to 1\)$")


def rubbish(folder: Path) -> Iterator[Row]:
    for name, does in RUBBISH.items():
        liar = stand_in(folder / name.replace(" ", "-"), FIRST, does)
        run = program(folder / f"{liar.name}.run", *MEASURED, prepare=partial(use, liar))
        yield _cell(f"on the pipe, for record 1: {name}", run.start(), 0, f"{CRASHED}gave no usable answer$")


def two_writers(folder: Path) -> Iterator[Row]:
    ready = folder / "ready"
    endless = stand_in(folder / "endless", SECOND, never_ends(ready))
    first = program(folder / "both", *MEASURED, prepare=partial(use, endless)).start()
    first.wait_for_worker(1, ready)
    before = first.lines()
    try:
        for flag in ("--resume", "--force"):
            second = Program(first.folder, [*first.arguments, flag]).start()
            yield Row(
                fault=f"a second memprof on the folder, {flag}", before=1, code=second.wait(), children=second.left(),
                lost=len(before) - sum(line in first.lines() for line in before), message=second.said(),
                wanted=2, says="memprof: another memprof is writing to run; ",
            )  # fmt: skip
    finally:
        first.kill()
    fault = "the first one is killed: the lock is free, and --resume goes on"
    yield _row(fault, first, 1, -signal.SIGKILL)


def random_input(folder: Path) -> Iterator[Row]:
    for target in ("config.json", "method string"):
        tally = fuzz(target, range(INPUTS))
        told = f"{tally.answered} taken, {tally.refused} refused, {len(tally.findings)} other errors"
        says = r"[1-9]\d* taken, [1-9]\d* refused, 0 other errors$"
        yield Row(fault=f"{INPUTS:,} random inputs: {target}", message=told, says=says)


INJECTIONS: tuple[Injection, ...] = (
    killed_at_records, signals, memory_and_time, rubbish, torn_files, full_disk, two_writers, random_input
)  # fmt: skip
