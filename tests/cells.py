"""A cell to measure, what a measurement of it may answer, and what a race may bring."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from memprof.api import plan
from memprof.headroom import Headroom
from memprof.method import Method
from memprof.race.ask import Race
from memprof.race.result import Raced
from memprof.record import Interval, Measured, Speed
from memprof.scenario import Scenario

NEEDS_NOTHING = Headroom(needed=0)
AT_PEAK = {"param": 1, "grad": 1, "optimizer_state": 2, "activation": 1, "extra": 0}
MEASURED = Measured(**AT_PEAK, peak=5, peak_phase="backward", peak_by_category=AT_PEAK, steady=3)  # type: ignore[arg-type]
TWO_A_SECOND = Interval(median=2.0, low=1.9, high=2.1)
RACED = Raced(
    examples_per_second=TWO_A_SECOND,
    tokens_per_second=16.0,
    step_seconds={"forward": 0.1, "backward": 0.2, "optimizer": 0.2, "refresh": None},
    joules_per_example=None,
    speed=Speed(rounds=6, steps=10, warmup_steps=4, steady=True, without_periodic=TWO_A_SECOND, p99_step_seconds=0.6),
    loss_first=3.0,
    loss_last=2.0,
    flags=(),
)
ANSWER = json.dumps({"measured": dataclasses.asdict(MEASURED)})


def without_race(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every race is over at once, and all were alike."""
    monkeypatch.setattr(Race, "run", lambda race: {scenario.id: RACED for scenario in race.scenarios})


def scenario_of(method: str | Method = "adamw", device: str | None = "cpu", **fields: Any) -> Scenario:
    chosen: dict[str, Any] = {
        "dtype": "fp32",
        "kernels": "cpu",
        "num_layers": 1,
        "vocab_size": 32,
        "batch_size": 1,
        "seq_len": 8,
    }
    (scenario,) = plan(["9m"], [method], device=device, **chosen | fields)
    return scenario
