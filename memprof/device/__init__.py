"""Hardware as a value: clocks, allocation events, peak bytes. The only place that knows CUDA, NVML and RSS.

Nothing here changes a setting of a GPU or touches another process.
"""

from __future__ import annotations

import torch

from memprof.device.contract import Allocation, Conditions, Device, Recording, Usage, most_others
from memprof.device.cpu import CpuDevice, resident_bytes
from memprof.device.cuda import CudaDevice
from memprof.errors import MemprofError

__all__ = [
    "Allocation",
    "Conditions",
    "CpuDevice",
    "CudaDevice",
    "Device",
    "Recording",
    "Usage",
    "get_device",
    "has_cuda",
    "most_others",
    "resident_bytes",
]


def get_device(kind: str) -> Device:
    if kind == "cpu":
        return CpuDevice()
    if kind == "cuda":
        return CudaDevice()
    raise MemprofError(f"unknown device {kind!r}; choose from cuda, cpu")


def has_cuda() -> bool:
    return torch.cuda.is_available()
