"""What the driver says of this process, through NVIDIA's own package nvidia-ml-py (imported as pynvml)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


class Nvml:
    """NVIDIA's management library, asked about one GPU. It is only read: no setting is touched."""

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
