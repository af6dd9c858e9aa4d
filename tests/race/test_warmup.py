"""When a step has become even, by hand, and when the warm-up gives up."""

from __future__ import annotations

import pytest

from memprof.race.course import race
from memprof.race.laps import Laps
from memprof.race.warmup import MOST, is_steady
from tests.race.stage import Cost, Queue, Script, scenario_of


@pytest.mark.parametrize(
    ("reserved", "spent", "steady"),
    [
        ([7, 7, 7, 7], [10.0, 10.0, 10.0, 10.0], True),
        ([None] * 4, [10.0, 10.0, 10.0, 10.0], True),
        ([9, 7, 7, 7], [90.0, 10.0, 10.0, 10.0], True),
        ([7, 7, 7, 8], [10.0, 10.0, 10.0, 10.0], False),
        ([7, 7, 8, 8], [10.0, 10.0, 10.0, 10.0], False),
        ([7, 8, 8, 8], [10.0, 10.0, 10.0], False),
        ([8, 8], [10.0, 10.0, 10.0, 10.0], False),
        ([8] * 4, [10.1, 10.0, 10.0, 9.0], True),
        ([8] * 4, [10.1, 10.1, 10.0, 9.0], False),
        ([8] * 4, [10.04, 10.04, 10.0, 9.0], True),
    ],
)
def test_steady_by_hand(reserved: list[int | None], spent: list[float], steady: bool) -> None:
    """Three steps of one size of the pool, and medians of three steps each that differ by less than 0.5 %."""
    assert is_steady(reserved, spent) == steady


def warmed(monkeypatch: pytest.MonkeyPatch, method: str, seconds: list[float]) -> Laps:
    queue = Queue()
    costs = {method: lambda number: Cost(0, 0, seconds[min(number, len(seconds) - 1)])}
    Script(queue, costs).install(monkeypatch)
    scenario = scenario_of(method, device="cuda", kernels=None)
    found = race([scenario], queue, (1,), queue.host_clock)[scenario.id]
    assert isinstance(found, Laps)
    return found


@pytest.mark.parametrize(
    ("method", "seconds", "steps", "steady"),
    [
        ("sgd", [90.0, 10.0], 4, True),
        ("galore", [90.0, 500.0, 10.0], 5, True),
        ("sgd", [90.0, 20.0, 12.0, 11.0, 11.0, 10.0], 6, True),
        ("sgd", [2.0**-n for n in range(20)], MOST, False),
    ],
    ids=["at once", "beside the periodic step", "after a while", "never"],
)
def test_the_warm_up_ends_when_steps_are_even(
    monkeypatch: pytest.MonkeyPatch, method: str, seconds: list[float], steps: int, steady: bool
) -> None:
    found = warmed(monkeypatch, method, seconds)
    assert (found.warmup_steps, found.steady) == (steps, steady)


def test_a_pool_that_grows_is_not_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter(range(100))
    monkeypatch.setattr(Queue, "reserved", lambda self: next(sizes))
    found = warmed(monkeypatch, "sgd", [1.0])
    assert (found.warmup_steps, found.steady) == (MOST, False)
