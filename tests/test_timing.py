"""The timing pass on a clock that moves by script: medians, phases, what periodic work costs, joules, intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from memprof.api import plan
from memprof.scenario import Scenario
from memprof.timeline import BACKWARD, FORWARD, OPTIMIZER, REFRESH
from memprof.timing import REFRESH_STEPS, WARMUP_STEPS, Timing, time_steps

Make = Callable[..., Any]


def scenario_of(method: str = "adamw", **fields: Any) -> Scenario:
    chosen: dict[str, Any] = {
        "dtype": "fp32",
        "kernels": "cpu",
        "num_layers": 1,
        "vocab_size": 32,
        "batch_size": 2,
        "seq_len": 8,
    }
    (scenario,) = plan(["9m"], [method], **chosen | fields)
    return scenario


def step_ticks(forward: float, backward: float, optimizer: float, pause: float = 100.0) -> list[float]:
    """The clock is read as each phase begins and as the step ends; then the host does what it likes."""
    return [forward, backward, optimizer, pause]


def test_phases_and_steps_by_hand(fake_device: Make) -> None:
    ticks = step_ticks(1, 2, 3) + step_ticks(2, 3, 5) + step_ticks(4, 3, 4)
    timing = time_steps(scenario_of(), fake_device(ticks=ticks), 3)
    assert timing.steps == [6.0, 10.0, 11.0]
    assert timing.phases == {FORWARD: [1.0, 2.0, 4.0], BACKWARD: [2.0, 3.0, 3.0], OPTIMIZER: [3.0, 5.0, 4.0]}
    assert timing.step_seconds() == {FORWARD: 2.0, BACKWARD: 3.0, OPTIMIZER: 4.0, REFRESH: None}
    assert timing.refreshes == []


def test_micro_batches_add_up_within_a_phase(fake_device: Make) -> None:
    timing = time_steps(scenario_of(accumulation=2), fake_device(ticks=[1, 2, 10, 20, 5, 0]), 1)
    assert timing.steps == [38.0]
    assert timing.phases == {FORWARD: [11.0], BACKWARD: [22.0], OPTIMIZER: [5.0]}


def test_marks_are_read_only_after_the_device_is_done(fake_device: Make) -> None:
    """A GPU's event has no time before it was waited for; and nothing but marks lies between two waits."""
    device = fake_device()
    time_steps(scenario_of(), device, 1)
    step = device.calls[device.calls.index("now") - 1 :]
    assert step[:6] == ["synchronize", "now", "now", "now", "now", "synchronize"]
    assert set(step[6:]) == {"seconds", "joules"}


def test_periodic_work_is_amortised_over_the_papers_steps_by_hand(fake_device: Make) -> None:
    """GaLore refreshes every 200 steps, 100 times in 20,000: a refresh of 40 s beyond 10 s costs 0.2 s a step."""
    scenario = scenario_of("galore:update_gap=200")
    ticks = step_ticks(2, 3, 5) * 3 + step_ticks(2, 3, 45) * REFRESH_STEPS
    timing = time_steps(scenario, fake_device(ticks=ticks), 3)
    assert timing.steps == [10.0] * 3 and timing.refreshes == [50.0] * REFRESH_STEPS
    assert timing.step_seconds()[REFRESH] == 40.0
    speed = timing.examples_per_second(scenario)
    assert speed.median == pytest.approx(2 / 10.2, rel=1e-12)
    assert (speed.low, speed.high) == (speed.median, speed.median), "steps that do not vary have no interval"


def test_a_refresh_never_makes_a_step_faster() -> None:
    timing = Timing(steps=[10.0, 10.0], refreshes=[9.0])
    assert timing.examples_per_second(scenario_of("galore")).median == 2 / 10


def test_the_median_is_not_moved_by_one_slow_step() -> None:
    timing = Timing(steps=[1.0, 1.0, 1.0, 1.0, 50.0])
    assert timing.examples_per_second(scenario_of()).median == 2.0


def test_the_interval_holds_the_median_and_repeats() -> None:
    timing = Timing(steps=[1.0 + 0.1 * (k % 7) for k in range(30)])
    first, second = (timing.examples_per_second(scenario_of()) for _ in range(2))
    assert first == second, "the bootstrap draws from the scenario's seed"
    assert first.low < first.median < first.high
    assert 2 / 1.6 <= first.low and first.high <= 2.0, "within the slowest and the fastest step"
    narrow = Timing(steps=timing.steps * 20).examples_per_second(scenario_of())
    assert narrow.high - narrow.low < first.high - first.low, "more steps, less doubt"


def test_joules_by_hand(fake_device: Make) -> None:
    """300 J over 3 steps of 2 examples; refreshes come after the counter was read."""
    device = fake_device(energy=[1_000.0, 1_300.0])
    assert time_steps(scenario_of("galore"), device, 3).joules_per_example == 50.0


@pytest.mark.parametrize("energy", [[], [1_000.0]])
def test_no_energy_counter_is_none(fake_device: Make, energy: list[float]) -> None:
    assert time_steps(scenario_of(), fake_device(energy=energy), 1).joules_per_example is None


@pytest.mark.parametrize(("method", "periodic"), [("adamw", False), ("galore", True)])
def test_every_step_leaves_its_loss(fake_device: Make, method: str, periodic: bool) -> None:
    timing = time_steps(scenario_of(method), fake_device(), 4)
    assert len(timing.losses) == WARMUP_STEPS + 4 + (1 + REFRESH_STEPS if periodic else 0)
    assert len(timing.refreshes) == (REFRESH_STEPS if periodic else 0)


def test_an_accumulated_loss_is_that_of_a_whole_micro_batch(fake_device: Make) -> None:
    """The loop divides the loss by the number of micro-batches; an untrained model's is near ln(vocabulary)."""
    whole = time_steps(scenario_of(), fake_device(), 1).losses[0]
    parts = time_steps(scenario_of(accumulation=4), fake_device(), 1).losses[0]
    assert parts == pytest.approx(whole, rel=0.1)
