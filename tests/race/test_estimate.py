"""What rounds say, from rounds made by hand. Oracle: fractions by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from memprof.evidence import Interval
from memprof.race.bounds import Abilities
from memprof.race.estimate import Pace, quantile
from memprof.race.laps import Round, ranks, shares
from memprof.race.result import Raced, raced
from memprof.timeline import BACKWARD, FORWARD, OPTIMIZER
from tests.race.stage import a_round, exactly, laps, scenario_of

ADAMW, GALORE = scenario_of(), scenario_of("galore:update_gap=200")
HEAT = ("hw thermal slowdown",)


def pace(*rounds: Round, method: str = "adamw", **fields: Any) -> Pace:
    return Pace(scenario_of(method, **fields), laps(*rounds))


def result(mine: Pace, baseline: Pace | None = None) -> Raced:
    return raced(mine, baseline, Abilities())


def test_the_headline_is_the_median_of_the_rounds() -> None:
    """Two examples a step; windows of two steps in 8, 20 and 40 s are 0.5, 0.2 and 0.1 examples a second."""
    found = result(pace(a_round(8.0, steps=2), a_round(20.0, steps=2), a_round(40.0, steps=2)))
    assert found.examples_per_second == Interval(median=0.2, low=0.1, high=0.5) == found.speed.without_periodic
    assert found.tokens_per_second == 0.2 * 8
    assert (found.speed.rounds, found.speed.steps, found.speed.rounds_dropped, found.flags) == (3, 6, 0, ())
    assert (found.loss_first, found.loss_last) == (3.0, 2.0)


def test_a_steps_phases_are_the_windows_shares() -> None:
    phases = {FORWARD: 2.0, BACKWARD: 4.0, OPTIMIZER: 6.0}
    found = result(pace(a_round(12.0, steps=2, phases=phases)))
    assert found.step_seconds == {"forward": 1.0, "backward": 2.0, "optimizer": 3.0, "refresh": None}


def test_periodic_work_is_amortised_over_the_papers_steps() -> None:
    """GaLore refreshes every 200 steps, 100 times in 20,000: 40 s beyond the same round's 10 s are 0.2 s a step."""
    found = result(pace(a_round(10.0, refresh=50.0), a_round(20.0, refresh=60.0), method="galore:update_gap=200"))
    assert found.examples_per_second.low == pytest.approx(2 / 20.2, rel=1e-12)
    assert found.examples_per_second.high == pytest.approx(2 / 10.2, rel=1e-12)
    ordinary = found.speed.without_periodic
    assert (ordinary.low, ordinary.high) == (0.1, 0.2) and ordinary.median == pytest.approx(0.15)
    assert found.speed.refresh_seconds == exactly(40.0) and found.step_seconds["refresh"] == 40.0
    assert (found.speed.refreshes, found.speed.refreshes_per_step) == (2, 1 / 200)
    assert found.speed.refresh_matrices == 7, "of the one layer"


def test_a_refresh_never_makes_a_step_faster() -> None:
    found = result(pace(a_round(10.0, refresh=9.0), method="galore"))
    assert found.examples_per_second == exactly(0.2) and found.speed.refresh_seconds == exactly(0.0)


def test_a_method_without_periodic_work_has_no_cost_of_it() -> None:
    found = result(pace(a_round()))
    assert (found.speed.refresh_seconds, found.speed.refreshes, found.speed.refresh_matrices) == (None, 0, None)


def test_ratios_are_paired_by_round() -> None:
    """A machine that slows down for all alike, by a factor of 4, does not touch the ratio."""
    adamw = pace(a_round(10.0), a_round(20.0), a_round(40.0))
    mine = pace(a_round(8.0), a_round(16.0), a_round(32.0), method="sgd")
    found = result(mine, adamw)
    assert found.speed.ratio == exactly(1.25)
    assert found.examples_per_second.low < 0.1 < found.examples_per_second.high
    assert result(adamw, adamw).speed.ratio == exactly(1.0)
    assert result(mine).speed.ratio is None and result(mine).speed.spread is None


def test_the_ratio_has_the_periodic_work_in_it() -> None:
    mine = pace(a_round(10.0, refresh=410.0), method="galore:update_gap=200")
    ratio = result(mine, pace(a_round(12.0))).speed.ratio
    assert ratio is not None and ratio.median == pytest.approx(12 / 12)


def test_the_null_is_adamw_over_itself() -> None:
    adamw = pace(a_round(10.0, again=8.0), a_round(10.0, again=10.0), a_round(10.0))
    for mine in (adamw, pace(a_round(1.0), a_round(1.0), a_round(1.0), method="sgd")):
        assert result(mine, adamw).speed.spread == Interval(median=1.125, low=1.0, high=1.25)


def test_a_round_in_heat_does_not_count_and_is_told() -> None:
    adamw = pace(a_round(10.0), a_round(90.0), a_round(10.0))
    hot = a_round(80.0, slowdowns=HEAT, refresh=500.0, celsius=95)
    mine = pace(hot, a_round(20.0, celsius=60), a_round(20.0), method="sgd")
    found = result(mine, adamw)
    assert found.examples_per_second == exactly(0.1)
    assert (found.speed.rounds, found.speed.rounds_dropped, found.flags) == (2, 1, ("throttled",))
    assert found.speed.ratio is not None and (found.speed.ratio.low, found.speed.ratio.high) == (0.5, 4.5)
    assert found.speed.celsius == 60, "of the rounds that count"


def test_where_every_round_was_in_heat_all_count() -> None:
    found = result(pace(a_round(10.0, slowdowns=HEAT), a_round(10.0, slowdowns=HEAT)))
    assert (found.speed.rounds, found.speed.rounds_dropped, found.flags) == (2, 0, ("throttled",))


def test_rounds_that_count_for_different_entrants_have_no_ratio() -> None:
    mine, adamw = pace(a_round(slowdowns=HEAT), a_round()), pace(a_round(), a_round(slowdowns=HEAT))
    assert result(mine, adamw).speed.ratio is None


@pytest.mark.parametrize(("others", "flags"), [(None, ()), (0, ()), (1, ("contaminated",))])
def test_another_process_in_any_window_is_told(others: int | None, flags: tuple[str, ...]) -> None:
    assert result(pace(a_round(others=0), a_round(others=others))).flags == flags


def test_another_process_is_told_of_a_round_that_does_not_count_too() -> None:
    assert result(pace(a_round(others=1, slowdowns=HEAT), a_round())).flags == ("contaminated", "throttled")


def test_flags_come_together() -> None:
    idle = a_round(waited=0.0, others=1, slowdowns=HEAT)
    assert result(pace(idle, device="cuda", kernels=None)).flags == ("contaminated", "host-bound", "throttled")


def test_joules_and_watts_by_hand() -> None:
    """300 J over 3 steps of 2 examples in 6 s."""
    found = result(pace(a_round(4.0, steps=2, joules=200.0), a_round(2.0, joules=100.0)))
    assert (found.joules_per_example, found.speed.joules_per_example, found.speed.watts) == (50.0, 50.0, 50.0)


@pytest.mark.parametrize(
    "rounds",
    [
        (a_round(4.0),),
        (a_round(4.0, joules=100.0), a_round(4.0)),
        (a_round(0.8, joules=100.0),),
    ],
    ids=["no counter", "a counter that fell silent", "too short for it"],
)
def test_no_energy_is_none(rounds: tuple[Round, ...]) -> None:
    found = result(pace(*rounds))
    assert (found.joules_per_example, found.speed.joules_per_example, found.speed.watts) == (None, None, None)


@pytest.mark.parametrize(("rounds", "seconds", "known"), [(6, 0.33, False), (6, 0.34, True), (24, 0.1, False)])
def test_energy_needs_windows_that_are_long_beside_its_counters_tick(rounds: int, seconds: float, known: bool) -> None:
    """Either end of a window may be 0.1 s late: 0.1 s / sqrt(6) apart, and sqrt(6) times that over 6 windows. That is
    5 % of 2 s. Over 24 windows it is twice as much, though they take longer together."""
    found = result(pace(*[a_round(seconds, joules=100.0)] * rounds))
    assert (found.joules_per_example is not None) == known == (found.speed.watts is not None)


def test_the_papers_figure_is_the_median_of_the_rounds() -> None:
    found = result(pace(a_round(papers=2.0), a_round(papers=4.0), a_round(papers=8.0)))
    assert found.speed.papers_examples_per_second == 0.5
    assert result(pace(a_round())).speed.papers_examples_per_second is None


def test_the_99th_percentile_of_a_training_by_hand() -> None:
    """Ordinary steps of 1 to 100 s: the 99th. With a refresh in every 50 steps, one of them is beyond 98 %."""
    steps = tuple(float(n) for n in range(1, 101))
    window = a_round(5050.0, steps=100, each=steps)
    assert pace(window).p99_step_seconds() == 99.0
    assert pace(dataclasses.replace(window, refresh=7000.0), method="galore:update_gap=50").p99_step_seconds() == 7000.0
    seldom = pace(dataclasses.replace(window, refresh=7000.0), method="galore:update_gap=1000")
    assert seldom.p99_step_seconds() == 100.0


@pytest.mark.parametrize(("steps", "slowest"), [(990, 1.0), (900, 10.0)])
def test_a_thinned_window_counts_as_all_its_steps(steps: int, slowest: float) -> None:
    """Ten ranks of many steps of 1 s are kept, beside all ten of 10 s."""
    long = a_round(float(steps), steps=steps, each=(1.0,) * 10)
    short = a_round(100.0, steps=10, each=(10.0,) * 10)
    assert pace(long, short).p99_step_seconds() == slowest


def test_a_quantile_by_hand() -> None:
    assert quantile([(5.0, 0.5), (1.0, 0.5)], 0.5) == 1.0
    assert quantile([(5.0, 0.5), (1.0, 0.5)], 0.51) == 5.0


def test_on_a_gpu_without_a_data_sheet_there_is_no_mfu_and_a_reason() -> None:
    found = raced(pace(a_round()), None, Abilities(gpu="NVIDIA Unheard-of"))
    assert found.speed.mfu is None and "Unheard-of" in str(found.speed.mfu_reason)
    assert found.speed.floor is None, "nobody measured what the device can do"


@pytest.mark.parametrize(
    ("steps", "rounds", "expected"),
    [(10, 5, (2, 2, 2, 2, 2)), (10, 6, (1, 2, 2, 1, 2, 2)), (2, 4, (1, 1, 1, 1)), (7, 1, (7,))],
)
def test_steps_are_spread_over_the_rounds(steps: int, rounds: int, expected: tuple[int, ...]) -> None:
    assert shares(steps, rounds) == expected and sum(expected) == max(steps, rounds)


def test_ranks_keep_the_largest() -> None:
    assert ranks([3.0, 1.0, 2.0], 3) == (1.0, 2.0, 3.0)
    assert ranks([float(n) for n in range(100, 0, -1)], 4) == (25.0, 50.0, 75.0, 100.0)
    assert ranks([1.0, 5.0], 1) == (5.0,)
