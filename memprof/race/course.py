"""A race within one process: entrants live side by side, and in each round every one has its turn, in random order.

Beside the others, an entrant feels what they feel: the same heat and clocks, the same minute of a busy machine. So two
methods are compared round by round. One that fails is taken out, and the others go on.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from statistics import mean
from typing import TypeVar

from memprof.child import CellError
from memprof.device import Device
from memprof.guard import cell_errors
from memprof.race.entrant import Entrant
from memprof.race.laps import KEPT, Laps, Round, ranks
from memprof.race.order import orders
from memprof.race.warmup import warm_up
from memprof.race.window import Clock, Window, time_as_papers_do, time_refresh, time_window
from memprof.scenario import Scenario

COMPARED_FROM = 3
"""the step, counted from 0, whose loss is the first: by then every warm-up has done its periodic work"""
PAPERS_STEPS = 1
"""steps by the papers' clock in each turn: as the device is waited for around each, one a round is enough"""
T = TypeVar("T")
Outcome = Laps | CellError
"""of an entrant: its rounds, or why there are none"""


def race(
    scenarios: Sequence[Scenario],
    device: Device,
    windows: Sequence[int],
    clock: Clock = time.perf_counter,
    null: bool = True,
) -> dict[str, Outcome]:
    """What becomes of each scenario, by its id, in as many rounds as there are `windows`, each of so many steps.

    They must fit beside each other. The losses that are kept are of two steps of an entrant's own, by their number, so
    that every entrant has them on the same tokens and after as many updates, however long the warm-up took.
    """
    compared = (COMPARED_FROM, COMPARED_FROM + max(1, sum(windows) - 1))
    course = Course(device, clock, kept=max(1, KEPT // len(windows)))
    for scenario in scenarios:
        course.enter(scenario, compared)
    warmup_steps, steady = warm_up(course.entrants, device, clock, course.attempt)
    gc.collect()
    for steps, turns in zip(windows, orders(scenarios, len(windows), null), strict=True):
        with course.round():
            for name, again in turns:
                course.turn(name, steps, again)
    for name in list(course.entrants):
        losses = course.attempt(name, Entrant.losses)
        if losses is not None:
            course.outcomes[name] = Laps(
                rounds=tuple(course.rounds[name]),
                warmup_steps=warmup_steps,
                steady=name in steady - course.growing,
                loss_first=losses[0],
                loss_last=losses[1],
            )
    return course.outcomes


class Course:
    """Those still in the race with what they have run, and what became of the others."""

    def __init__(self, device: Device, clock: Clock, kept: int) -> None:
        """`kept` durations of single steps are kept of each round."""
        self.device, self.clock, self.kept = device, clock, kept
        self.entrants: dict[str, Entrant] = {}
        self.rounds: dict[str, list[Round]] = {}
        self.outcomes: dict[str, Outcome] = {}
        self._turns: dict[str, Round] = {}
        self._again: dict[str, float] = {}
        self.growing: set[str] = set()
        """who made the allocator's pool grow or shrink while the clock ran"""
        self._cold: set[str] = set()
        """who would have to ask the driver for memory, since what was cached has been given back"""

    def enter(self, scenario: Scenario, compared: tuple[int, int]) -> None:
        """Make the scenario's model and optimizer."""
        with self._out_if_it_fails(scenario.id):
            self.entrants[scenario.id] = Entrant(scenario, self.device, compared)
            self.rounds[scenario.id] = []

    def attempt(self, name: str, work: Callable[[Entrant], T]) -> T | None:
        """Let an entrant do something, with random numbers of its own; None where it is out, or is now."""
        entrant, result = self.entrants.get(name), None
        if entrant is not None:
            with self._out_if_it_fails(name), entrant.own_randomness():
                result = work(entrant)
        return result

    @contextmanager
    def round(self) -> Iterator[None]:
        """Turns are taken inside. Python's garbage collector looks at nothing that was there before: what it has to do
        in a window would grow with the number of entrants."""
        self._turns, self._again = {}, {}
        gc.freeze()
        try:
            yield
        finally:
            gc.unfreeze()
        for name in self.entrants:
            self.rounds[name].append(replace(self._turns[name], again=self._again.get(name)))

    def turn(self, name: str, steps: int, again: bool) -> None:
        """An entrant's part of a round; `again`: the baseline's second window, for the null."""
        if again:
            window = self.attempt(name, partial(self._ordinary, steps=steps))
            if window is not None and not slowed(window):
                self._again[name] = window.seconds / len(window.each)
            return
        turn = self.attempt(name, partial(self._whole, steps=steps))
        if turn is not None:
            self._turns[name] = turn

    def _ordinary(self, entrant: Entrant, steps: int) -> Window:
        if entrant.scenario.id in self._cold:
            self._cold.remove(entrant.scenario.id)
            entrant.step()
        free = entrant.clear_the_way(steps)
        return self._watched(entrant, lambda: time_window(entrant, self.device, self.clock, free or steps))

    def _whole(self, entrant: Entrant, steps: int) -> Round:
        """A window of ordinary steps, then the periodic work where it can be told from them, then the papers' clock.

        On a CPU to launch is to do: the papers' clock says what ours does, and is left out.
        """
        window = self._ordinary(entrant, steps)
        apart = entrant.is_periodic and entrant.clear_the_way(1)
        refresh = None
        if apart:
            refresh = self._watched(entrant, lambda: time_refresh(entrant, self.device, self.clock))
        papers = None
        if self.device.kind != "cpu":
            entrant.clear_the_way(PAPERS_STEPS)
            papers = mean(time_as_papers_do(entrant, self.device, self.clock) for _ in range(PAPERS_STEPS))
        return made(window, self.kept, refresh, papers)

    def _watched(self, entrant: Entrant, timed: Callable[[], T]) -> T:
        """Asking the driver for memory waits for the device, and what has to be given back first costs more."""
        held = self.device.reserved()
        result = timed()
        if self.device.reserved() != held:
            self.growing.add(entrant.scenario.id)
        return result

    @contextmanager
    def _out_if_it_fails(self, name: str) -> Iterator[None]:
        try:
            with cell_errors():
                yield
            return
        except CellError as error:
            self.outcomes[name] = CellError(error.status, str(error))  # without the traceback, which holds tensors
            self.entrants.pop(name, None)
        gc.unfreeze()
        self.device.reset()
        self._cold = set(self.entrants)


def slowed(window: Window) -> bool:
    """Whether heat or a power failure slowed the device at either end."""
    return any(end.slowdowns for end in window.ends)


def made(window: Window, kept: int, refresh: float | None, papers: float | None) -> Round:
    """A round from what was seen of it."""
    ends = window.ends
    others = [end.others for end in ends if end.others is not None]
    celsius = [end.celsius for end in ends if end.celsius is not None]
    clocks = [end.sm_mhz for end in ends if end.sm_mhz is not None]
    return Round(
        steps=len(window.each),
        seconds=window.seconds,
        device_seconds=window.device_seconds,
        waited=window.waited,
        phases=window.phases,
        each=ranks(window.each, kept),
        refresh=refresh,
        papers=papers,
        joules=window.joules,
        slowdowns=tuple(dict.fromkeys(reason for end in ends for reason in end.slowdowns)),
        others=max(others, default=None),
        celsius=max(celsius, default=None),
        sm_mhz=min(clocks, default=None),
    )
