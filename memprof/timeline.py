"""Allocations and frees in order, who owned each block, and where the peak fell.

One timeline serves every witness that sees events: the dispatch ledger of a trace, a CPU's allocator events, a
GPU allocator's history. A block's owner is often known only later (a tensor born in backward becomes a gradient
when backward returns), so blocks are labelled afterwards and the peak is read last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

PARAM, GRAD, OPTIMIZER_STATE, ACTIVATION, EXTRA = "param", "grad", "optimizer_state", "activation", "extra"
CATEGORIES = (PARAM, GRAD, OPTIMIZER_STATE, ACTIVATION, EXTRA)
OUTSIDE = "outside"
"""Storages that were there before anyone watched: never counted"""
_STRENGTH = {EXTRA: 0, ACTIVATION: 1, OPTIMIZER_STATE: 2, GRAD: 3, PARAM: 4, OUTSIDE: 5}

FORWARD, BACKWARD, OPTIMIZER, REFRESH = "forward", "backward", "optimizer", "refresh"


@dataclass(frozen=True, slots=True)
class Peak:
    """The worst instant: what was alive then, and whose it was."""

    nbytes: int
    phase: str
    by_category: dict[str, int]
    extra_by_maker: dict[str, int]
    """what made the blocks that are `extra` at this instant, largest first"""
    end: int = 0
    """allocations and frees from the timeline's beginning up to it"""

    @property
    def extra_largest(self) -> str:
        """The biggest of them, with its bytes; empty when there is none."""
        return next((f"{maker} ({nbytes} B)" for maker, nbytes in self.extra_by_maker.items()), "")


@dataclass(slots=True)
class Timeline:
    """Blocks (by number) and events: `block` for an allocation, `~block` for a free."""

    nbytes: list[int] = field(default_factory=list)
    maker: list[str] = field(default_factory=list)
    category: list[str] = field(default_factory=list)
    events: list[int] = field(default_factory=list)
    phases: list[tuple[int, str]] = field(default_factory=list)
    """(index of the first event of the phase, its name)"""

    def allocate(self, nbytes: int, maker: str) -> int:
        block = len(self.nbytes)
        self.nbytes.append(nbytes)
        self.maker.append(maker)
        self.category.append(EXTRA)
        self.events.append(block)
        return block

    def free(self, block: int) -> None:
        self.events.append(~block)

    def mark(self, phase: str) -> None:
        """A phase begins with the next event."""
        self.phases.append((len(self.events), phase))

    def label(self, blocks: Iterable[int], category: str) -> None:
        """Say whose blocks are; a stronger owner stays (a parameter is never an activation)."""
        for block in blocks:
            if _STRENGTH[category] > _STRENGTH[self.category[block]]:
                self.category[block] = category

    def claim(self, block: int, category: str) -> None:
        """Label a block whose owner is found at last: one from outside the books is in them from here on."""
        if self.category[block] == OUTSIDE:
            self.category[block] = EXTRA
        self.label([block], category)

    def label_activations(self) -> None:
        """What a forward made and left alive, and belongs to nobody else, was kept for backward.

        What was there before it belongs to nobody: a workspace that a library keeps.
        """
        for begin, end in self.forwards():
            self.label(set(self.alive(end)) - set(self.alive(begin)), ACTIVATION)

    def activation(self, before: int | None = None) -> int:
        """Bytes of activations at the end of the last forward (before an event); 0 where no backward followed one."""
        ends = [end for _, end in self.forwards() if before is None or end <= before]
        return self.totals(ends[-1])[ACTIVATION] if ends else 0

    def alive(self, end: int | None = None) -> list[int]:
        """Blocks alive after the first `end` events (all of them: now)."""
        living: dict[int, None] = {}
        for event in self.events[:end]:
            if event >= 0:
                living[event] = None
            else:
                living.pop(~event, None)
        return list(living)

    def totals(self, end: int | None = None) -> dict[str, int]:
        """Bytes alive by category after the first `end` events."""
        totals = dict.fromkeys(CATEGORIES, 0)
        for block in self.alive(end):
            if self.category[block] != OUTSIDE:
                totals[self.category[block]] += self.nbytes[block]
        return totals

    def most(self, category: str) -> int:
        """The most bytes of a category alive at any instant."""
        changes = (self._signed(event) for event in self.events if self.category[max(event, ~event)] == category)
        return max(accumulate(changes), default=0)

    def bytes_alive(self) -> list[int]:
        """Bytes alive after each event."""
        return list(accumulate(self._signed(event) for event in self.events))

    def peak(self, start: int = 0, stop: int | None = None) -> Peak:
        """The first worst instant from event `start` up to (not with) event `stop`."""
        alive = self.bytes_alive()[:stop]
        if not alive:
            return Peak(0, FORWARD, dict.fromkeys(CATEGORIES, 0), {})
        first = min(max(start - 1, 0), len(alive) - 1)
        end = max(range(first, len(alive)), key=lambda index: (alive[index], -index)) + 1
        return self.instant(end, start)

    def instant(self, end: int, start: int = 0) -> Peak:
        """What was alive after the first `end` events, in a window from event `start`."""
        totals = self.totals(end)
        return Peak(sum(totals.values()), self.phase_at(max(end - 1, start)), totals, self._extra_by_maker(end), end)

    def phase_peaks(self, start: int = 0, stop: int | None = None) -> dict[str, int]:
        """The most bytes alive within each phase of a window, from what was alive when it began.

        As an allocator counts whose peak is forgotten at each border. The largest of them is the window's peak.
        """
        alive = [0, *self.bytes_alive()]
        end = len(self.events) if stop is None else stop
        inside = [(begin, phase) for begin, phase in self.phases if start < begin < end]
        borders = [(start, self.phase_at(start)), *inside, (end, "")]
        peaks: dict[str, int] = {}
        for (begin, phase), (after, _) in pairwise(borders):
            peaks[phase] = max(peaks.get(phase, 0), *alive[begin : after + 1])
        return peaks

    def phase_at(self, event: int) -> str:
        started = [phase for begin, phase in self.phases if begin <= event]
        return started[-1] if started else FORWARD

    def forwards(self) -> list[tuple[int, int]]:
        """The events at which a forward began and at which it gave way to its backward."""
        borders = zip(self.phases, self.phases[1:], strict=False)
        return [(begin, end) for (begin, before), (end, after) in borders if (before, after) == (FORWARD, BACKWARD)]

    def _signed(self, event: int) -> int:
        block = event if event >= 0 else ~event
        if self.category[block] == OUTSIDE:
            return 0
        return self.nbytes[block] if event >= 0 else -self.nbytes[block]

    def _extra_by_maker(self, end: int) -> dict[str, int]:
        found: Counter[str] = Counter()
        for block in self.alive(end):
            if self.category[block] == EXTRA:
                found[self.maker[block]] += self.nbytes[block]
        return dict(found.most_common())
