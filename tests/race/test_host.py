"""Which of the two is the brake: a queue by script, host-bound and not, and what a bounded queue may look like."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from memprof.race.course import race
from memprof.race.host import BRAKE, host_wait, is_host_bound
from memprof.race.laps import Laps, Round
from memprof.scenario import Scenario
from tests.race.stage import Cost, Queue, Script, a_round, always, scenario_of

SGD = scenario_of("sgd", device="cuda", kernels=None)


def rounds(monkeypatch: pytest.MonkeyPatch, cost: Cost) -> tuple[Round, ...]:
    queue = Queue()
    Script(queue, {"sgd": always(cost)}).install(monkeypatch)
    found = race([SGD], queue, (4, 4), queue.host_clock)[SGD.id]
    assert isinstance(found, Laps)
    return found.rounds


def test_a_device_with_work_left_is_the_brake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve launches of a second for 24 seconds' work that begins with the first: the device is done at 25, and came
    to the last optimizer at 23, the host at 11."""
    found = rounds(monkeypatch, Cost(forward=2, backward=2, optimizer=2, launch=1))
    assert [each.waited for each in found] == [23 - 11] * 2
    assert host_wait(SGD, found) == pytest.approx(12 / (25 / 4))
    assert not is_host_bound(SGD, [dataclasses.replace(each, device_seconds=each.seconds) for each in found])


def test_a_device_that_waits_for_launches_has_the_host_as_its_brake(monkeypatch: pytest.MonkeyPatch) -> None:
    found = rounds(monkeypatch, Cost(forward=0.01, backward=0.01, optimizer=0.01, launch=1))
    assert all(each.waited == pytest.approx(0.01) for each in found)
    assert is_host_bound(SGD, found)


def test_a_long_last_kernel_hides_no_host_that_is_the_brake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused AdamW is one kernel of milliseconds: the host waits for it at the end, however often the device idled."""
    found = rounds(monkeypatch, Cost(forward=0.01, backward=0.01, optimizer=1.5, launch=1))
    assert all(each.waited == pytest.approx(0.01) for each in found)
    assert is_host_bound(SGD, found)


def test_an_optimizer_that_drains_the_queue_is_held_back_by_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is 40 s behind as it begins, and not at all as it ends."""
    queue = Queue()
    script = Script(queue, {"sgd": always(Cost(forward=10, backward=30, optimizer=0.01))})
    script.install(monkeypatch)
    step = script.train_step

    def launches(*arguments: Any) -> Any:
        loss = step(*arguments)
        queue.launch(50, 0.01)
        return loss

    monkeypatch.setattr("memprof.race.entrant.train_step", launches)
    only = race([SGD], queue, (1,), queue.host_clock)[SGD.id]
    assert isinstance(only, Laps) and only.rounds[0].waited == pytest.approx(0.01)
    assert is_host_bound(SGD, only.rounds)


def test_marks_span_the_gaps_between_kernels_and_do_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    (found, _) = rounds(monkeypatch, Cost(forward=0.01, backward=0.01, optimizer=0.01, launch=1))
    assert found.device_seconds == pytest.approx(found.seconds)


@pytest.mark.parametrize(
    ("waited", "accumulation", "bound"),
    [
        (BRAKE * 10.1, 1, False),
        (BRAKE * 9.9, 1, True),
        (BRAKE * 9.9, 2, False),  # a queue that is full may be less than 2 % of a step of many micro-batches
        (BRAKE * 10 / 65, 64, True),
    ],
)
def test_the_wait_is_set_against_a_micro_batch(waited: float, accumulation: int, bound: bool) -> None:
    scenario = dataclasses.replace(SGD, accumulation=accumulation)
    assert is_host_bound(scenario, [a_round(10.0, waited=waited)]) == bound


def test_a_window_too_short_for_its_synchronisations_is_bound_too() -> None:
    assert is_host_bound(SGD, [a_round(10.0, device_seconds=9.7)])
    assert not is_host_bound(SGD, [a_round(10.0, device_seconds=9.9)])


@pytest.mark.parametrize("waited", [0.0, 5.0])
def test_on_a_cpu_host_and_device_are_one(waited: float) -> None:
    here: Scenario = scenario_of("sgd")
    assert host_wait(here, [a_round(10.0, waited=waited)]) is None
    assert not is_host_bound(here, [a_round(10.0, waited=waited)])
