"""Steps before the clock counts: until states, plans and the allocator's pool are there and the time of a step is even.

All entrants go through it together, a step each in turn, since what one leaves in the allocator's pool is what the
next one finds there, as it will be in the rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median

from memprof.device import Device
from memprof.race.entrant import Entrant
from memprof.race.window import Clock

MOST = 8
"""steps of warm-up; there are at least as many as two rolling medians take, `ROLLING` + 1"""
REFRESHING = 1
"""the step that does the periodic work, where there is such; the first, 0, makes the states"""
EVEN = 0.005
"""by what share the rolling median of step times may still change"""
ROLLING = 3
"""step times that a rolling median is of"""
UNCHANGED = 2
"""steps over which the reserved bytes must not change"""
Attempt = Callable[[str, Callable[[Entrant], float]], float | None]
"""has an entrant, by its name, do something; None where it failed and is out"""


def warm_up(entrants: Mapping[str, Entrant], device: Device, clock: Clock, attempt: Attempt) -> tuple[int, set[str]]:
    """Step all `entrants` until they are steady, or for `MOST` steps: how many there were, and who is steady."""
    spent: dict[str, list[float]] = {name: [] for name in entrants}
    reserved: list[int | None] = []
    for number in range(MOST):
        for name, entrant in list(entrants.items()):
            refresh = number == REFRESHING and entrant.is_periodic
            seconds = attempt(name, partial(_step, device=device, clock=clock, refresh=refresh))
            if seconds is not None and not refresh:
                spent[name].append(seconds)
        reserved.append(device.reserved())
        steady = {name for name in entrants if is_steady(reserved, spent[name])}
        if len(steady) == len(entrants):
            return number + 1, steady
    return MOST, steady


def is_steady(reserved: Sequence[int | None], spent: Sequence[float]) -> bool:
    """Whether the device reserved nothing more over the last steps, and their time has become even."""
    held = set(reserved[-UNCHANGED - 1 :])
    if len(reserved) <= UNCHANGED or len(held) > 1 or len(spent) <= ROLLING:
        return False
    before, now = median(spent[-ROLLING - 1 : -1]), median(spent[-ROLLING:])
    return abs(now - before) < EVEN * before


def _step(entrant: Entrant, device: Device, clock: Clock, refresh: bool) -> float:
    device.synchronize()
    start = clock()
    entrant.step(refresh=refresh)
    device.synchronize()
    return clock() - start
