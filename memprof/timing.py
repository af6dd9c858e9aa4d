"""The timing pass: whole optimizer steps between synchronisations, without any instrumentation."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from memprof.device import Device
from memprof.record import Interval
from memprof.scenario import Scenario
from memprof.step import prepare, request_refresh, train_step
from memprof.timeline import BACKWARD, FORWARD, OPTIMIZER, REFRESH

WARMUP_STEPS = 2
REFRESH_STEPS = 3
RESAMPLES = 2_000
PHASES = (FORWARD, BACKWARD, OPTIMIZER)


@dataclass(slots=True)
class Timing:
    """Seconds of whole steps and of their phases, and the losses along the way."""

    steps: list[float] = field(default_factory=list)
    refreshes: list[float] = field(default_factory=list)
    """whole steps that did the periodic work too"""
    phases: dict[str, list[float]] = field(default_factory=lambda: {phase: [] for phase in PHASES})
    losses: list[float] = field(default_factory=list)
    joules_per_example: float | None = None

    def examples_per_second(self, scenario: Scenario) -> Interval:
        """Median and 95 % bootstrap interval; periodic work is spread over the papers' 20,000 steps."""
        rate = scenario.method.refreshes_per_step
        generator = random.Random(scenario.seed)
        draws = sorted(
            scenario.examples / _amortised(_resample(self.steps, generator), _resample(self.refreshes, generator), rate)
            for _ in range(RESAMPLES)
        )
        centre = scenario.examples / _amortised(self.steps, self.refreshes, rate)
        return Interval(median=centre, low=draws[RESAMPLES // 40], high=draws[-RESAMPLES // 40])

    def step_seconds(self) -> dict[str, float | None]:
        """Median seconds by phase; `refresh` is what a step with periodic work takes beyond an ordinary one."""
        by_phase: dict[str, float | None] = {phase: median(seconds) for phase, seconds in self.phases.items()}
        by_phase[REFRESH] = _refresh_cost(self.steps, self.refreshes) if self.refreshes else None
        return by_phase


def _resample(values: list[float], generator: random.Random) -> list[float]:
    return generator.choices(values, k=len(values)) if values else []


def _refresh_cost(steps: list[float], refreshes: list[float]) -> float:
    return max(0.0, median(refreshes) - median(steps))


def _amortised(steps: list[float], refreshes: list[float], rate: float) -> float:
    """Seconds of a step with its share of the periodic work."""
    return median(steps) + (rate * _refresh_cost(steps, refreshes) if refreshes else 0.0)


def time_steps(scenario: Scenario, device: Device, count: int) -> Timing:
    """Warm up, with one refresh where there is such work, then time `count` ordinary steps and a few refreshes."""
    model, optimizer = prepare(scenario, device.torch_device)
    timing = Timing()
    losses: list[Tensor] = [train_step(model, optimizer, scenario) for _ in range(WARMUP_STEPS)]
    periodic = scenario.method.is_periodic
    if periodic:
        request_refresh(optimizer)
        losses.append(train_step(model, optimizer, scenario))
    device.synchronize()
    start = device.joules()
    for _ in range(count):
        losses.append(_time_ordinary(model, optimizer, scenario, device, timing))
    end = device.joules()
    if start is not None and end is not None:
        timing.joules_per_example = (end - start) / (count * scenario.examples)
    for _ in range(REFRESH_STEPS if periodic else 0):
        request_refresh(optimizer)
        marks, loss = _marked_step(model, optimizer, scenario, device)
        timing.refreshes.append(device.seconds(marks[0][1], marks[-1][1]))
        losses.append(loss)
    timing.losses = [float(loss) * scenario.accumulation for loss in losses]
    return timing


def _time_ordinary(
    model: nn.Module, optimizer: torch.optim.Optimizer, scenario: Scenario, device: Device, timing: Timing
) -> Tensor:
    marks, loss = _marked_step(model, optimizer, scenario, device)
    timing.steps.append(device.seconds(marks[0][1], marks[-1][1]))
    spent = dict.fromkeys(PHASES, 0.0)
    for (phase, begin), (_, end) in zip(marks, marks[1:], strict=False):
        spent[phase] += device.seconds(begin, end)
    for phase in PHASES:
        timing.phases[phase].append(spent[phase])
    return loss


def _marked_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, scenario: Scenario, device: Device
) -> tuple[list[tuple[str, Any]], Tensor]:
    """One step between synchronisations; its marks are read only after the second."""
    marks: list[tuple[str, Any]] = []
    device.synchronize()
    loss = train_step(model, optimizer, scenario, lambda phase: marks.append((phase, device.now())))
    marks.append(("end", device.now()))
    device.synchronize()
    return marks, loss
