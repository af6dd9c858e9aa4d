"""What every test stands on: fixed seeds, one thread, no GPU tests where there is no GPU."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import pytest
import torch

from memprof.device import Conditions, CpuDevice, Recording, Usage

pytest_plugins = ["pytester"]

hypothesis.settings.register_profile("memprof", deadline=None, derandomize=True)
hypothesis.settings.load_profile("memprof")

torch.set_num_threads(1)  # pytest-xdist fills the cores, and sums come out the same on every machine
os.environ.setdefault("OMP_NUM_THREADS", "1")  # so too in the processes that tests start: two that spin take seconds


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU here"))


@dataclass
class FakeDevice:
    """Hardware by script. The clock moves only when it is read, by the next of `ticks`; figures are what it is told.

    Steps run for real on the processor and its allocator's events are recorded.
    """

    kind: str = "cpu"
    ticks: list[float] = field(default_factory=list)
    """seconds from one reading of the clock to the next; one second when they run out"""
    energy: list[float] = field(default_factory=list)
    """readings of the energy counter; none when they run out"""
    weather: list[Conditions] = field(default_factory=list)
    """readings of clocks, heat and other processes; nothing known when they run out"""
    process: int | None = None
    held: int | None = None
    """bytes that its allocator reserves"""
    allocated: int | None = None
    peaks: list[int] = field(default_factory=list)
    """readings of what its allocator had allocated at most; `allocated` when they run out"""
    free: int | None = None
    calls: list[str] = field(default_factory=list)
    """what was asked of it, in order"""
    clock: float = 0.0
    torch_device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def describe(self) -> dict[str, str | None]:
        return {"device": self.kind}

    def synchronize(self) -> None:
        self.calls.append("synchronize")

    def now(self) -> float:
        self.calls.append("now")
        instant = self.clock
        self.clock += self.ticks.pop(0) if self.ticks else 1.0
        return instant

    def seconds(self, start: float, end: float) -> float:
        self.calls.append("seconds")
        return end - start

    @contextmanager
    def record(self) -> Iterator[Recording]:
        with CpuDevice().record() as recording:
            yield recording

    def reset(self) -> None:
        self.calls.append("reset")

    def allocated_peak(self) -> int | None:
        return self.peaks.pop(0) if self.peaks else self.allocated

    def reset_peak(self) -> None:
        self.calls.append("reset_peak")

    def reserved(self) -> int | None:
        return self.held

    def usage(self) -> Usage:
        return Usage(self.process)

    def free_bytes(self) -> int | None:
        return self.free

    def joules(self) -> float | None:
        self.calls.append("joules")
        return self.energy.pop(0) if self.energy else None

    def conditions(self) -> Conditions:
        self.calls.append("conditions")
        return self.weather.pop(0) if self.weather else Conditions()


@pytest.fixture
def fake_device() -> Callable[..., Any]:
    return FakeDevice
