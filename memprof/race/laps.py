"""What a race leaves of each entrant: the bare figures of its rounds, as a measuring process sends them.

Seconds are of a whole window or step, never a share of one. Whatever was made of several processes is read alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

DEFAULT_ROUNDS = 6
"""fewer lie all on one side of their median more often than 1 time in 20 (2**(1 - rounds))"""
DEFAULT_STEPS = 10
"""timed ordinary steps of a method, over all rounds"""
KEPT = 480
"""durations of single steps that are kept of all rounds together; of more, evenly spaced ranks of each round"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One entrant's turn: a window of ordinary steps, and what followed it."""

    steps: int
    """ordinary steps in the window"""
    seconds: float
    """the window by the host's clock, the device idle at both ends"""
    device_seconds: float
    """from its first mark to its last by the device's clock"""
    waited: float
    """by how much the device was behind the host as the last optimizer phase began or as all was launched, whichever is
    less"""
    phases: dict[str, float] = field(default_factory=dict)
    """device seconds of the window by phase"""
    each: tuple[float, ...]
    """device seconds of its single steps, or of some ranks among them"""
    refresh: float | None = None
    """a step with periodic work right after it, by the host's clock"""
    again: float | None = None
    """a step of a second window of the same round: the baseline's, to be set against itself"""
    papers: float | None = None
    """a step by the papers' clock"""
    joules: float | None = None
    """energy of the window; None without a counter"""
    slowdowns: tuple[str, ...] = ()
    """heat and power failures, at either end of the window"""
    others: int | None = None
    """other processes on the device then, at most"""
    celsius: int | None = None
    sm_mhz: int | None = None

    @property
    def step(self) -> float:
        """Seconds of an ordinary step."""
        return self.seconds / self.steps

    def broken(self) -> str | None:
        """What cannot be, if anything is."""
        amounts = [self.device_seconds, self.waited, *self.phases.values(), *self.each]
        amounts += [amount for amount in (self.refresh, self.again, self.papers, self.joules) if amount is not None]
        if self.steps < 1 or not self.seconds > 0 or not self.each or not all(amount >= 0 for amount in amounts):
            return "a round takes a step at least, and some time"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Laps:
    """One entrant's rounds, in their order, and how it went into them."""

    rounds: tuple[Round, ...]
    warmup_steps: int
    steady: bool
    """whether the device's reserved bytes and its step time had settled before the first round, and the bytes stayed so
    while the clock ran"""
    loss_first: float | None = None
    loss_last: float | None = None
    """of two steps on the same tokens, those of all entrants; None where not finite"""

    def broken(self) -> str | None:
        """What cannot be, if anything is."""
        return None if self.rounds else "a race has a round at least"


def shares(steps: int, rounds: int) -> tuple[int, ...]:
    """The steps of each round: `steps` spread evenly, and one at least in each."""
    return tuple(max(1, steps * (number + 1) // rounds - steps * number // rounds) for number in range(rounds))


def ranks(values: Sequence[float], most: int) -> tuple[float, ...]:
    """In order; of more than `most` as many of them, at even distances, the largest always among them."""
    ordered = sorted(values)
    if len(ordered) <= most:
        return tuple(ordered)
    return tuple(ordered[(number + 1) * len(ordered) // most - 1] for number in range(most))


def finite(value: float) -> float | None:
    """A diverged loss is not a number, and JSON has none for it."""
    return value if math.isfinite(value) else None
