"""What a measurement adds up on a device like a CPU; a GPU's sums have their own tests with the closure."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

import memprof.measure.memory
from memprof.device import Conditions, Recording
from memprof.measure.memory import measure_memory, time_plain_step
from memprof.measure.watch import StepSeen, Watched
from memprof.record import Measured
from memprof.scenario import Scenario
from memprof.schema import PHASES
from memprof.timeline import (
    ACTIVATION,
    BACKWARD,
    EXTRA,
    FORWARD,
    GRAD,
    OPTIMIZER,
    OPTIMIZER_STATE,
    PARAM,
    REFRESH,
    Peak,
    Timeline,
)
from memprof.trace import trace
from tests import cells

Make = Callable[..., Any]
RESIDENT = 40_000
NUMBER = 8 + 4
"""bytes of a Python number beside a 0-d fp32 tensor: a double and its cast, which no dispatcher sees"""
AT_PEAK = {PARAM: 100, GRAD: 100, OPTIMIZER_STATE: 200, ACTIVATION: 50, EXTRA: 30}
AFTER = {PARAM: 100, GRAD: 0, OPTIMIZER_STATE: 200, ACTIVATION: 0, EXTRA: 8}


def scenario_of(method: str = "adamw", **fields: Any) -> Scenario:
    return cells.scenario_of(method, device=None, **{"batch_size": 2} | fields)


def seen(nbytes: int = 480, seconds: float = 1.0) -> StepSeen:
    extra = AT_PEAK[EXTRA] + nbytes - 480
    peak = Peak(nbytes, BACKWARD, AT_PEAK | {EXTRA: extra}, {"aten::mm": extra})
    phases: dict[str, int | None] = {**dict.fromkeys(PHASES, nbytes - 1), BACKWARD: nbytes}
    return StepSeen(replayed=peak, counted=None, grad=100, activation=60, after=AFTER, phase_peaks=phases,
                    seconds=seconds)  # fmt: skip


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, fake_device: Make) -> Callable[..., Measured]:
    """Measure a scripted run: what the watch saw, what the clock said, what the device claims."""

    def run(
        *,
        ordinary: StepSeen | None = None,
        refresh: StepSeen | None = None,
        plain: float = 1.0,
        **device: Any,
    ) -> Measured:
        watched = Watched(ordinary or seen(), refresh, Timeline(), Recording(), ())
        monkeypatch.setattr(memprof.measure.memory, "warm_up", lambda scenario, device: None)
        monkeypatch.setattr(memprof.measure.memory, "resident_bytes", lambda: RESIDENT)
        monkeypatch.setattr(memprof.measure.memory, "time_plain_step", lambda scenario, device: plain)
        monkeypatch.setattr(memprof.measure.memory, "watch_memory", lambda scenario, device: watched)
        return measure_memory(scenario_of(), fake_device(**device))

    return run


def test_a_processors_sum_by_hand(scripted: Callable[..., Measured]) -> None:
    """The resident set is what was there before + the allocator's peak + what no line explains."""
    found = scripted(process=41_000)
    assert (found.device, found.context, found.reserved) == (41_000, RESIDENT, None)
    assert found.residual == 41_000 - RESIDENT - 480
    assert found.extra_by_maker == {"aten::mm": 30}, "no blocks, no rounding"


def test_a_processors_high_water_mark_is_of_the_worst_step(scripted: Callable[..., Measured]) -> None:
    found = scripted(refresh=seen(nbytes=900), process=41_000)
    assert (found.peak, found.refresh_peak) == (480, 900)
    assert found.residual == 41_000 - RESIDENT - 900


def test_the_refreshs_own_phase_comes_from_the_step_that_has_one(scripted: Callable[..., Measured]) -> None:
    ordinary = {FORWARD: 479, BACKWARD: 480, OPTIMIZER: 479}
    assert scripted().phase_peaks == ordinary | {REFRESH: None}
    assert scripted(refresh=seen(nbytes=900)).phase_peaks == ordinary | {REFRESH: 899}


def test_what_recording_costs_is_told(scripted: Callable[..., Measured]) -> None:
    """A step of 1.5 s beside one of 1.2 s without a recording."""
    assert scripted(ordinary=seen(seconds=1.5), plain=1.2).recording_overhead == pytest.approx(0.25)
    assert scripted(plain=0.0).recording_overhead is None


@pytest.mark.parametrize(("before", "after", "most"), [(0, 0, 0), (0, 2, 2), (3, None, 3), (None, None, None)])
def test_others_are_the_most_that_were_seen(
    scripted: Callable[..., Measured], before: int | None, after: int | None, most: int | None
) -> None:
    assert scripted(weather=[Conditions(others=before), Conditions(others=after)]).others == most


def test_what_a_device_does_not_know_is_null(scripted: Callable[..., Measured]) -> None:
    found = json.loads(json.dumps(dataclasses.asdict(scripted(process=None))))
    unknown = {key for key, value in found.items() if value is None}
    of_the_race = {"speed", "examples_per_second", "tokens_per_second", "joules_per_example", "loss_first", "loss_last"}
    assert unknown == {"refresh_peak", "reserved", "device", "residual", "closure", "others"} | of_the_race


def test_a_plain_step_is_timed_between_the_first_and_the_one_with_periodic_work(fake_device: Make) -> None:
    """The clock is read twice, the device idle both times; and the resident set sees the refresh too."""
    device = fake_device(ticks=[2.5])
    assert time_plain_step(scenario_of("galore"), device) == 2.5
    assert device.calls == ["synchronize", "now", "now", "synchronize", "seconds"]


def test_states_by_hand(scripted: Callable[..., Measured]) -> None:
    found = scripted()
    assert (found.param, found.grad, found.optimizer_state, found.activation, found.steady) == (100, 100, 200, 60, 308)
    assert found.attention == "ScaledDotProductFlashAttentionForCpuBackward0"


@pytest.mark.parametrize(
    ("method", "how"), [("adamw", {}), ("galore", {}), ("adamw", {"loss_chunks": 16, "checkpointing": True})]
)
def test_a_whole_measurement_says_what_the_trace_says(fake_device: Make, method: str, how: dict[str, Any]) -> None:
    """In as many pieces, too, as there are tokens, which are more than the warm-up has."""
    scenario = scenario_of(method, **how)
    expected = trace(scenario)
    device = fake_device(process=10**9)
    found = measure_memory(scenario, device)
    keys = ("param", "grad", "optimizer_state", "activation", "steady", "peak_phase")
    assert {key: getattr(found, key) for key in keys} == {key: getattr(expected, key) for key in keys}
    assert found.peak - expected.peak in (0, NUMBER) and sum(found.peak_by_category.values()) == found.peak
    assert (found.refresh_peak is None) == (method == "adamw")
    assert device.calls.index("reset") < device.calls.index("now"), "warmed up, and forgotten, before the clock runs"
    assert device.calls[device.calls.index("seconds") + 1] == "reset", "and what the plain steps left, before recording"
