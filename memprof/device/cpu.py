"""The processor: torch's own allocator events, the resident set and its high-water mark."""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch

from memprof.device.contract import Allocation, Conditions, Recording, Usage


class CpuDevice:
    """The processor: torch's own allocator events, the resident set and its high-water mark."""

    kind = "cpu"
    torch_device = torch.device("cpu")

    def describe(self) -> dict[str, str | None]:
        return {"device": "cpu", "threads": str(torch.get_num_threads()), "gpu": None}

    def synchronize(self) -> None:
        """A CPU's operations are over when they return."""

    def now(self) -> float:
        return time.perf_counter()

    def seconds(self, start: float, end: float) -> float:
        return end - start

    @contextmanager
    def record(self) -> Iterator[Recording]:
        """torch.profiler sees each allocation and free of the CPU allocator, those inside kernels included."""
        recording = Recording()
        marks = iter(range(10**9))

        def mark() -> None:
            with torch.profiler.record_function(f"{_MARK}{next(marks)}"):
                pass

        recording.mark = mark
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
            yield recording
        recording.events = _profiler_events(profiler)

    def reset(self) -> None:
        gc.collect()

    def allocated_peak(self) -> int | None:
        return None

    def reset_peak(self) -> None:
        """The CPU allocator keeps no peak; its events do."""

    def reserved(self) -> int | None:
        return None

    def usage(self) -> Usage:
        """High-water mark of the resident set. It never falls: read `resident_bytes` before for the rest."""
        return Usage(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)

    def free_bytes(self) -> int | None:
        """What the host could give without swapping. A container's own limit is not seen."""
        return int(psutil.virtual_memory().available)

    def joules(self) -> float | None:
        return None

    def conditions(self) -> Conditions:
        return Conditions()


_MARK = "memprof::mark::"


def resident_bytes() -> int:
    """Bytes of this process that are in memory now."""
    return int(psutil.Process().memory_info().rss)


def _profiler_events(profiler: Any) -> list[Allocation | int]:
    """The CPU's allocations and our marks, in the order of time, out of torch's own event tree."""
    found: list[tuple[int, int, Allocation | int]] = []
    stack = [(event, "") for event in profiler.profiler.kineto_results.experimental_event_tree()]
    while stack:
        event, maker = stack.pop()
        name = event.name
        if event.tag.name == "Allocation":
            extra = event.extra_fields
            if str(extra.device) == "cpu":
                found.append((event.start_time_ns, len(found), Allocation(extra.ptr, extra.alloc_size, maker)))
        elif name.startswith(_MARK):
            found.append((event.start_time_ns, len(found), int(name.removeprefix(_MARK))))
        else:
            maker = _maker(name, maker)
        stack.extend((child, maker) for child in reversed(event.children))
    return [event for _, _, event in sorted(found, key=lambda item: item[:2])]


ALLOCATING = frozenset(f"aten::{name}" for name in ("empty", "empty_strided", "empty_like", "new_empty", "resize_"))


def _maker(name: str, outer: str) -> str:
    """The innermost operator that works, not the one that only allocates for it."""
    if not name.startswith("aten::") or (name in ALLOCATING and outer):
        return outer
    return name
