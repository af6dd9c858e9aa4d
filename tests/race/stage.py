"""A race by script: no model, a device that works off a queue behind the host, and two clocks that move as told."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from memprof.evidence import Interval
from memprof.race.laps import Laps, Round
from memprof.scenario import Scenario
from memprof.timeline import BACKWARD, FORWARD, OPTIMIZER
from tests import cells
from tests.conftest import FakeDevice


def scenario_of(method: Any = "adamw", device: str | None = "cpu", **fields: Any) -> Scenario:
    return cells.scenario_of(method, device, **{"batch_size": 2} | fields)


@dataclass
class Queue(FakeDevice):
    """A device that is given work and does it later; its own instants are those at which it comes to them."""

    kind: str = "cuda"
    host: float = 0.0
    """what the host's clock says"""
    done: float = 0.0
    """when all that was launched is over"""

    def host_clock(self) -> float:
        self.calls.append("clock")
        return self.host

    def launch(self, host: float, work: float) -> None:
        """`host` seconds to launch what takes the device `work`."""
        self.host += host
        self.done = max(self.done, self.host) + work

    def now(self) -> float:
        self.calls.append("now")
        return max(self.host, self.done)

    def synchronize(self) -> None:
        self.calls.append("synchronize")
        self.host = max(self.host, self.done)


@dataclass(frozen=True)
class Cost:
    """Device seconds of a step by phase, and host seconds to launch each phase."""

    forward: float = 1.0
    backward: float = 2.0
    optimizer: float = 3.0
    refresh: float = 0.0
    """of the optimizer's phase, more in a step with periodic work"""
    launch: float = 0.0
    refresh_launch: float = 0.0
    """host seconds that periodic work adds"""


Costs = Callable[[int], Cost]
"""of the step with that number, counted from 0 for each entrant"""


@dataclass
class Made:
    """What stands in for a model and an optimizer."""

    method: str
    asked: bool = False
    refreshed: list[int] = field(default_factory=list)
    taken: int = 0

    def request_refresh(self) -> None:
        self.asked = True


class Script:
    """Stands in for `prepare`, `batches` and `train_step` of an entrant."""

    def __init__(self, device: Queue, costs: dict[str, Costs]) -> None:
        self.device, self.costs = device, costs
        self.made: dict[str, Made] = {}
        self.log: list[str] = []
        """whose step it was, in order"""
        self.fails: dict[tuple[str, int], Exception] = {}
        """what a method's step of that number raises"""

    def install(self, monkeypatch: Any) -> None:
        where = "memprof.race.entrant."
        monkeypatch.setattr(f"{where}prepare", self.prepare)
        monkeypatch.setattr(f"{where}batches", lambda *_: itertools.count())
        monkeypatch.setattr(f"{where}train_step", self.train_step)

    def prepare(self, scenario: Scenario, device: torch.device) -> tuple[Any, Any]:
        made = Made(scenario.method.name)
        self.made[made.method] = made
        return made, made

    def train_step(
        self, made: Any, _: Any, scenario: Scenario, on_phase: Callable[[str], None], batches: Iterator[Any]
    ) -> Tensor:
        number = made.taken
        if (made.method, number) in self.fails:
            raise self.fails[made.method, number]
        cost = self.costs[made.method](number)
        due = made.asked or number in scenario.method.refresh_steps(number + 1)
        more, launch = (cost.refresh, cost.refresh_launch) if due else (0.0, 0.0)
        for _ in range(scenario.accumulation):
            for phase, work in ((FORWARD, cost.forward), (BACKWARD, cost.backward)):
                on_phase(phase)
                self.device.launch(cost.launch, work)
        on_phase(OPTIMIZER)
        self.device.launch(cost.launch + launch, cost.optimizer + more)
        made.refreshed += [number] if more else []
        made.asked, made.taken = False, number + 1
        self.log.append(made.method)
        return torch.tensor(float(number))


def always(cost: Cost) -> Costs:
    return lambda number: cost


def a_round(seconds: float = 10.0, steps: int = 1, **fields: Any) -> Round:
    """A window by hand; what is not said is as on an idle machine."""
    known: dict[str, Any] = {"device_seconds": seconds, "waited": seconds / 2, "each": (seconds / steps,) * steps}
    return Round(seconds=seconds, steps=steps, **known | fields)


def laps(*rounds: Round, **fields: Any) -> Laps:
    known: dict[str, Any] = {"warmup_steps": 3, "steady": True, "loss_first": 3.0, "loss_last": 2.0}
    return Laps(rounds=rounds, **known | fields)


def exactly(value: float) -> Interval:
    return Interval(median=value, low=value, high=value)
