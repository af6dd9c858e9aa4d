"""Rounds by script: whose turn it is, what is timed, who is taken out. Oracle: sums by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from memprof.child import CellError
from memprof.device import Conditions
from memprof.race.course import COMPARED_FROM, PAPERS_STEPS, race
from memprof.race.laps import Laps
from memprof.race.order import baseline_of, orders
from memprof.scenario import Scenario
from memprof.timeline import BACKWARD, FORWARD, OPTIMIZER
from tests.race.stage import Cost, Queue, Script, always, scenario_of

ADAMW, GALORE, SGD = (scenario_of(name, device="cuda", kernels=None) for name in ("adamw", "galore", "sgd"))


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def script(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> Script:
    made = Script(queue, {name: always(Cost()) for name in ("adamw", "galore", "sgd")})
    made.install(monkeypatch)
    return made


def run(queue: Queue, *scenarios: Scenario, windows: tuple[int, ...] = (2, 2)) -> list[Any]:
    found = race(scenarios, queue, windows, queue.host_clock)
    return [found[scenario.id] for scenario in scenarios]


def test_windows_and_phases_by_hand(queue: Queue, script: Script) -> None:
    script.costs["sgd"] = always(Cost(forward=1, backward=2, optimizer=5))
    (sgd,) = run(queue, SGD, windows=(2, 3))
    assert [(each.steps, each.seconds, each.device_seconds) for each in sgd.rounds] == [(2, 16, 16), (3, 24, 24)]
    assert sgd.rounds[1].phases == {FORWARD: 3, BACKWARD: 6, OPTIMIZER: 15}
    assert sgd.rounds[1].each == (8, 8, 8)
    assert [each.refresh for each in sgd.rounds] == [None, None]
    assert (sgd.warmup_steps, sgd.steady) == (4, True)


def test_micro_batches_add_up_within_a_phase(queue: Queue, script: Script) -> None:
    accumulated = dataclasses.replace(SGD, accumulation=3)
    (sgd,) = run(queue, accumulated, windows=(2,))
    assert sgd.rounds[0].phases == {FORWARD: 6, BACKWARD: 12, OPTIMIZER: 6} and sgd.rounds[0].seconds == 24


def test_periodic_work_is_a_step_of_its_own_in_every_round(queue: Queue, script: Script) -> None:
    script.costs["galore"] = always(Cost(refresh=40))
    (galore,) = run(queue, GALORE, windows=(2, 2, 2))
    assert [each.refresh for each in galore.rounds] == [46] * 3
    assert [each.step for each in galore.rounds] == [6] * 3, "and of no ordinary one"
    assert script.made["galore"].refreshed[:2] == [0, 1], "by schedule, and once in the warm-up"
    assert len(script.made["galore"].refreshed) == 2 + 3


def test_the_schedules_own_periodic_work_is_in_no_window(queue: Queue, script: Script) -> None:
    often = scenario_of("galore:update_gap=7", device="cuda", kernels=None)
    script.costs["galore"] = always(Cost(refresh=40))
    (galore,) = run(queue, often, windows=(3,) * 5)
    assert [each.seconds for each in galore.rounds] == [18] * 5
    assert [each.refresh for each in galore.rounds] == [46] * 5
    (galore,) = run(queue, scenario_of("galore:update_gap=3", device="cuda", kernels=None), windows=(5, 5))
    assert [(each.steps, each.seconds) for each in galore.rounds] == [(2, 12)] * 2, "no more lie between two"


def test_work_in_every_step_is_no_periodic_work(queue: Queue, script: Script) -> None:
    script.costs["galore"] = always(Cost(refresh=4))
    (galore,) = run(queue, scenario_of("galore:update_gap=1", device="cuda", kernels=None))
    assert [(each.steps, each.seconds, each.refresh) for each in galore.rounds] == [(2, 20, None)] * 2


def test_the_papers_clock_leaves_out_what_the_device_does_in_the_optimizer(queue: Queue, script: Script) -> None:
    """Forward and backward, a wait, the optimizer's launch; the periodic work is in none of their steps."""
    script.costs["galore"] = always(Cost(forward=1, backward=2, optimizer=100, refresh=1000, launch=0.25))
    (galore,) = run(queue, GALORE)
    forward_and_backward = 0.25 + 1 + 2
    assert [each.papers for each in galore.rounds] == [forward_and_backward + 0.25] * 2


def test_the_schedules_own_periodic_work_is_in_none_of_the_papers_steps(queue: Queue, script: Script) -> None:
    """Its launch would be, as a host read in a decomposition is."""
    script.costs["galore"] = always(Cost(forward=1, backward=2, optimizer=3, refresh=40, refresh_launch=50))
    (galore,) = run(queue, scenario_of("galore:update_gap=7", device="cuda", kernels=None), windows=(2,) * 5)
    assert [each.papers for each in galore.rounds] == [3] * 5


def test_on_a_cpu_the_papers_clock_is_ours(queue: Queue, script: Script) -> None:
    queue.kind = "cpu"
    (galore,) = run(queue, GALORE)
    assert [each.papers for each in galore.rounds] == [None, None]


def test_marks_are_read_only_after_the_device_is_done(queue: Queue, script: Script) -> None:
    """A GPU's event has no time before it was waited for; and nothing but marks lies between two waits."""
    run(queue, SGD, windows=(2,))
    last = len(queue.calls) - queue.calls[::-1].index("joules") - 1
    first = queue.calls.index("joules")
    assert queue.calls[first - 2 : first + 1] == ["synchronize", "conditions", "joules"]
    assert queue.calls[first + 1 : last] == ["clock", *["clock", "now"] * 6, "now", "clock", "synchronize", "clock"]
    assert queue.calls[last + 1 : last + 3] == ["seconds", "seconds"] and "seconds" not in queue.calls[:last]


def test_every_entrant_has_its_turn_in_each_round_and_adamw_two(queue: Queue, script: Script) -> None:
    turn = {"adamw": 2 + PAPERS_STEPS, "galore": 2 + 1 + PAPERS_STEPS, "sgd": 2 + PAPERS_STEPS}
    run(queue, ADAMW, GALORE, SGD, windows=(2, 2, 2))
    warmup = 5 * 3
    assert script.log[:warmup] == ["adamw", "galore", "sgd"] * 5, "together, until the last of them is steady"
    length = sum(turn.values()) + 2
    rounds = [script.log[warmup + k * length : warmup + (k + 1) * length] for k in range(3)]
    assert [sorted(each) for each in rounds] == [sorted(rounds[0])] * 3
    assert {name: rounds[0].count(name) for name in turn} == turn | {"adamw": turn["adamw"] + 2}


def test_the_order_is_drawn_anew_each_round_and_from_the_seed() -> None:
    scenarios = [ADAMW, GALORE, SGD]
    one, two = (list(orders(scenarios, 30)) for _ in range(2))
    assert one == two and len({tuple(turns) for turns in one}) > 10
    assert {frozenset(turns) for turns in one} == {frozenset([*((s.id, False) for s in scenarios), (ADAMW.id, True)])}
    firsts = [turns.index((ADAMW.id, True)) > turns.index((ADAMW.id, False)) for turns in one]
    assert {True, False} == set(firsts), "either window of the null may come first"
    other = [dataclasses.replace(scenario, seed=1) for scenario in scenarios]
    places = [[[s.id for s in group].index(name) for name, _ in next(orders(group, 1))] for group in (scenarios, other)]
    assert places[0] != places[1]


def test_only_a_bare_adamw_is_the_baseline() -> None:
    assert baseline_of([SGD, ADAMW]) == ADAMW.id
    assert baseline_of([SGD, scenario_of("adamw:lr=0.5")]) is None


def test_the_null_is_the_baselines_second_window(queue: Queue, script: Script) -> None:
    """By the steps' own numbers: the warm-up takes 4, then the first window of a round has 1 step and so on."""
    script.costs["adamw"] = lambda number: Cost(optimizer=float(number))
    found = race([ADAMW], queue, (1,), queue.host_clock)[ADAMW.id]
    assert isinstance(found, Laps)
    (only,) = found.rounds
    numbers = {only.step - 3, (only.again or 0) - 3}
    start = found.warmup_steps
    assert numbers in ({start, start + 1 + PAPERS_STEPS}, {start, start + 1})


def test_heat_in_the_nulls_window_leaves_no_null(queue: Queue, script: Script) -> None:
    queue.weather = [Conditions(slowdowns=("heat",))] * 100
    (found,) = run(queue, ADAMW)
    assert [each.again for each in found.rounds] == [None, None]
    assert [each.slowdowns for each in found.rounds] == [("heat",)] * 2


def test_conditions_are_the_worst_of_both_ends(queue: Queue, script: Script) -> None:
    queue.weather = [Conditions(0, (), 100.0, 50, 1900), Conditions(2, ("power brake",), 100.0, 60, 1500)]
    (found,) = run(queue, SGD)
    first, second = found.rounds
    assert (first.others, first.slowdowns, first.celsius, first.sm_mhz) == (2, ("power brake",), 60, 1500)
    assert (second.others, second.slowdowns, second.celsius, second.sm_mhz) == (None, (), None, None)


def test_energy_is_the_counters_difference_over_a_window(queue: Queue, script: Script) -> None:
    queue.energy = [100.0, 130.0, 200.0, 250.0]
    (found,) = run(queue, SGD)
    assert [each.joules for each in found.rounds] == [30.0, 50.0]
    (found,) = run(queue, SGD)
    assert [each.joules for each in found.rounds] == [None, None]


@pytest.mark.parametrize("step", [0, 2, COMPARED_FROM + 3])
def test_an_entrant_without_memory_is_taken_out_and_the_others_go_on(queue: Queue, script: Script, step: int) -> None:
    """In the first step, in the warm-up, or in a round; what it held is given back."""
    script.fails["galore", step] = torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")
    adamw, galore, sgd = run(queue, ADAMW, GALORE, SGD)
    assert isinstance(galore, CellError)
    assert (galore.status, str(galore)) == ("oom", "CUDA out of memory. Tried to allocate 2 GiB")
    assert galore.__traceback__ is None and galore.__context__ is None, "they hold tensors"
    assert len(adamw.rounds) == len(sgd.rounds) == 2
    assert "reset" in queue.calls and script.log[-1] != "galore"


def test_whoever_comes_after_one_that_failed_fills_the_pool_again_untimed(
    queue: Queue, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was cached has been given back: each first step asks the driver for memory, which takes 100 s here."""
    cold: set[str] = set()

    def costs(name: str) -> Cost:
        waits = name in cold
        cold.discard(name)
        return Cost(optimizer=103 if waits else 3)

    script.costs |= {"adamw": lambda number: costs("adamw"), "sgd": lambda number: costs("sgd")}
    script.fails["galore", COMPARED_FROM + 3] = torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr(queue, "reset", lambda: cold.update(("adamw", "sgd")), raising=False)
    adamw, _, sgd = run(queue, ADAMW, GALORE, SGD, windows=(2, 2, 2))
    assert not cold and [each.seconds for each in adamw.rounds] == [each.seconds for each in sgd.rounds] == [12] * 3
    assert [each.again for each in adamw.rounds] == [6] * 3


def test_whose_window_makes_the_pool_grow_is_not_steady(
    queue: Queue, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver was asked for memory while the clock ran: in the windows of one entrant alone, long after warm-up."""
    script.costs["sgd"] = lambda number: Cost(optimizer=3) if held() or number < 6 else grow()
    blocks = [1]
    monkeypatch.setattr(queue, "reserved", lambda: blocks[0], raising=False)

    def held() -> bool:
        return blocks[0] > 1

    def grow() -> Cost:
        blocks[0] += 1
        return Cost(optimizer=3)

    adamw, sgd = run(queue, ADAMW, SGD, windows=(3, 3, 3))
    assert (adamw.steady, sgd.steady) == (True, False)


def test_a_baseline_that_fails_leaves_the_others(queue: Queue, script: Script) -> None:
    script.fails["adamw", COMPARED_FROM + 4] = RuntimeError("size mismatch")
    adamw, sgd = run(queue, ADAMW, SGD)
    assert isinstance(adamw, CellError) and adamw.status == "crashed" and isinstance(sgd, Laps)


def test_losses_are_of_the_same_steps_however_long_the_warm_up_took(queue: Queue, script: Script) -> None:
    """The script's loss is the step's number; the slower one to settle takes all the warm-up there is."""
    for costs in (always(Cost()), lambda number: Cost(optimizer=float(number + 1))):
        script.costs["sgd"] = costs
        (found,) = run(queue, SGD, windows=(2, 3))
        assert (found.loss_first, found.loss_last) == (COMPARED_FROM, COMPARED_FROM + 5 - 1)
    (found,) = run(queue, SGD, windows=(1,))
    assert (found.loss_first, found.loss_last) == (COMPARED_FROM, COMPARED_FROM + 1), "two steps, whatever there is"


def test_an_accumulated_loss_is_that_of_a_whole_micro_batch(queue: Queue, script: Script) -> None:
    """The loop divides the loss by the number of micro-batches."""
    (found,) = run(queue, dataclasses.replace(SGD, accumulation=4))
    assert found.loss_first == 4 * COMPARED_FROM


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_diverged_loss_is_none(queue: Queue, script: Script, monkeypatch: pytest.MonkeyPatch, loss: float) -> None:
    step = script.train_step
    monkeypatch.setattr("memprof.race.entrant.train_step", lambda *a: step(*a) * loss)
    (found,) = run(queue, SGD)
    assert (found.loss_first, found.loss_last) == (None, None)
