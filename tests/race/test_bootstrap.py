"""Medians and their intervals. Oracles: the bootstrap's exact distribution, by counting every resample there can be;
and for how often an interval holds the truth, every way in which rounds can lie on either side of it."""

from __future__ import annotations

import itertools
from statistics import median

import pytest

from memprof.race.bootstrap import COVERED, RESAMPLES, interval, middles, outer_rank, resampled


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
    assert resampled(sorted(values)) == exact(values)
    found, (low, high) = interval(values), exact(values)
    assert found.low <= low <= found.median == median(values) <= high <= found.high


def held(count: int, rank: int) -> float:
    """How often ranks from both ends have the median between them, each round being above it or below by a coin."""
    falls = [sum(coins) for coins in itertools.product((0, 1), repeat=count)]
    return sum(rank < above < count - rank for above in falls) / len(falls)


@pytest.mark.parametrize("count", range(6, 15))
def test_an_interval_holds_the_true_median_as_often_as_it_says(count: int) -> None:
    """Distances between rounds play no part, so that powers of two stand for any; one rank further in is too few."""
    found = interval([2.0**number for number in range(count)])
    rank = outer_rank(count)
    assert held(count, rank) >= COVERED > held(count, rank + 1)
    assert found.low <= 2.0**rank and found.high >= 2.0 ** (count - 1 - rank)


@pytest.mark.parametrize("count", range(1, 6))
def test_of_too_few_rounds_the_interval_is_all_there_is(count: int) -> None:
    found = interval([2.0**number for number in range(count)])
    assert (found.low, found.high) == (1.0, 2.0 ** (count - 1)) and held(count, 0) < COVERED


def test_seven_rounds_are_not_trusted_more_than_they_can_be() -> None:
    """By resampling alone the interval would end at the second of them, and miss the median 1 time in 8."""
    assert resampled([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]) == (2.0, 6.0) and 1 - held(7, 1) == 0.125
    found = interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    assert (found.low, found.high) == (1.0, 7.0)


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
