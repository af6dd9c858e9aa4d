"""One method that takes part: its model, optimizer, data and random numbers, its own and untouched by the others'."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from memprof.batches import batches
from memprof.device import Device
from memprof.race.laps import finite
from memprof.scenario import Scenario
from memprof.step import OnPhase, prepare, request_refresh, train_step


class Entrant:
    """Steps a scenario. Between two steps it holds its parameters and optimizer state, and no more."""

    def __init__(self, scenario: Scenario, device: Device, compared: tuple[int, int] | None = None) -> None:
        """`compared` are two steps, counted from 0, whose losses are asked for in the end: the second has the tokens
        of the first once more, since losses of different tokens differ by more than a few steps gain."""
        self.scenario = scenario
        self.model, self.optimizer = prepare(scenario, device.torch_device)
        self.batches = batches(scenario, device.torch_device)
        self.taken = 0
        self._compared = compared or ()
        self._tokens: list[tuple[Tensor, Tensor]] = []
        self._losses: list[Tensor] = []
        self._device = device.torch_device
        self._random = random_state(self._device)

    @property
    def is_periodic(self) -> bool:
        return self.scenario.method.is_periodic

    @contextmanager
    def own_randomness(self) -> Iterator[None]:
        """Inside, torch's random numbers go on where this entrant's left off; outside, as if it had drawn none."""
        others = random_state(self._device)
        restore_random_state(self._device, self._random)
        try:
            yield
        finally:
            self._random = random_state(self._device)
            restore_random_state(self._device, others)

    def step(self, on_phase: OnPhase = lambda phase: None, refresh: bool = False) -> None:
        """One whole training step, launched and not waited for."""
        if refresh:
            request_refresh(self.optimizer)
        compared = self.taken in self._compared
        if compared and not self._tokens:
            self._tokens = [next(self.batches) for _ in range(self.scenario.accumulation)]
        data = iter(self._tokens) if compared else self.batches
        loss = train_step(self.model, self.optimizer, self.scenario, on_phase, data)
        self._losses += [loss] if compared else []
        self.taken += 1

    def clear_the_way(self, steps: int) -> int:
        """Go on, untimed, to where as many as `steps` ordinary ones follow, and say how many do.

        The schedule itself asks for periodic work now and then; it is timed apart, and must not be in a window too.
        0: every step has periodic work.
        """
        due = self.scenario.method.refresh_steps(self.taken + 2 * steps)
        skipped, free = longest_run([step - self.taken for step in due[bisect_left(due, self.taken) :]], steps)
        for _ in range(skipped if free else 0):
            self.step()
        return free

    def losses(self) -> list[float | None]:
        """Of the two steps that are compared, each of a whole micro-batch; waits for the device. None if no number.

        Goes on to the second where windows were short of steps, as those of a method that refreshes every few are.
        """
        while len(self._losses) < len(self._compared):
            self.step()
        return [finite(float(loss) * self.scenario.accumulation) for loss in self._losses]


def longest_run(due: Sequence[int], steps: int) -> tuple[int, int]:
    """Where, at most `steps` ahead, the first of the longest runs begins that meets no step of `due`; and its length.

    Runs of more than `steps` are as good as `steps`. `due` is ascending and counts from the present step.
    """
    best = (0, 0)
    for begin in range(steps + 1):
        place = bisect_left(due, begin)
        run = min(steps, due[place] - begin) if place < len(due) else steps
        if run > best[1]:
            best = (begin, run)
        if run == steps:
            break
    return best


def random_state(device: torch.device) -> list[Tensor]:
    """Of the host's generator and, where it has one of its own, the device's. Neither waits for the device."""
    states = [torch.get_rng_state()]
    return states if device.type == "cpu" else [*states, _module(device).get_rng_state(device)]


def restore_random_state(device: torch.device, states: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        _module(device).set_rng_state(state, device)


def _module(device: torch.device) -> Any:
    return torch.get_device_module(device)
