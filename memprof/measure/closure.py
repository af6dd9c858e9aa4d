"""Where a GPU process's memory went at the worst instant of an ordinary step, line by line.

The allocator's own count says how much; its recorded events, by its rules in whole blocks, say when that was and what
was alive then; addresses say whose it was. What is left over has a line of its own and is never hidden.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from memprof.allocator import AllocatorSettings, Replay, replay
from memprof.device import Allocation, Usage
from memprof.evidence import OWNED, Closure
from memprof.measure.watch import KEPT, Watched
from memprof.timeline import EXTRA, Peak

ROUNDING, UNATTRIBUTED = "block rounding", "unattributed"


@dataclass(frozen=True, slots=True)
class WorstInstant:
    """The instant at which the allocator's rules have most handed out, in whole blocks, during the ordinary step."""

    rules: Replay
    alive: Peak
    """what was alive then, as it was asked for"""
    allocated: int
    """the allocator's own peak of that step"""
    events: int
    """allocations and frees of the whole recording"""

    @classmethod
    def of(cls, watched: Watched, counted: int) -> WorstInstant:
        """`counted` is what the allocator says itself."""
        events = watched.recording.events
        marks = [place for place, event in enumerate(events) if isinstance(event, int)]
        first, last = (marks[number] for number in watched.ordinary.marks)
        rules = replay(events, AllocatorSettings.of(watched.recording.settings), first, last)
        alive = watched.timeline.instant(_of_the_timeline(events[: rules.end]), _of_the_timeline(events[:first]))
        return cls(rules, alive, counted, len(events) - len(marks))

    @property
    def unattributed(self) -> int:
        """What the allocator counted and its recorded events do not explain; may be below 0."""
        return self.allocated - self.alive.nbytes - self.rules.rounding

    @property
    def by_category(self) -> dict[str, int]:
        """Sums to `allocated`: rounding, and what nothing explains, are extra."""
        beyond = self.rules.rounding + self.unattributed
        return self.alive.by_category | {EXTRA: self.alive.by_category[EXTRA] + beyond}

    @property
    def extra_by_maker(self) -> dict[str, int]:
        """Sums to the extra of `by_category`; largest first."""
        beyond = {ROUNDING: self.rules.rounding, UNATTRIBUTED: self.unattributed}
        found = self.alive.extra_by_maker | {name: nbytes for name, nbytes in beyond.items() if nbytes}
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def close(worst: WorstInstant, usage: Usage, reserved: int) -> Closure:
    """All lines. `usage` and `reserved` were read at one moment, when the recorded run was over."""
    extra, workspaces = worst.alive.by_category[EXTRA], worst.alive.extra_by_maker.get(KEPT, 0)
    fragmentation = worst.rules.fragmentation
    return Closure(
        device=usage.nbytes,
        device_reason=usage.reason,
        context=None if usage.nbytes is None else usage.nbytes - reserved,
        reserved=reserved,
        cached=reserved - fragmentation - worst.allocated,
        fragmentation=fragmentation,
        allocated=worst.allocated,
        **{name: worst.alive.by_category[name] for name in OWNED},
        temporaries=extra - workspaces,
        workspaces=workspaces,
        rounding=worst.rules.rounding,
        unattributed=worst.unattributed,
        replayed_reserved=worst.rules.reserved,
        events=worst.events,
    )


def _of_the_timeline(events: Iterable[Allocation | int]) -> int:
    """How many of recorded events a timeline has: no marks, nothing of no bytes, no frees of what nobody saw made."""
    live: set[int] = set()
    count = 0
    for event in events:
        if isinstance(event, int) or not event.nbytes or (event.nbytes < 0 and event.address not in live):
            continue
        count += 1
        if event.nbytes > 0:
            live.add(event.address)
        else:
            live.remove(event.address)
    return count
