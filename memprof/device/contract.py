"""What a measurement needs of the hardware, as a value. Tests hand it a fake one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    """the operation, or the line of code, that asked for it; empty where nothing says so"""
    stream: int = 0
    """of a GPU; a block that is given back serves its own stream alone"""


@dataclass(slots=True)
class Recording:
    """What the allocator did, with marks between: an event is an `Allocation` or the number of a mark."""

    events: list[Allocation | int] = field(default_factory=list)
    mark: Callable[[], None] = lambda: None
    """say that the caller is here now; marks count from 0"""
    settings: dict[str, Any] = field(default_factory=dict)
    """of a GPU's allocator, as it says them itself: what a replay must follow"""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the driver or the operating system says that this process uses."""

    nbytes: int | None
    reason: str | None = None
    """why it does not say"""


@dataclass(frozen=True, slots=True)
class Conditions:
    """How a device is doing at one moment. None where it does not say."""

    others: int | None = None
    """other processes that use it"""
    slowdowns: tuple[str, ...] = ()
    """reasons for which it is slowed down by heat or a power failure; a power cap is normal and not among them"""
    watts: float | None = None
    celsius: int | None = None
    sm_mhz: int | None = None


def most_others(seen: Iterable[Conditions]) -> int | None:
    """Other processes at most, at any of these moments; None where none of them says."""
    return max((each.others for each in seen if each.others is not None), default=None)


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
    def reserved(self) -> int | None:
        """What the allocator holds now; None where it holds nothing back."""

    def usage(self) -> Usage:
        """What the driver or the operating system says this process uses (on a CPU: has used at most)."""

    def free_bytes(self) -> int | None:
        """What a process could take now; None where that is not to be known."""

    def joules(self) -> float | None:
        """The energy counter; None where there is none."""

    def conditions(self) -> Conditions:
        """Other processes, clocks, heat and what slows it down. Read only: no setting is touched."""
