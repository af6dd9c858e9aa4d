"""A step's timeline reduced to what a chart can show: few instants, none of those that anybody asks for left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise

from memprof.record import History
from memprof.schema import MAX_INSTANTS
from memprof.timeline import CATEGORIES, OUTSIDE, Timeline


def history(timeline: Timeline, start: int = 0, stop: int | None = None, most: int = MAX_INSTANTS) -> History:
    """What was alive, by category, at `most` instants from the one before event `start` to the one before `stop`.

    The first and the last instant are among them, the worst one, and both ends of each phase (as many as half of
    `most` holds). The others are the lowest and the highest instant of equally long stretches, so that a curve through
    them touches every high and low that its own width could show.
    """
    before = timeline.totals(start)
    alive = list(accumulate(_changes(timeline, start, stop), initial=sum(before.values())))
    chosen = _choose(alive, [begin - start for begin, _ in timeline.phases], most)
    columns = _columns(timeline, start, before, chosen)
    return History(
        events=len(alive) - 1,
        event=tuple(chosen),
        phase=tuple(_phases(timeline, start, chosen)),
        **{name: tuple(column) for name, column in columns.items()},
    )


def _changes(timeline: Timeline, start: int, stop: int | None) -> Iterator[int]:
    """By how many bytes each event changes what is alive."""
    for event in timeline.events[start:stop]:
        block = max(event, ~event)
        size = 0 if timeline.category[block] == OUTSIDE else timeline.nbytes[block]
        yield size if event >= 0 else -size


def _choose(alive: list[int], begins: Iterable[int], most: int) -> list[int]:
    """Instants by the number of events before them; `begins` are the first events of the phases."""
    last = len(alive) - 1
    if last < most:
        return list(range(len(alive)))
    borders = sorted({instant for begin in begins for instant in (begin, begin + 1) if 0 <= instant <= last})
    chosen = {0, last, *borders[:: max(1, -(-2 * len(borders) // most))]}
    stretches = (most - len(chosen)) // 2
    for begin, end in pairwise(last * index // stretches for index in range(stretches + 1)):
        chosen.add(min(range(begin, end), key=alive.__getitem__))
        chosen.add(max(range(begin, end), key=alive.__getitem__))
    return sorted(chosen)


def _columns(timeline: Timeline, start: int, before: dict[str, int], chosen: list[int]) -> dict[str, list[int]]:
    """Category to its bytes at each chosen instant, in one pass over the events."""
    totals, passed = dict(before), 0
    columns: dict[str, list[int]] = {name: [] for name in CATEGORIES}
    for instant in chosen:
        for event in timeline.events[start + passed : start + instant]:
            block = max(event, ~event)
            category = timeline.category[block]
            if category != OUTSIDE:
                totals[category] += timeline.nbytes[block] if event >= 0 else -timeline.nbytes[block]
        passed = instant
        for name, column in columns.items():
            column.append(totals[name])
    return columns


def _phases(timeline: Timeline, start: int, chosen: list[int]) -> Iterator[str]:
    """The phase of the event that led to each instant; the one before them all is where the first phase begins."""
    return (timeline.phase_at(start + max(instant - 1, 0)) for instant in chosen)
