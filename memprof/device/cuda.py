"""One GPU: the caching allocator's statistics and history, CUDA events, NVML by the GPU's UUID.

Changes no setting of the GPU. What its allocator holds is read in whole blocks; the history holds requested sizes.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from memprof.device.allocator_history import Counts, history_events
from memprof.device.contract import Conditions, Recording, Usage
from memprof.device.nvml import NoNvmlError, Nvml
from memprof.errors import UnsupportedError

CUDA_HISTORY_ENTRIES = 5_000_000
NATIVE = "native"
"""torch's own caching allocator, by the name that torch gives it"""


class CudaDevice:
    """One GPU: the caching allocator's statistics and history, CUDA events, NVML by the GPU's UUID."""

    kind = "cuda"

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise UnsupportedError("--device cuda: torch sees no CUDA device here; use --device cpu or --no-measure")
        self.torch_device = torch.device("cuda", torch.cuda.current_device())
        self.nvml, self.no_nvml = _nvml(str(torch.cuda.get_device_properties(self.torch_device).uuid))

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
        """The allocator's own history, with the line of Python that asked for each block.

        A mark is how many allocations and frees the allocator had counted since the recording began.
        """
        backend = torch.cuda.get_allocator_backend()
        if backend != NATIVE:
            raise UnsupportedError(
                f"the CUDA allocator's backend {backend} keeps no history; take it out of PYTORCH_ALLOC_CONF"
            )
        recording = Recording()
        marks: list[Counts] = []
        start = Counts()
        recording.mark = lambda: marks.append(self._counts() - start)
        torch.cuda.memory._record_memory_history(
            "all", context="alloc", stacks="python", max_entries=CUDA_HISTORY_ENTRIES, clear_history=True
        )
        try:
            start = self._counts()
            yield recording
            self.synchronize()
            snapshot = torch.cuda.memory._snapshot()
            history = snapshot["device_traces"][self.torch_device.index]
            if len(history) >= CUDA_HISTORY_ENTRIES:
                raise UnsupportedError(
                    f"three steps make more than the {CUDA_HISTORY_ENTRIES} allocator events that are kept; "
                    "measure a smaller model or fewer micro-batches"
                )
            recording.events = history_events(history, marks, self._counts() - start)
            recording.settings = dict(snapshot.get("allocator_settings", {}))
        finally:
            torch.cuda.memory._record_memory_history(None)

    def _counts(self) -> Counts:
        stats = torch.cuda.memory_stats(self.torch_device)
        return Counts(stats["allocation.all.allocated"], stats["allocation.all.freed"])

    def reset(self) -> None:
        gc.collect()
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
        self.reset_peak()

    def allocated_peak(self) -> int | None:
        return int(torch.cuda.max_memory_allocated(self.torch_device))

    def reset_peak(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.torch_device)

    def reserved(self) -> int | None:
        return int(torch.cuda.memory_reserved(self.torch_device))

    def usage(self) -> Usage:
        if self.nvml is None:
            return Usage(None, self.no_nvml)
        return self.nvml.usage(held=torch.cuda.memory_reserved(self.torch_device))

    def free_bytes(self) -> int | None:
        """What the driver could give beside this process's context, which this question sets up if none is there."""
        return int(torch.cuda.mem_get_info(self.torch_device)[0])

    def joules(self) -> float | None:
        return self.nvml.joules() if self.nvml else None

    def conditions(self) -> Conditions:
        return self.nvml.conditions() if self.nvml else Conditions()


def _nvml(uuid: str) -> tuple[Nvml | None, str | None]:
    """NVML, or why there is none."""
    try:
        return Nvml.of(uuid), None
    except NoNvmlError as why:
        return None, str(why)
