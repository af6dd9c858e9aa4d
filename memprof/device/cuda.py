"""One GPU: the caching allocator's statistics and history, CUDA events, NVML by the GPU's UUID.

Changes no setting of the GPU. What its allocator holds is read in whole blocks; the history holds requested sizes.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from memprof.device.contract import Allocation, Conditions, Recording, Usage
from memprof.device.nvml import Nvml
from memprof.errors import UnsupportedError

CUDA_HISTORY_ENTRIES = 5_000_000
UNNAMED = "unnamed"
"""the maker of every block: CUDA's history names none unless it records stacks"""


class CudaDevice:
    """One GPU: the caching allocator's statistics and history, CUDA events, NVML by the GPU's UUID."""

    kind = "cuda"

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise UnsupportedError("--device cuda: torch sees no CUDA device here; use --device cpu or --no-measure")
        self.torch_device = torch.device("cuda", torch.cuda.current_device())
        self.nvml = Nvml.of(str(torch.cuda.get_device_properties(self.torch_device).uuid))

    def describe(self) -> dict[str, str | None]:
        return {
            "device": "cuda",
            "gpu": torch.cuda.get_device_name(self.torch_device),
            "cuda": torch.version.cuda,
            "driver": self.nvml.driver() if self.nvml else None,
            "allocator": torch.cuda.get_allocator_backend(),
        }

    def total_bytes(self) -> int:
        """Memory that the GPU has."""
        return int(torch.cuda.get_device_properties(self.torch_device).total_memory)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.torch_device)

    def now(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        return float(start.elapsed_time(end)) / 1e3

    @contextmanager
    def record(self) -> Iterator[Recording]:
        """The allocator's own history. A mark is the number of entries so far."""
        recording = Recording()
        marks: list[int] = []
        recording.mark = lambda: marks.append(len(self._history()))
        torch.cuda.memory._record_memory_history("all", context=None, max_entries=CUDA_HISTORY_ENTRIES)
        try:
            yield recording
            history = self._history()
            if len(history) >= CUDA_HISTORY_ENTRIES:
                raise UnsupportedError(
                    f"three steps make more than the {CUDA_HISTORY_ENTRIES} allocator events that are kept; "
                    "measure a smaller model or fewer micro-batches"
                )
            recording.events = history_events(history, marks)
        finally:
            torch.cuda.memory._record_memory_history(None)

    def _history(self) -> list[dict[str, Any]]:
        self.synchronize()
        traces: list[list[dict[str, Any]]] = torch.cuda.memory._snapshot()["device_traces"]
        return traces[self.torch_device.index]

    def reset(self) -> None:
        gc.collect()
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
        self.reset_peak()

    def allocated_peak(self) -> int | None:
        return int(torch.cuda.max_memory_allocated(self.torch_device))

    def reset_peak(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.torch_device)

    def reserved_peak(self) -> int | None:
        return int(torch.cuda.max_memory_reserved(self.torch_device))

    def reserved(self) -> int | None:
        return int(torch.cuda.memory_reserved(self.torch_device))

    def usage(self) -> Usage:
        return Usage(self.nvml.own_bytes() if self.nvml else None)

    def free_bytes(self) -> int | None:
        """What the driver could give beside this process's context, which this question sets up if none is there."""
        return int(torch.cuda.mem_get_info(self.torch_device)[0])

    def joules(self) -> float | None:
        return self.nvml.joules() if self.nvml else None

    def conditions(self) -> Conditions:
        return Conditions(others=self.nvml.others() if self.nvml else None)


def history_events(history: list[dict[str, Any]], marks: list[int]) -> list[Allocation | int]:
    """Allocations out of the CUDA allocator's history, with mark k put before its entry number `marks[k]`."""
    events: list[Allocation | int] = []
    pending = list(enumerate(marks))
    for index, entry in enumerate(history):
        while pending and pending[0][1] <= index:
            events.append(pending.pop(0)[0])
        if entry["action"] == "alloc":
            events.append(Allocation(entry["addr"], entry["size"], UNNAMED))
        elif entry["action"] == "free_completed":
            events.append(Allocation(entry["addr"], -entry["size"]))
    return events + [mark for mark, _ in pending]
