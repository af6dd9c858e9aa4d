"""Medians and their intervals. Oracle: the bootstrap's exact distribution, by counting every resample there can be."""

from __future__ import annotations

import itertools
from statistics import median

import pytest

from memprof.race.bootstrap import COVERED, RESAMPLES, interval, middles


def exact(values: list[float]) -> tuple[float, float]:
    """Every resample of the values once, and the medians that leave 2.5 % on either side."""
    medians = sorted(median(drawn) for drawn in itertools.product(values, repeat=len(values)))
    tail = (1 - COVERED) / 2 * len(medians)
    return medians[int(tail)], medians[-1 - int(tail)]


def test_of_three_rounds_by_hand() -> None:
    """Of 27 resamples 7 have the smallest twice or more, 26 %: the interval is all there is."""
    found = interval([3.0, 1.0, 2.0])
    assert (found.low, found.median, found.high) == (1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    "values",
    [
        [5.0],
        [1.0, 3.0],
        [1.0, 2.0, 4.0, 8.0],
        [1.0, 2.0, 4.0, 8.0, 16.0],
        [9.0, 1.0, 4.0, 2.0, 7.0, 3.0],
        [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0],
    ],
    ids=len,
)
def test_against_every_resample_there_can_be(values: list[float]) -> None:
    found = interval(values)
    assert (found.low, found.high) == exact(values) and found.median == median(values)


def test_how_often_a_round_is_the_middle_of_three() -> None:
    """The smallest is, in 7 of 27 resamples."""
    drawn = middles(3)
    assert sum(drawn.values()) == RESAMPLES
    assert drawn[0, 0] / RESAMPLES == pytest.approx(7 / 27, abs=0.01)


def test_the_interval_repeats_and_does_not_depend_on_the_order() -> None:
    values = [1.0 + 0.1 * (k % 7) for k in range(30)]
    assert interval(values) == interval(values[::-1])
    found = interval(values)
    assert found.low < found.median < found.high
    many = interval(values * 4)
    assert many.high - many.low < found.high - found.low, "more rounds, less doubt"


def test_the_median_is_not_moved_by_one_slow_round() -> None:
    assert interval([1.0, 1.0, 1.0, 1.0, 50.0, 1.0]).median == 1.0
