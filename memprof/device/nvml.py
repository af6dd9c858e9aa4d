"""What the driver says of a GPU and of this process on it, through NVIDIA's own package nvidia-ml-py (module pynvml).

NVML is only read: no setting is touched, and no other process. Its numbers of bits and values are those of nvml.h.
"""

from __future__ import annotations

import os
from typing import Any

from memprof.device.contract import Conditions, Usage

NOT_AVAILABLE = 2**64 - 1
"""NVML_VALUE_NOT_AVAILABLE, in place of a process's bytes"""
PREFIXES = ("GPU-", "MIG-")
"""of a UUID as NVML writes it. CUDA gives it without, a MIG slice's too."""
TEMPERATURE_GPU, CLOCK_SM = 0, 1
"""NVML_TEMPERATURE_GPU and NVML_CLOCK_SM"""
SLOWDOWNS = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
"""of the reasons for which clocks are held down; being idle (0x01) and the power cap (0x04) are normal"""
REASONS = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
"""the same question by its newer and its older name"""
COMPUTE, GRAPHICS = "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"

NO_PACKAGE = "the package nvidia-ml-py (module pynvml) is not installed"
NO_DRIVER = "NVIDIA's driver does not answer"
NO_LIST = "the driver does not list this GPU's processes"
NOBODY = "the driver lists no process on this GPU: a container may hide them"
HIDDEN = "this process is not among the {count} that the driver lists: it counts them outside of this container"
NOT_SAID = "the driver does not say how much a process uses on this GPU"
TOO_FEW = "the driver says {nbytes} bytes, fewer than the {held} that the allocator holds"


class NoNvmlError(Exception):
    """Why NVML says nothing of a GPU, in one short sentence."""


class Nvml:
    """NVIDIA's management library, asked about one GPU or MIG slice. What it does not answer is None."""

    def __init__(self, library: Any, handle: Any) -> None:
        self.library = library
        self.handle = handle

    @classmethod
    def of(cls, uuid: str) -> Nvml:
        """NVML for what has this UUID, whatever CUDA_VISIBLE_DEVICES says; `NoNvmlError` where there is none."""
        try:
            import pynvml
        except ImportError:
            raise NoNvmlError(NO_PACKAGE) from None
        try:
            pynvml.nvmlInit()
        except Exception:  # a missing library, driver or function raise different kinds; all mean: no driver
            raise NoNvmlError(NO_DRIVER) from None
        names = [uuid] if uuid.startswith(PREFIXES) else [f"{prefix}{uuid}" for prefix in PREFIXES]
        for name in names:
            try:
                return cls(pynvml, pynvml.nvmlDeviceGetHandleByUUID(name))
            except pynvml.NVMLError:
                continue
        raise NoNvmlError(f"the driver knows no GPU {names[0]}")

    def _ask(self, question: str, *about: Any) -> Any:
        try:
            return getattr(self.library, question)(*about)
        except (self.library.NVMLError, self.library.NVMLLibraryMismatchError, AttributeError):
            return None  # not supported; an older driver than the package; an older package

    def driver(self) -> str | None:
        answer = self._ask("nvmlSystemGetDriverVersion")
        return None if answer is None else str(answer)

    def usage(self, held: int) -> Usage:
        """Bytes of this process, which has a context there and of them `held` in its own allocator.

        In a container the driver may give process numbers from outside of it. A process alone on the GPU is this one;
        and what is fewer than `held` is not to be believed (some drivers say 0 there).
        """
        seen = self._processes()
        if seen is None:
            return Usage(None, NO_LIST)
        if not seen:
            return Usage(None, NOBODY)
        if os.getpid() not in seen and len(seen) > 1:
            return Usage(None, HIDDEN.format(count=len(seen)))
        nbytes = seen.get(os.getpid(), next(iter(seen.values())))
        if nbytes is None:
            return Usage(None, NOT_SAID)
        return Usage(nbytes) if nbytes >= held else Usage(None, TOO_FEW.format(nbytes=nbytes, held=held))

    def others(self) -> int | None:
        """Processes beside this one, which is one of those listed; None where the driver lists none."""
        seen = self._processes()
        return len(seen) - 1 if seen else None

    def _processes(self) -> dict[int, int | None] | None:
        """Process number to bytes, of those that compute and those that draw; None where there is no list."""
        computing = self._ask(COMPUTE, self.handle)
        if computing is None:
            return None
        found: dict[int, int | None] = {}
        for process in (*computing, *(self._ask(GRAPHICS, self.handle) or ())):
            said = process.usedGpuMemory
            known = [each for each in (found.get(process.pid), said) if each not in (None, NOT_AVAILABLE)]
            found[process.pid] = max(known, default=None)
        return found

    def conditions(self) -> Conditions:
        milliwatts = self._ask("nvmlDeviceGetPowerUsage", self.handle)
        return Conditions(
            others=self.others(),
            slowdowns=self._slowdowns(),
            watts=None if milliwatts is None else milliwatts / 1e3,
            celsius=self._ask("nvmlDeviceGetTemperature", self.handle, TEMPERATURE_GPU),
            sm_mhz=self._ask("nvmlDeviceGetClockInfo", self.handle, CLOCK_SM),
        )

    def _slowdowns(self) -> tuple[str, ...]:
        answers = (self._ask(name, self.handle) for name in REASONS)
        reasons = next((each for each in answers if each is not None), 0)
        return tuple(name for bit, name in SLOWDOWNS.items() if reasons & bit)

    def joules(self) -> float | None:
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption", self.handle)
        return None if millijoules is None else millijoules / 1e3
