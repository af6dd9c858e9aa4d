"""A run traced from its first byte: held against a ledger in fresh books, and by its own sums."""

from __future__ import annotations

import pytest
import torch

from memprof.api import plan
from memprof.catalogue import METHODS
from memprof.device import Allocation, CpuDevice
from memprof.ledger import Ledger, Recorder
from memprof.scenario import Scenario
from memprof.step import prepare, request_refresh, train_step
from memprof.timeline import ACTIVATION, EXTRA, OPTIMIZER, OUTSIDE, REFRESH
from memprof.trace import booked_step, trace, watch

SCALAR = 8
"""bytes; a processor's kernels make Python numbers into 0-d tensors"""


def scenario_of(method: str) -> Scenario:
    (scenario,) = plan(["9m"], [method], num_layers=1, vocab_size=64, batch_size=2, seq_len=16)
    return scenario


@pytest.mark.parametrize("method", ["adamw", "galore", "galore:per_layer=true", "relora", "adamw-8bit", "q-galore"])
def test_books_that_go_on_say_what_fresh_ones_say(method: str) -> None:
    """The oracle knows nothing of what was before: it seeds model and optimizer when a step begins."""
    scenario = scenario_of(method)
    found = watch(scenario, Ledger)
    model, optimizer = prepare(scenario, torch.device("meta"))
    train_step(model, optimizer, scenario)
    fresh = booked_step(Ledger(model, optimizer, OPTIMIZER), scenario)
    assert (found.step.peak_instant.by_category, found.step.grad_bytes) == (fresh.at_peak, fresh.grad_bytes)
    assert found.step.peak_instant.extra_by_maker == fresh.peak_instant.extra_by_maker
    assert found.step.timeline.totals(found.step.end) == fresh.timeline.totals()
    if found.refresh is not None:
        request_refresh(optimizer)
        again = booked_step(Ledger(model, optimizer, REFRESH), scenario)
        assert found.refresh.at_peak == again.at_peak


@pytest.mark.parametrize("method", ["adamw", "galore", "lora", "low-rank", "grass", "mora"])
def test_building_takes_what_a_real_allocator_hands_out_and_in_its_order(method: str) -> None:
    """A processor's allocator is the oracle. Where a block lies, so what is reserved, hangs on all before it."""
    (scenario,) = plan(["9m"], [method], dtype="fp32", kernels="cpu", num_layers=2, vocab_size=64)
    with torch.random.fork_rng(devices=[]), Recorder("meta") as books:
        traced = prepare(scenario, torch.device("meta"))
    with CpuDevice().record() as recording:
        real = prepare(scenario, torch.device("cpu"))
    assert traced and real, "alive until both are read"
    nbytes = books.timeline.nbytes
    booked = [nbytes[event] if event >= 0 else -nbytes[~event] for event in books.timeline.events]
    seen = [event.nbytes for event in recording.events if isinstance(event, Allocation)]
    assert [size for size in booked if abs(size) > SCALAR] == [size for size in seen if abs(size) > SCALAR]


@pytest.mark.parametrize("method", METHODS)
def test_between_two_steps_every_byte_has_an_owner(method: str) -> None:
    """What a run leaves behind besides parameters, gradients and state would be a leak, or a state nobody found."""
    step = watch(scenario_of(method), Ledger).step
    for instant in (step.start, step.end):
        category = [step.timeline.category[block] for block in step.timeline.alive(instant)]
        assert not {EXTRA, ACTIVATION, OUTSIDE} & set(category)


@pytest.mark.parametrize("method", ["adamw", "galore", "galore:per_layer=true", "relora"])
def test_the_highest_phase_is_the_peaks(method: str) -> None:
    found = trace(scenario_of(method))
    ordinary = {phase: nbytes for phase, nbytes in found.phase_peaks.items() if phase != REFRESH}
    assert max(nbytes or 0 for nbytes in ordinary.values()) == found.peak == found.phase_peaks[found.peak_phase]
    refresh = found.phase_peaks[REFRESH]
    assert (refresh is None) == (found.refresh_peak is None)
    assert refresh is None or refresh <= (found.refresh_peak or 0)


@pytest.mark.parametrize("method", ["adamw", "galore", "relora"])
def test_the_pool_holds_the_peaks_tensors_and_what_no_dispatcher_sees(method: str) -> None:
    """Where the loss is the worst instant, no kernel's own scratch moves it: its tensors and cuBLAS's workspaces."""
    (scenario,) = plan(["9m"], [method], num_layers=1)
    found = trace(scenario)
    assert found.pool is not None and found.pool.broken() is None
    assert found.pool.requested == found.peak + sum(found.pool.workspaces.values())
    assert found.pool.workspaces == {"cuBLAS": 2 * 32 * 2**20}, "one a thread: forward's and backward's"
    assert found.reserved == found.pool.reserved >= found.pool.allocated >= found.pool.requested


def test_the_pools_worst_instant_is_of_the_ordinary_step_where_a_refresh_takes_more() -> None:
    """As the trace's peak beside it is. What is reserved is the whole run's."""
    (scenario,) = plan(["9m"], ["galore"], num_layers=1, vocab_size=64, batch_size=1, seq_len=8)
    found = trace(scenario)
    assert found.refresh_peak is not None and found.refresh_peak > found.peak
    assert found.pool is not None
    assert found.pool.requested == found.peak + sum(found.pool.workspaces.values())


def test_a_processors_allocator_holds_nothing_back() -> None:
    (scenario,) = plan(["9m"], ["adamw"], kernels="cpu", num_layers=1, vocab_size=64, batch_size=2, seq_len=16)
    assert (trace(scenario).pool, trace(scenario).reserved) == (None, None)
