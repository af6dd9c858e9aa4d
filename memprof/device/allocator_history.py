"""The CUDA caching allocator's own history as events, with our marks put between its entries by what it had counted.

The allocator counts each allocation where it writes `alloc` into its history and each free where it writes
`free_requested`, both under one lock (CUDACachingAllocator.cpp, alloc_found_block and free). So a pair of counts is one
place in the history, and asking for it costs microseconds where a snapshot would copy all that went before. A block is
given back when that is requested, as the allocator's own count of allocated bytes has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from memprof.device.contract import Allocation
from memprof.errors import UnsupportedError

ALLOC, FREE = "alloc", "free_requested"
METHODS = "/memprof/methods/"
OPTIMIZERS = "/torch/optim/"


class Counts(NamedTuple):
    """Allocations and frees that an allocator has counted."""

    allocations: int = 0
    frees: int = 0

    def __sub__(self, earlier: Counts) -> Counts:
        return Counts(self.allocations - earlier.allocations, self.frees - earlier.frees)


def history_events(history: Iterable[dict[str, Any]], marks: list[Counts], end: Counts) -> list[Allocation | int]:
    """Allocations and frees out of the allocator's history, with each mark where its counts are reached.

    `end` is what was counted when the history was read. `UnsupportedError` where the two do not fit.
    """
    events: list[Allocation | int] = []
    pending = list(enumerate(marks))
    seen = Counts()
    for entry in history:
        if entry["action"] not in (ALLOC, FREE):
            continue
        while pending and pending[0][1] == seen:
            events.append(pending.pop(0)[0])
        if entry["action"] == ALLOC:
            seen = Counts(seen.allocations + 1, seen.frees)
            events.append(Allocation(entry["addr"], entry["size"], maker_of(entry), entry["stream"]))
        else:
            seen = Counts(seen.allocations, seen.frees + 1)
            events.append(Allocation(entry["addr"], -entry["size"], "", entry["stream"]))
    if seen != end or any(counts != seen for _, counts in pending):
        raise UnsupportedError(_unfit(seen, end))
    return events + [mark for mark, _ in pending]


def _unfit(seen: Counts, end: Counts) -> str:
    return (
        f"the CUDA allocator's history has {seen.allocations} allocations and {seen.frees} frees, its counters say "
        f"{end.allocations} and {end.frees}; measure in a process where nothing else records or resets them"
    )


def maker_of(entry: dict[str, Any]) -> str:
    """The innermost line in a method or in torch's optimizers; empty where there is none (autograd's own threads)."""
    for frame in entry.get("frames") or ():
        for folder in (METHODS, OPTIMIZERS):
            _, found, name = frame["filename"].rpartition(folder)
            if found:
                return f"{'methods' if folder == METHODS else 'torch/optim'}/{name}:{frame['line']}"
    return ""
