"""A race's figures beside its device. Oracle: data-sheet peaks by hand; what the race itself saw of TF32."""

from __future__ import annotations

import pytest

from memprof.api import plan
from memprof.bounds.ceilings import Rate, Sizes
from memprof.race.bounds import Abilities, Rates, bounds

H200 = "NVIDIA H200"


def rates(tf32: bool | None) -> Rates:
    return Rates(sizes=Sizes(2**20, 64, 1), copy=Rate(1e12, 1e12, 1e12), matrix=Rate(1e14, 1e14, 1e14), tf32=tf32)


def test_an_mfu_is_held_against_the_peak_of_what_the_race_multiplied_in() -> None:
    """67 TFLOP/s without TF32 and 494.5 with it, whatever this process would do."""
    (scenario,) = plan(["9m"], ["adamw"], dtype="fp32", seq_len=32)
    plain, rounded = (bounds(scenario, Abilities(gpu=H200, rates=rates(tf32)), 1e3, 0.5, 0.1) for tf32 in (False, True))
    assert plain["mfu"] == pytest.approx(rounded["mfu"] * 494.5 / 67) and "dense tf32" in rounded["mfu_reason"]
    assert plain["model_flops_per_second"] == rounded["model_flops_per_second"]


def test_without_measured_rates_there_is_no_floor() -> None:
    (scenario,) = plan(["9m"], ["adamw"], seq_len=32)
    assert "floor" not in bounds(scenario, Abilities(gpu=H200), 1e3, 0.5, 0.1)
    floor = bounds(scenario, Abilities(gpu=H200, rates=rates(None)), 1e3, 0.5, 0.1)["floor"]
    assert floor.copy_bytes_per_second == 1e12 and floor.ratio == pytest.approx(0.5 / floor.seconds)
