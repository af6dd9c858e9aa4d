"""Hardware as a value: clocks, allocation events, peak bytes. The only file that knows CUDA, NVML and RSS.

A measurement takes a `Device`; tests hand it a fake one. Nothing here changes a setting of a GPU or touches
another process.
"""

from __future__ import annotations

import gc
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import psutil
import torch

from memprof.errors import MemprofError, UnsupportedError

CUDA_HISTORY_ENTRIES = 5_000_000


@dataclass(frozen=True, slots=True)
class Allocation:
    """A block that the allocator handed out (nbytes above 0) or took back (below 0)."""

    address: int
    nbytes: int
    maker: str = ""


@dataclass(slots=True)
class Recording:
    """What the allocator did, with marks between: an event is an `Allocation` or the number of a mark."""

    events: list[Allocation | int] = field(default_factory=list)
    mark: Callable[[], None] = lambda: None
    """say that the caller is here now; marks count from 0"""


class Device(Protocol):
    """What a measurement needs of the hardware."""

    @property
    def kind(self) -> str: ...
    @property
    def torch_device(self) -> torch.device: ...
    def describe(self) -> dict[str, str | None]: ...
    def synchronize(self) -> None: ...
    def now(self) -> Any:
        """An instant on the device's own clock; read with `seconds`."""

    def seconds(self, start: Any, end: Any) -> float: ...
    def record(self) -> AbstractContextManager[Recording]:
        """Record every allocation while open; the recording is complete when it closes."""

    def reset(self) -> None:
        """Give back what is cached and start peak statistics anew."""

    def allocated_peak(self) -> int | None:
        """Most bytes the allocator had handed out since `reset_peak`; None where it keeps no such count."""

    def reset_peak(self) -> None: ...
    def reserved_peak(self) -> int | None: ...
    def process_bytes(self) -> int | None:
        """What the driver or the operating system says this process uses."""

    def joules(self) -> float | None:
        """The energy counter; None where there is none."""

    def others(self) -> int | None:
        """How many other processes use the device; None where that is not to be known."""


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

    def reserved_peak(self) -> int | None:
        return None

    def process_bytes(self) -> int | None:
        """High-water mark of the resident set. It never falls: read `resident_bytes` before for the rest."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def joules(self) -> float | None:
        return None

    def others(self) -> int | None:
        return None


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
            maker = name if name.startswith("aten::") else maker
        stack.extend((child, maker) for child in reversed(event.children))
    return [event for _, _, event in sorted(found, key=lambda item: item[:2])]


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
            recording.events = history_events(self._history(), marks)
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

    def process_bytes(self) -> int | None:
        return self.nvml.own_bytes() if self.nvml else None

    def joules(self) -> float | None:
        return self.nvml.joules() if self.nvml else None

    def others(self) -> int | None:
        return self.nvml.others() if self.nvml else None


def history_events(history: list[dict[str, Any]], marks: list[int]) -> list[Allocation | int]:
    """Allocations out of the CUDA allocator's history, with mark k put before its entry number `marks[k]`."""
    events: list[Allocation | int] = []
    pending = list(enumerate(marks))
    for index, entry in enumerate(history):
        while pending and pending[0][1] <= index:
            events.append(pending.pop(0)[0])
        if entry["action"] == "alloc":
            events.append(Allocation(entry["addr"], entry["size"]))
        elif entry["action"] == "free_completed":
            events.append(Allocation(entry["addr"], -entry["size"]))
    return events + [mark for mark, _ in pending]


class Nvml:
    """NVIDIA's management library, through NVIDIA's own package nvidia-ml-py (imported as pynvml)."""

    def __init__(self, library: Any, handle: Any) -> None:
        self.library = library
        self.handle = handle

    @classmethod
    def of(cls, uuid: str) -> Nvml | None:
        """NVML for the GPU with this UUID; None where the library or the driver is missing."""
        try:
            import pynvml

            pynvml.nvmlInit()
            full = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
            return cls(pynvml, pynvml.nvmlDeviceGetHandleByUUID(full))
        except Exception:  # an absent package, library or driver raise different kinds; all mean: no NVML
            return None

    def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except self.library.NVMLError:
            return None

    def driver(self) -> str | None:
        answer = self._ask(self.library.nvmlSystemGetDriverVersion)
        return None if answer is None else str(answer)

    def _processes(self) -> list[Any]:
        return list(self._ask(lambda: self.library.nvmlDeviceGetComputeRunningProcesses(self.handle)) or [])

    def own_bytes(self) -> int | None:
        """Bytes of this process; None where a container hides its number or the driver does not say."""
        own = [process.usedGpuMemory for process in self._processes() if process.pid == os.getpid()]
        return int(own[0]) if own and own[0] is not None else None

    def others(self) -> int | None:
        pids = [process.pid for process in self._processes()]
        return len(pids) - 1 if os.getpid() in pids else None

    def joules(self) -> float | None:
        millijoules = self._ask(lambda: self.library.nvmlDeviceGetTotalEnergyConsumption(self.handle))
        return None if millijoules is None else millijoules / 1e3


def get_device(kind: str) -> Device:
    if kind == "cpu":
        return CpuDevice()
    if kind == "cuda":
        return CudaDevice()
    raise MemprofError(f"unknown device {kind!r}; choose from cuda, cpu")


def has_cuda() -> bool:
    return torch.cuda.is_available()
