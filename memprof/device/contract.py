"""What a measurement needs of the hardware, as a value. Tests hand it a fake one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch


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

    def free_bytes(self) -> int | None:
        """What a process could take now; None where that is not to be known."""

    def joules(self) -> float | None:
        """The energy counter; None where there is none."""

    def others(self) -> int | None:
        """How many other processes use the device; None where that is not to be known."""
