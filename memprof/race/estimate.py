"""What rounds say of an entrant: a speed for each round, and of those the median with its interval.

A step's share of periodic work is rate x cost, where the cost is a step with such work less the ordinary steps of the
same round. Rounds in which the device was slowed down by heat or a power failure do not count while others are left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from memprof.evidence import Interval
from memprof.race.bootstrap import interval
from memprof.race.laps import Laps, Round
from memprof.scenario import Scenario

SLOWEST = 0.99
"""share of all steps of a training that take no longer than the 99th percentile"""
TICK = 0.1
"""seconds that the energy counter stands still at most; it moves every 20 to 100 ms"""
BLUR = 0.05
"""relative standard error of an energy, at most"""


@dataclass(frozen=True, slots=True)
class Pace:
    """One entrant's rounds, read."""

    scenario: Scenario
    laps: Laps

    @property
    def counted(self) -> list[int]:
        """The numbers of the rounds that count."""
        undisturbed = [number for number, each in enumerate(self.laps.rounds) if not each.slowdowns]
        return undisturbed or list(range(len(self.laps.rounds)))

    @property
    def rounds(self) -> list[Round]:
        return [self.laps.rounds[number] for number in self.counted]

    @property
    def refresh_costs(self) -> list[float]:
        """Of each round that has a step with periodic work; empty where no ordinary step can be told from one."""
        return [cost for each in self.rounds if (cost := refresh_cost(each)) is not None]

    def examples_per_second(self, number: int) -> float:
        """Of one round, periodic work spread over the papers' steps."""
        each = self.laps.rounds[number]
        share = self.scenario.method.refreshes_per_step * (refresh_cost(each) or 0.0)
        return self.scenario.examples / (each.step + share)

    def headline(self) -> Interval:
        return interval([self.examples_per_second(number) for number in self.counted])

    def without_periodic(self) -> Interval:
        return interval([self.scenario.examples / each.step for each in self.rounds])

    def ratio_to(self, other: Pace) -> Interval | None:
        """This speed over that of the same round, where both count; None without such a round."""
        both = sorted(set(self.counted) & set(other.counted))
        pairs = [self.examples_per_second(number) / other.examples_per_second(number) for number in both]
        return interval(pairs) if pairs else None

    def spread(self) -> Interval | None:
        """The second window of each round over the first; None where there is none."""
        twice = [each.step / each.again for each in self.rounds if each.again]
        return interval(twice) if twice else None

    def phase_seconds(self, phase: str) -> float:
        return median(each.phases.get(phase, 0.0) / each.steps for each in self.rounds)

    def step_seconds(self) -> float:
        return median(each.step for each in self.rounds)

    def p99_step_seconds(self) -> float:
        """Of a whole training: ordinary steps and those with periodic work, each as often as they come in it."""
        refreshes = [each.refresh for each in self.rounds if each.refresh is not None]
        rate = self.scenario.method.refreshes_per_step if refreshes else 0.0
        steps = sum(each.steps for each in self.rounds)
        weighted = [
            (one, (1 - rate) * each.steps / len(each.each) / steps) for each in self.rounds for one in each.each
        ]
        weighted += [(seconds, rate / len(refreshes)) for seconds in refreshes]
        return quantile(weighted, SLOWEST)

    def papers(self) -> float | None:
        """Examples per second by the papers' clock."""
        seconds = [each.papers for each in self.rounds if each.papers]
        return self.scenario.examples / median(seconds) if seconds else None

    def energy(self) -> tuple[float, float] | None:
        """Watts, and joules per example, over all windows; None where nothing counts, or for too short a time.

        Either end of a window reads a counter that is up to a tick old, and two such ages differ by tick / sqrt(6).
        """
        seconds = sum(each.seconds for each in self.rounds)
        joules = [each.joules for each in self.rounds if each.joules is not None]
        if len(joules) < len(self.rounds) or TICK * math.sqrt(len(joules) / 6) > BLUR * seconds:
            return None
        examples = self.scenario.examples * sum(each.steps for each in self.rounds)
        return sum(joules) / seconds, sum(joules) / examples


def refresh_cost(each: Round) -> float | None:
    """Seconds that periodic work adds to a step; such work makes no step faster. None where none was timed."""
    return None if each.refresh is None else max(0.0, each.refresh - each.step)


def quantile(weighted: Sequence[tuple[float, float]], share: float) -> float:
    """The first value that with all below it has `share` of the weight, which is 1 in all."""
    below = 0.0
    for value, weight in sorted(weighted):
        below += weight
        if below >= share - 1e-9:
            return value
    return max(value for value, _ in weighted)
