"""Timelines reduced: against the trace's own figures to the byte, and against every instant of the whole timeline."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memprof.api import plan
from memprof.history import history
from memprof.ledger import Ledger
from memprof.record import History, Trace
from memprof.schema import MAX_INSTANTS
from memprof.timeline import CATEGORIES, Timeline
from memprof.trace import trace


def traced(method: str, **fields: Any) -> tuple[Trace, History]:
    found = trace(plan(["9m"], [method], **fields)[0])
    assert found.timeline is not None
    return found, found.timeline


@pytest.mark.parametrize("method", ["adamw", "galore", "galore:per_layer=true", "relora", "adamw-8bit", "muon"])
def test_highest_and_last_instant_are_the_traces_figures(method: str) -> None:
    found, kept = traced(method)
    assert len(kept.event) <= MAX_INSTANTS < kept.events
    worst = kept.total.index(max(kept.total))
    assert {name: getattr(kept, name)[worst] for name in CATEGORIES} == found.peak_by_category
    assert kept.phase[worst] == found.peak_phase
    assert kept.total[-1] == found.steady
    assert (kept.event[0], kept.event[-1]) == (0, kept.events)
    assert list(dict.fromkeys(kept.phase)) == ["forward", "backward", "optimizer"]


def test_the_forward_ends_with_the_activations_and_the_backward_with_the_gradients() -> None:
    found, kept = traced("adamw")
    ends = [index for index, phase in enumerate(kept.phase[1:]) if phase != kept.phase[index]]
    assert kept.activation[ends[0]] == found.activation
    assert kept.grad[ends[1]] == found.grad


def test_a_step_of_more_phases_than_instants_is_still_bounded() -> None:
    found, kept = traced("adamw", accumulation=100, num_layers=1, seq_len=8)
    assert len(kept.event) <= MAX_INSTANTS
    assert (max(kept.total), kept.total[-1]) == (found.peak, found.steady)


def watched(*sizes: int) -> Timeline:
    """Sizes as they come and, negative, as they go: -5 frees the oldest block of 5 bytes."""
    timeline = Timeline()
    there: dict[int, list[int]] = {}
    for size in sizes:
        if size > 0:
            there.setdefault(size, []).append(timeline.allocate(size, "x"))
        else:
            timeline.free(there[-size].pop(0))
    return timeline


def test_both_ends_of_each_phase_are_kept() -> None:
    """The instant at which one gives way, and the first of the next, in a step of more events than are kept."""
    timeline, begins = Timeline(), []
    for phase in ("forward", "backward", "optimizer"):
        begins.append(len(timeline.events))
        timeline.mark(phase)
        for size in range(1, 500):
            timeline.allocate(size, "x")
    kept = history(timeline)
    assert {instant for begin in begins for instant in (begin, begin + 1)} <= set(kept.event)


def test_a_short_step_is_kept_whole() -> None:
    timeline = watched(3, 5, -3, 7, -5)
    assert history(timeline).total == [0, *timeline.bytes_alive()]
    assert history(timeline).event == (0, 1, 2, 3, 4, 5)


def test_a_watch_that_begins_later_starts_with_what_was_there() -> None:
    kept = history(watched(3, 5, -3, 7), start=2)
    assert (kept.total, kept.event, kept.events) == ([8, 5, 12], (0, 1, 2), 2)


def test_nothing_happened() -> None:
    kept = history(Timeline())
    assert (kept.total, kept.event, kept.phase) == ([0], (0,), ("forward",))


@given(st.lists(st.integers(1, 10**9), min_size=40, max_size=120), st.integers(12, 40))
def test_each_stretch_keeps_its_lowest_and_highest(sizes: list[int], most: int) -> None:
    """Blocks come in order, each third one goes: every stretch of the whole curve has its extremes among the kept."""
    timeline = Timeline()
    for turn, size in enumerate(sizes):
        block = timeline.allocate(size, "x")
        if turn % 3 == 0:
            timeline.free(block)
    whole, kept = [0, *timeline.bytes_alive()], history(timeline, most=most)
    assert len(kept.event) <= most and len(set(kept.event)) == len(kept.event)
    assert [whole[event] for event in kept.event] == kept.total
    wide = 2 * len(whole) // ((most - 3) // 2) + 2
    for begin in range(0, len(whole) - wide):
        stretch = range(begin, begin + wide)
        inside = [total for event, total in zip(kept.event, kept.total, strict=True) if event in stretch]
        middle = whole[begin + wide // 2]
        assert min(inside) <= middle <= max(inside)


def test_what_a_ledger_saw_of_somebody_elses_step_can_be_reduced() -> None:
    model = torch.nn.Linear(4, 4)
    with Ledger(model) as ledger:
        model(torch.ones(2, 4)).sum().backward()
    kept = history(ledger.timeline, ledger.start)
    assert max(kept.total) == ledger.peak
