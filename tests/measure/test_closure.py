"""A GPU's sums against blocks, owners and instants worked out by hand, and closed whatever happened.

The allocator's rules have tests of their own; here every block is small, so each is rounded up to a multiple of 512.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.allocator import replay as replay_by_rules
from memprof.api import plan
from memprof.device import Allocation, Recording, Usage, get_device
from memprof.device.allocator_history import history_events
from memprof.evidence import Closure
from memprof.measure.closure import ROUNDING, UNATTRIBUTED, WorstInstant, close
from memprof.measure.memory import measure_memory
from memprof.measure.watch import END as STEP_END
from memprof.measure.watch import KEPT, Mark, StepSeen, Watched, replay, watch_memory
from memprof.reading import read
from memprof.timeline import ACTIVATION, BACKWARD, EXTRA, FORWARD, GRAD, OPTIMIZER, OPTIMIZER_STATE, PARAM
from tests.device.histories import END, HISTORY, MARKS, G, S, W

MIB = 2**20
OWNED = {PARAM: {W}, GRAD: set[int](), OPTIMIZER_STATE: {S}}
AT_MARKS = [Mark(FORWARD, OWNED), Mark(BACKWARD, OWNED), Mark(OPTIMIZER, OWNED | {GRAD: {G}}), Mark(STEP_END, OWNED)]


def watched_of(events: list[Allocation | int], marks: list[Mark]) -> Watched:
    """A recording whose only marked step is the ordinary one."""
    recording = Recording(events, settings={"expandable_segments": False})
    timeline, positions = replay(recording, marks)
    seen = StepSeen(
        replayed=timeline.peak(positions[0], positions[-1]),
        counted=0,
        grad=0,
        activation=0,
        after=timeline.totals(positions[-1]),
        marks=(0, len(marks) - 1),
    )
    return Watched(seen, None, timeline, recording, tuple(mark.phase for mark in marks))


@pytest.fixture
def by_hand() -> WorstInstant:
    return WorstInstant.of(watched_of(history_events(HISTORY, MARKS, END), AT_MARKS), counted=5_700)


def test_the_worst_instant_is_the_one_with_the_most_in_whole_blocks(by_hand: WorstInstant) -> None:
    """In backward 1000, 2000, 500, 300, 1000 and 60 bytes stand in blocks of 5,632; in the optimizer 5,200 do in as
    many, later. What was asked for alone would be most there."""
    assert by_hand.rules.allocated == 1024 + 2048 + 512 + 512 + 1024 + 512 == 5_632
    assert (by_hand.alive.nbytes, by_hand.alive.phase) == (4_860, BACKWARD)
    assert by_hand.rules.rounding == 5_632 - 4_860


def test_every_line_by_hand(by_hand: WorstInstant) -> None:
    """One segment of 2 MiB in which the rest is free, and one of 2 MiB that was taken at another instant."""
    found = close(by_hand, Usage(10 * MIB), reserved=4 * MIB)
    assert dataclasses.asdict(found) == {
        "device": 10 * MIB,
        "device_reason": None,
        "context": 6 * MIB,
        "reserved": 4 * MIB,
        "cached": 4 * MIB - (2 * MIB - 5_632) - 5_700,
        "fragmentation": 2 * MIB - 5_632,
        "allocated": 5_700,
        "param": 1000,
        "grad": 1000,
        "optimizer_state": 2000,
        "activation": 300,
        "temporaries": 60,
        "workspaces": 500,
        "rounding": 772,
        "unattributed": 5_700 - 5_632,
        "replayed_reserved": 2 * MIB,
        "events": sum(END),
    }
    assert found.broken() is None


def test_what_the_events_have_beyond_the_count_is_below_zero_and_shown() -> None:
    worst = WorstInstant.of(watched_of(history_events(HISTORY, MARKS, END), AT_MARKS), counted=5_600)
    assert close(worst, Usage(None, "nobody says"), 2 * MIB).unattributed == -32
    assert worst.extra_by_maker == {ROUNDING: 772, KEPT: 500, "backward kernels": 60, UNATTRIBUTED: -32}
    assert sum(worst.extra_by_maker.values()) == worst.by_category[EXTRA]
    assert worst.by_category == {PARAM: 1000, GRAD: 1000, OPTIMIZER_STATE: 2000, ACTIVATION: 300, EXTRA: 1300}


def test_where_the_driver_does_not_say_the_reason_is_kept(by_hand: WorstInstant) -> None:
    found = close(by_hand, Usage(None, "nobody says"), reserved=2 * MIB)
    assert (found.device, found.context, found.device_reason) == (None, None, "nobody says")
    assert found.broken() is None


def test_a_step_whose_worst_instant_is_its_beginning_is_told_apart_from_the_one_before_it() -> None:
    """Two blocks of 2 MiB stood in the step before, one of them at the end of it; the second takes nothing more."""
    events: list[Allocation | int] = [
        0,
        Allocation(W, 2 * MIB),
        Allocation(G, 2 * MIB),
        Allocation(G, -2 * MIB),
        1,
        2,
        Allocation(W, -2 * MIB),
        3,
    ]
    marks = [Mark(phase, OWNED) for phase in (OPTIMIZER, STEP_END, FORWARD, STEP_END)]
    watched = watched_of(events, marks)
    second = dataclasses.replace(watched.ordinary, marks=(2, 3))
    found = WorstInstant.of(dataclasses.replace(watched, ordinary=second), counted=2 * MIB)
    assert (found.alive.nbytes, found.alive.phase, found.unattributed) == (2 * MIB, FORWARD, 0)


def test_the_rules_are_those_that_the_allocator_said_it_follows() -> None:
    """A block of 30 MiB has a segment of its own, or two expandable pages of 20 MiB."""
    watched = watched_of([0, Allocation(W, 30 * MIB), 1], [Mark(FORWARD, OWNED), Mark(STEP_END, OWNED)])
    watched.recording.settings["expandable_segments"] = True
    assert WorstInstant.of(watched, counted=30 * MIB).rules.reserved == 40 * MIB


def test_blocks_of_no_bytes_are_passed_over_by_all_who_read_a_recording(by_hand: WorstInstant) -> None:
    """At an address of their own and at one where a block lives."""
    none: list[Allocation | int] = [Allocation(address, 0) for address in (99, W)]
    events = [new for event in history_events(HISTORY, MARKS, END) for new in (*none, event)]
    found = WorstInstant.of(watched_of(events, AT_MARKS), counted=5_700)
    assert (found.alive.by_category, found.unattributed) == (by_hand.alive.by_category, by_hand.unattributed)


moves = st.lists(st.tuples(st.integers(1, 3 * MIB), st.integers(0, 6)), min_size=1, max_size=25)


@given(moves, st.integers(0, 2**26), st.lists(st.integers(0, 25), min_size=3, max_size=3))
def test_the_three_sums_close_whatever_happened(steps: list[tuple[int, int]], beyond: int, borders: list[int]) -> None:
    """Any blocks freed at any time, marks anywhere, any count by the allocator: read back, a closure is not broken."""
    events: list[Allocation | int] = []
    due: dict[int, list[tuple[int, int]]] = {}
    for turn, (nbytes, life) in enumerate(steps):
        events += [Allocation(address, -size) for address, size in due.pop(turn, [])]
        events.append(Allocation(turn * 2**22, nbytes))
        due.setdefault(turn + life + 1, []).append((turn * 2**22, nbytes))
    places = [0, *sorted(min(border, len(events)) for border in borders)]
    for number, place in reversed(list(enumerate(places))):
        events.insert(place, number)
    marks = [Mark(phase, {PARAM: {0}}) for phase in (FORWARD, BACKWARD, OPTIMIZER, STEP_END)]
    watched = watched_of(events, marks)
    by_rules = replay_by_rules(events)
    worst = WorstInstant.of(watched, counted=by_rules.allocated + beyond)
    found = close(worst, Usage(2**40), by_rules.reserved)
    assert read(Closure, dataclasses.asdict(found)) == found
    assert found.allocated == sum(worst.by_category.values()) and found.replayed_reserved == found.reserved
    assert sum(worst.extra_by_maker.values()) == worst.by_category[EXTRA]


def test_a_whole_measurement_on_a_device_like_a_gpu(fake_device: Callable[..., Any]) -> None:
    """Real steps of a processor under the rules of a GPU's allocator: what it counts is explained to the byte."""
    (scenario,) = plan(["9m"], ["adamw"], dtype="fp32", kernels="cpu", num_layers=1, vocab_size=64, batch_size=2,
                       seq_len=16)  # fmt: skip
    first = measure_memory(scenario, fake_device(kind="cuda", process=2**40, held=2**32, allocated=2**31))
    assert first.closure is not None
    assert first.residual == first.closure.unattributed > 0
    exact = first.closure.allocated - first.closure.unattributed
    found = measure_memory(scenario, fake_device(kind="cuda", process=2**40, held=2**32, allocated=exact))
    closure = found.closure
    assert closure is not None and closure.broken() is None
    assert (found.residual, closure.unattributed, found.peak) == (0, 0, exact)
    assert (found.device, found.context, found.reserved) == (2**40, 2**40 - 2**32, 2**32)
    assert found.peak_by_category[PARAM] == closure.param == found.param
    extra = closure.temporaries + closure.workspaces + closure.rounding
    assert found.extra == found.peak_by_category[EXTRA] == extra == sum(found.extra_by_maker.values())


def test_driver_and_allocator_are_asked_when_the_recorded_run_is_over(
    fake_device: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both grow with the first kernels and the model; a reading from before it would take the growth from the sum."""
    (scenario,) = plan(["9m"], ["adamw"], dtype="fp32", kernels="cpu", num_layers=1, vocab_size=64, batch_size=1,
                       seq_len=8)  # fmt: skip
    device = fake_device(kind="cuda", allocated=2**31)

    def watched(*asked: Any) -> Watched:
        device.process, device.held = 2**40, 2**32
        return watch_memory(*asked)

    monkeypatch.setattr("memprof.measure.memory.watch_memory", watched)
    found = measure_memory(scenario, device)
    assert (found.device, found.reserved, found.context) == (2**40, 2**32, 2**40 - 2**32)


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["adamw", "galore", "q-galore"])
def test_a_real_step_closes_and_its_pool_is_replayed(method: str) -> None:
    (scenario,) = plan(["60m"], [method], dtype="bf16", device="cuda", batch_size=2, seq_len=64)
    closure = measure_memory(scenario, get_device("cuda")).closure
    assert closure is not None and closure.broken() is None
    assert closure.unattributed == 0
    assert closure.replayed_reserved == closure.reserved
