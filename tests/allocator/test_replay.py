"""Streams of allocations through the allocator's rules: by hand, against a trace, against a real GPU's own counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache

import pytest

from memprof.allocator import AllocatorSettings, CachingAllocator, OutOfCapacityError, replay, simulate
from memprof.allocator.settings import MIB
from memprof.allocator.workspaces import Workspaces
from memprof.catalogue import get_method
from memprof.device.contract import Allocation
from memprof.ledger import Ledger
from memprof.scenario import Scenario
from memprof.shapes import get_shape
from memprof.timeline import BACKWARD, FORWARD, OPTIMIZER, OUTSIDE, Timeline
from memprof.trace import watch

EVENTS: list[Allocation | int] = [
    Allocation(1, 15 * MIB),
    0,
    Allocation(2, 5 * MIB),
    Allocation(1, -15 * MIB),
    1,
    Allocation(1, 6 * MIB + 100),
    Allocation(3, 0),
    Allocation(2, -5 * MIB),
]
"""The first gets its segment of 16 MiB whole, the second 5 of 20 MiB, the third 6 MiB and 512 B of what they left"""


def test_a_replay_by_hand() -> None:
    seen = replay(EVENTS)
    assert (seen.allocated, seen.requested, seen.rounding) == (21 * MIB, 20 * MIB, MIB)
    assert (seen.reserved, seen.fragmentation, seen.cached) == (36 * MIB, 15 * MIB, 0)
    assert (seen.end, seen.retries) == (3, 0)


LOW, HIGH = 2**40, 2**41


@pytest.mark.parametrize(("first", "second", "reserved"), [(HIGH, LOW, 38), (LOW, HIGH, 58)])
def test_of_two_free_blocks_of_one_size_the_one_that_lay_lower_is_taken(first: int, second: int, reserved: int) -> None:
    """The driver may put a later segment below an earlier one. 18 MiB are free in a segment of 20 and in one of 18:
    where the smaller segment lies lower it is filled, and the other one has 20 MiB when its first block is freed."""
    low = min(first + 2 * MIB, second)
    events: list[Allocation | int] = [
        Allocation(first, 2 * MIB),
        Allocation(first + 2 * MIB, 18 * MIB),
        Allocation(second, 18 * MIB),
        Allocation(first + 2 * MIB, -18 * MIB),
        Allocation(second, -18 * MIB),
        Allocation(low, 18 * MIB),
        Allocation(first, -2 * MIB),
        Allocation(first if low == second else 3 * HIGH, 20 * MIB),
    ]
    assert replay(events).reserved == reserved * MIB


def test_a_window_starts_from_what_was_handed_out_before() -> None:
    after = replay(EVENTS, start=5)
    assert (after.allocated, after.requested, after.end) == (11 * MIB + 512, 11 * MIB + 100, 6)
    assert (after.reserved, after.fragmentation, after.cached) == (36 * MIB, 9 * MIB - 512, 16 * MIB)
    assert replay(EVENTS, start=4, stop=5).allocated == 5 * MIB
    assert replay(EVENTS, start=8).allocated == 6 * MIB + 512, "the end"
    assert replay(EVENTS, stop=1).allocated == 16 * MIB


def test_segments_taken_after_the_worst_instant_are_cached_in_its_sum() -> None:
    events: list[Allocation | int] = [
        Allocation(1, 20 * MIB),
        Allocation(1, -20 * MIB),
        Allocation(2, 512),
        Allocation(3, 10 * MIB),
    ]
    seen = replay(events)
    assert (seen.allocated, seen.reserved, seen.cached, seen.fragmentation) == (20 * MIB, 22 * MIB, 2 * MIB, 0)


def test_what_was_there_before_a_recording_is_allocated_first() -> None:
    """Freed without having been handed out, or named by the caller; a number is only an address."""
    events = [Allocation(7, -30 * MIB), Allocation(5, -512), Allocation(9, 30 * MIB)]
    assert (replay(events).allocated, replay(events).reserved) == (30 * MIB + 512, 32 * MIB)
    kept = replay(events, before=[Allocation(3, 12 * MIB)])
    assert (kept.allocated, kept.reserved) == (42 * MIB + 512, 44 * MIB)


def test_an_address_handed_out_twice_was_taken_back_unseen() -> None:
    assert replay([Allocation(1, 4 * MIB), Allocation(1, 8 * MIB)]).allocated == 8 * MIB


def test_a_stream_keeps_its_blocks() -> None:
    events = [Allocation(1, 20 * MIB, "", 1), Allocation(1, -20 * MIB, "", 1), Allocation(2, 20 * MIB, "", 2)]
    assert replay(events).reserved == 40 * MIB


def test_a_replay_on_a_full_device() -> None:
    assert replay(
        [Allocation(1, 20 * MIB), Allocation(1, -20 * MIB), Allocation(2, 30 * MIB)], capacity=40 * MIB
    ).retries
    with pytest.raises(OutOfCapacityError, match="use a smaller batch"):
        replay(EVENTS, capacity=20 * MIB)


def test_nothing_replayed_is_nothing() -> None:
    assert (replay([]).allocated, replay([]).reserved, replay([0]).end) == (0, 0, 0)


def worked() -> Timeline:
    """A weight, a product kept and a temporary; the product given back in backward, a gradient and a moment made."""
    timeline = Timeline()
    weight = timeline.allocate(30 * MIB, "param")
    timeline.mark(FORWARD)
    timeline.allocate(0, "aten::empty")
    kept, passing = timeline.allocate(6 * MIB, "aten::mm"), timeline.allocate(700, "aten::mul")
    timeline.free(passing)
    timeline.mark(BACKWARD)
    timeline.allocate(30 * MIB, "aten::mm")
    timeline.free(kept)
    timeline.mark(OPTIMIZER)
    timeline.allocate(12 * MIB, "aten::zeros")
    timeline.label([weight], OUTSIDE)
    return timeline


def test_a_simulation_by_hand() -> None:
    """The moment makes the worst instant: 12 of the 20 MiB that the product left. OUTSIDE counts like the rest."""
    pool = simulate(worked())
    assert (pool.allocated, pool.requested, pool.workspaces) == (72 * MIB, 72 * MIB, {})
    assert (pool.reserved, pool.fragmentation, pool.cached) == (82 * MIB, 8 * MIB, 2 * MIB)
    assert pool.reserved_expandable == 82 * MIB, "4 pages of 20 MiB for 30 + 6 + 30 + 12, one of 2 for the temporary"
    assert pool.broken() is None


def test_a_simulation_with_workspaces_by_hand() -> None:
    """cuBLAS takes 32 MiB behind the first product, and again behind the first product of autograd's thread."""
    pool = simulate(worked(), workspaces=Workspaces())
    assert (pool.allocated, pool.workspaces) == (136 * MIB, {"cuBLAS": 64 * MIB})
    assert (pool.reserved, pool.cached) == (146 * MIB, 2 * MIB)
    forward = simulate(worked(), workspaces=Workspaces(), start=1, stop=5)
    assert (forward.allocated, forward.requested, forward.reserved) == (68 * MIB + 1024, 68 * MIB + 700, 146 * MIB)
    assert forward.workspaces == {"cuBLAS": 32 * MIB}


@cache
def traced() -> tuple[Timeline, int]:
    """One forward and backward of 60M, 48 x 256, without optimizer state, and its peak."""
    scenario = Scenario(
        model="60m", shape=get_shape("60m"), method=get_method("sgd"), batch_size=48, seq_len=256, dtype="bf16"
    )
    whole = watch(scenario, Ledger).step.timeline
    stop = next(begin for begin, phase in whole.phases if phase == OPTIMIZER)
    return Timeline(whole.nbytes, whole.maker, whole.category, whole.events[:stop], whole.phases), stop


def test_a_trace_asks_for_what_its_ledger_counts() -> None:
    timeline, _ = traced()
    pool = simulate(timeline)
    assert pool.requested == timeline.peak().nbytes < pool.allocated < pool.reserved
    assert pool.broken() is None


def test_an_earlier_simulation_of_the_same_step_said_the_same() -> None:
    """Another program, another order of events: 6,440 MiB allocated and 7,318 reserved (measuring.md, section 3.3)."""
    pool = simulate(traced()[0])
    assert round(pool.allocated / MIB) == 6440
    assert pool.reserved / MIB == pytest.approx(7318, rel=0.01)


def test_the_engine_itself_can_be_driven() -> None:
    allocator = CachingAllocator(AllocatorSettings(expandable_segments=True))
    block = allocator.malloc(100)
    allocator.free(block)
    assert (allocator.allocated, allocator.reserved, allocator.cached) == (0, 2 * MIB, 2 * MIB)


RECORDED = """
import json, torch
from memprof import build_model, get_method

torch.cuda.memory._record_memory_history("all", context=None, max_entries=1_000_000)
model = build_model("20m", dtype=torch.bfloat16, device="cuda")
optimizer = get_method("adamw").prepare(model)
for _ in range(3):
    ids = torch.randint(32_000, (16, 256), device="cuda")
    model(ids, ids).backward()
    optimizer.step()
    optimizer.zero_grad()
told = torch.cuda.memory._snapshot()
kept = [[e["action"], e["addr"], e["size"], e["stream"]] for e in told["device_traces"][0] if "addr" in e]
peaks = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
print(json.dumps([kept, told["allocator_settings"], *peaks]))
"""


@pytest.mark.gpu
@pytest.mark.parametrize(
    "configuration", ["", "expandable_segments:True", "max_split_size_mb:32", "roundup_power2_divisions:4"]
)
def test_a_real_history_replayed_gives_the_real_peaks(configuration: str) -> None:
    """A process of its own, recorded from its first allocation: allocated and reserved to the byte."""
    told = subprocess.run(
        [sys.executable, "-c", RECORDED],
        env=os.environ | ({"PYTORCH_ALLOC_CONF": configuration} if configuration else {}),
        capture_output=True,
        text=True,
        check=True,
    )
    history, settings, allocated, reserved = json.loads(told.stdout)
    sign = {"alloc": 1, "free_completed": -1}
    events = [Allocation(at, sign[what] * size, "", on) for what, at, size, on in history if what in sign]
    seen = replay(events, AllocatorSettings.of(settings))
    assert (seen.allocated, seen.reserved) == (allocated, reserved)
