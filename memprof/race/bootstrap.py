"""How sure a median over rounds is: the bootstrap, with whole rounds drawn again."""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Sequence
from statistics import median

from memprof.evidence import Interval

RESAMPLES = 10_000
COVERED = 0.95
"""share of the resampled medians that an interval holds"""


def interval(values: Sequence[float]) -> Interval:
    """The median of the rounds' values with its 95 % bootstrap percentile interval; the same values give the same."""
    ordered = sorted(values)
    medians = sorted(
        ((ordered[low] + ordered[high]) / 2, times) for (low, high), times in middles(len(ordered)).items()
    )
    centre, tail = median(ordered), RESAMPLES * (1 - COVERED) / 2
    low, high = _passing(medians, tail), _passing(medians[::-1], tail)
    return Interval(median=centre, low=min(low, centre), high=max(high, centre))


@functools.cache
def middles(count: int) -> Counter[tuple[int, int]]:
    """The ranks of the two middle values of each resample of `count` rounds, and how often each pair came.

    A resample's median depends on the ranks alone that were drawn, so that one set of draws serves all figures.
    """
    generator = random.Random(count)
    draws = (sorted(generator.choices(range(count), k=count)) for _ in range(RESAMPLES))
    return Counter((drawn[(count - 1) // 2], drawn[count // 2]) for drawn in draws)


def _passing(medians: Sequence[tuple[float, int]], tail: float) -> float:
    """The first value with more than `tail` resamples up to and with it."""
    seen = 0
    for value, times in medians:
        seen += times
        if seen > tail:
            return value
    raise AssertionError("a tail is smaller than the whole")
