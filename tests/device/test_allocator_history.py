"""The allocator's history against events and places written out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.device import Allocation
from memprof.device.allocator_history import Counts, history_events, maker_of
from memprof.errors import UnsupportedError
from tests.device.histories import CUBLAS, END, GALORE, HISTORY, MARKS, OLD, A, G, S, T, W, alloc, counts, frame, free


def allocations(events: list[Allocation | int]) -> list[Allocation]:
    return [event for event in events if isinstance(event, Allocation)]


def test_history_keeps_allocations_and_requested_frees_alone() -> None:
    """As the allocator counts its allocated bytes, which fall when a block is given back."""
    events = allocations(history_events(HISTORY, [], END))
    assert len(events) == sum(END)
    assert events[:4] == [Allocation(W, 1000), Allocation(S, 2000), Allocation(CUBLAS, 500), Allocation(OLD, -4096)]


def test_marks_stand_between_what_was_counted_before_and_after_them() -> None:
    events = history_events(HISTORY, MARKS, END)
    places = [events.index(mark) for mark in range(4)]
    around = [(events[place - 1], events[place + 1]) for place in places[:3]]
    assert around == [
        (Allocation(OLD, -4096), Allocation(A, 300)),
        (Allocation(T, -40), Allocation(G, 1000)),
        (Allocation(T, -60), Allocation(A, 700, "methods/galore.py:120")),
    ]
    assert places[-1] == len(events) - 1


def test_a_block_that_waits_for_another_stream_is_given_back_when_that_is_requested() -> None:
    """Its free completes at a later allocation; a mark between the two stands after the request."""
    requested, completed = free(A, 8)
    history = [alloc(A, 8), requested, completed | {"stream": 7}, alloc(G, 16) | {"stream": 7}]
    assert history_events(history, [Counts(1, 1)], Counts(2, 1)) == [
        Allocation(A, 8),
        Allocation(A, -8),
        0,
        Allocation(G, 16, "", 7),
    ]


def test_marks_at_one_place_and_without_any_history() -> None:
    assert history_events([], [Counts(), Counts()], Counts()) == [0, 1]
    events = history_events([alloc(W, 8)], [Counts(), Counts(), Counts(1, 0)], Counts(1, 0))
    assert events == [0, 1, Allocation(W, 8), 2]


@pytest.mark.parametrize(
    ("marks", "end"),
    [([], Counts(2, 0)), ([], Counts(0, 0)), ([Counts(2, 0)], Counts(1, 0)), ([Counts(0, 1)], Counts(1, 0))],
    ids=["lost entries", "counters set back", "a mark beyond the end", "a mark that never was"],
)
def test_a_history_that_does_not_fit_its_counts_is_refused(marks: list[Counts], end: Counts) -> None:
    with pytest.raises(UnsupportedError, match="history has 1 allocations and 0 frees, its counters say"):
        history_events([alloc(W, 8)], marks, end)


@given(st.lists(st.sampled_from(["alloc", "free", "segment_alloc", "snapshot", "mark"]), max_size=40))
def test_marks_come_out_where_they_went_in(plan: list[str]) -> None:
    """Against a second way: each event and mark written down as it happens."""
    history: list[dict[str, Any]] = []
    marks: list[Counts] = []
    happened: list[Allocation | int] = []
    for turn, what in enumerate(plan, 1):
        if what == "mark":
            happened.append(len(marks))
            marks.append(counts(history))
        elif what == "free":
            history += free(turn, turn)
            happened.append(Allocation(turn, -turn))
        else:
            history.append(alloc(turn, turn) | {"action": what})
            happened += [Allocation(turn, turn)] if what == "alloc" else []
    assert history_events(history, marks, counts(history)) == happened


OPS, ADAM = "/site/torch/_ops.py", "/site/torch/optim/adam.py"


@pytest.mark.parametrize(
    ("frames", "maker"),
    [
        ([(OPS, 1), (GALORE, 120), (ADAM, 5)], "methods/galore.py:120"),
        ([(ADAM, 5), (GALORE, 120)], "torch/optim/adam.py:5"),
        ([("/x/memprof/methods/parts/projector.py", 3)], "methods/parts/projector.py:3"),
        ([("/x/memprof/llama.py", 3), ("/x/methods/mine.py", 4)], ""),
        ([], ""),
    ],
)
def test_the_innermost_line_of_a_method_or_optimizer_is_the_maker(frames: list[tuple[str, int]], maker: str) -> None:
    assert maker_of(alloc(A, 8, *(frame(*place) for place in frames))) == maker


def test_an_entry_without_frames_has_no_maker() -> None:
    bare = alloc(A, 8)
    del bare["frames"]
    assert maker_of(bare) == maker_of(bare | {"frames": None}) == ""
