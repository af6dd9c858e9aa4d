"""What a device can do: bytes copied a second, and the FLOPs of a large matrix product a second.

Both are medians of windows between synchronisations, with the slowest and the fastest window beside them. A median is
neither the luckiest window, which no training repeats, nor dragged down by one that something else disturbed. Values
are random: zeros take less power, and a GPU then clocks higher than it does in a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from memprof.device import Device
from memprof.errors import UnsupportedError

PATTERN = 2**25
"""bytes of random numbers that are repeated to fill what is copied"""
FEWEST, MOST = 3, 20
"""windows of each measurement"""
ENOUGH_SECONDS = 0.2
"""after which no further window is begun"""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the operands are, and how many operations make a window."""

    copied: int
    """bytes, several times the last-level cache, so that both ends of a copy are in memory"""
    side: int
    """of a square matrix, large enough that its product leaves no part of the device idle"""
    in_window: int
    """several on a GPU, so that the microseconds until the first one starts do not count"""


SIZES = {"cuda": Sizes(copied=2**30, side=8192, in_window=4), "cpu": Sizes(copied=2**28, side=1024, in_window=1)}


@dataclass(frozen=True, slots=True)
class Rate:
    """What was done in a second."""

    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """Two rates that a step on this device does not exceed."""

    dtype: torch.dtype
    sizes: Sizes
    copy: Rate
    """bytes read plus bytes written"""
    matrix: Rate
    """FLOPs, 2 n^3 of an n x n product in `dtype`"""
    tf32: bool | None
    """whether fp32 products were rounded to TF32; None where that does not apply"""

    @property
    def copy_bytes_per_second(self) -> float:
        return self.copy.median

    @property
    def matrix_flops_per_second(self) -> float:
        return self.matrix.median


def measure_ceilings(
    device: Device, dtype: torch.dtype, *, sizes: Sizes | None = None, copy: Rate | None = None
) -> Ceilings:
    """Copy and multiply on `device`: well below a second on a GPU, about one on a CPU.

    `copy` is a rate that is known already, since a copy has no dtype. What is allocated stays in the allocator's
    cache: measure this where nobody watches memory. No setting of torch is changed.
    """
    sizes = SIZES[device.kind] if sizes is None else sizes
    try:
        copy = copy or copy_rate(device, sizes)
        matrix = matrix_rate(device, dtype, sizes)
    except torch.OutOfMemoryError as error:
        raise UnsupportedError("no room for the copies and matrix products that ceilings are measured by") from error
    tf32 = allows_tf32() if device.kind == "cuda" and dtype == torch.float32 else None
    return Ceilings(dtype=dtype, sizes=sizes, copy=copy, matrix=matrix, tf32=tf32)


def copy_rate(device: Device, sizes: Sizes) -> Rate:
    """Of a copy within the device's own memory."""
    here = device.torch_device
    pattern = torch.empty(min(PATTERN, sizes.copied) // 8, dtype=torch.int64, device=here)
    pattern.random_(generator=torch.Generator(here).manual_seed(0))
    source = pattern.repeat(sizes.copied // pattern.nbytes)
    target = torch.empty_like(source)
    return _rate(device, lambda: target.copy_(source), 2 * source.nbytes, sizes.in_window)


def matrix_rate(device: Device, dtype: torch.dtype, sizes: Sizes) -> Rate:
    """Of a square product; `UnsupportedError` where the device has none in this dtype."""
    here, shape = device.torch_device, (sizes.side, sizes.side)
    generator = torch.Generator(here).manual_seed(0)
    try:
        left, right = (torch.randn(shape, generator=generator, dtype=dtype, device=here) for _ in range(2))
        product = torch.empty(shape, dtype=dtype, device=here)
        return _rate(device, lambda: torch.mm(left, right, out=product), 2 * sizes.side**3, sizes.in_window)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UnsupportedError(f"this device multiplies no {str(dtype).removeprefix('torch.')}: {reason}") from error


def _rate(device: Device, work: Callable[[], object], amount: int, times: int) -> Rate:
    """`amount` a second of `work`, which is warmed up by a whole window first."""
    _window(device, work, times)
    spent = [_window(device, work, times)]
    while len(spent) < FEWEST or (len(spent) < MOST and sum(spent) < ENOUGH_SECONDS):
        spent.append(_window(device, work, times))
    done = times * amount
    return Rate(median=done / median(spent), least=done / max(spent), most=done / min(spent))


def _window(device: Device, work: Callable[[], object], times: int) -> float:
    device.synchronize()
    start = device.now()
    for _ in range(times):
        work()
    end = device.now()
    device.synchronize()
    return device.seconds(start, end)


def allows_tf32() -> bool:
    """Whether this process lets a GPU round the operands of fp32 products to TF32. It is only read."""
    return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")
