"""Timelines against sums by hand, and against a second way of adding up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memprof.timeline import CATEGORIES, OUTSIDE, Timeline


def filled() -> Timeline:
    """weight 100 | forward: kept 10, scratch 5 gone | backward: gradient 100, scratch 7 gone | optimizer: scratch 2."""
    timeline = Timeline()
    weight = timeline.allocate(100, "param")
    timeline.mark("forward")
    kept, scratch = timeline.allocate(10, "aten::mm"), timeline.allocate(5, "aten::mul")
    timeline.free(scratch)
    timeline.mark("backward")
    gradient, passing = timeline.allocate(100, "aten::mm"), timeline.allocate(7, "aten::add")
    timeline.free(passing)
    timeline.free(kept)
    timeline.mark("optimizer")
    timeline.free(timeline.allocate(2, "aten::sqrt"))
    timeline.free(gradient)
    timeline.label([weight], "param")
    timeline.label([gradient], "grad")
    timeline.label_activations()
    return timeline


def test_peak_by_hand() -> None:
    peak = filled().peak()
    assert (peak.nbytes, peak.phase) == (217, "backward")
    assert peak.by_category == {"param": 100, "grad": 100, "optimizer_state": 0, "activation": 10, "extra": 7}
    assert peak.extra_by_maker == {"aten::add": 7}
    assert peak.extra_largest == "aten::add (7 B)"
    assert filled().bytes_alive() == [100, 110, 115, 110, 210, 217, 210, 200, 202, 200, 100]


def test_peak_of_a_window_starts_from_what_was_alive() -> None:
    timeline = filled()
    assert [timeline.peak(8).nbytes, timeline.peak(8).phase] == [202, "optimizer"]
    assert timeline.peak(0, 4).nbytes == 115
    assert timeline.peak(11).nbytes == 100


def test_phase_peaks_by_hand() -> None:
    """A phase begins with what was alive at its border: 110 bytes before backward, 200 before the optimizer."""
    timeline = filled()
    assert timeline.phase_peaks() == {"forward": 115, "backward": 217, "optimizer": 202}
    assert timeline.phase_peaks(5) == {"backward": 217, "optimizer": 202}
    assert timeline.phase_peaks(7, 8) == {"backward": 210}
    assert timeline.phase_peaks(0, 4) == {"forward": 115}


def test_a_phase_that_comes_again_keeps_its_highest() -> None:
    """Micro-batches: forward, backward, forward, backward."""
    timeline = Timeline()
    for kept, passing in ((3, 10), (4, 2)):
        timeline.mark("forward")
        timeline.allocate(kept, "a")
        timeline.mark("backward")
        timeline.free(timeline.allocate(passing, "b"))
    assert timeline.phase_peaks() == {"forward": 7, "backward": 13}
    assert Timeline().phase_peaks() == {"forward": 0}


def test_of_two_equal_peaks_the_first_counts() -> None:
    timeline = Timeline()
    timeline.mark("forward")
    timeline.free(timeline.allocate(5, "a"))
    timeline.mark("backward")
    timeline.free(timeline.allocate(5, "b"))
    assert (timeline.peak().phase, timeline.peak().extra_largest) == ("forward", "a (5 B)")


def test_nothing_happened() -> None:
    peak = Timeline().peak()
    assert (peak.nbytes, peak.extra_largest) == (0, "")
    assert tuple(peak.by_category) == CATEGORIES
    assert Timeline().activation() == 0


def test_activation_is_what_the_last_forward_left() -> None:
    timeline = filled()
    assert timeline.activation() == 10
    second = Timeline()
    for kept in (3, 4):
        second.mark("forward")
        block = second.allocate(kept, "x")
        second.mark("backward")
        second.free(block)
    second.label_activations()
    assert (second.activation(), second.activation(before=1)) == (4, 3)


def test_a_stronger_owner_stays() -> None:
    timeline = Timeline()
    block = timeline.allocate(8, "x")
    for category, owner in [("activation", "activation"), ("extra", "activation"), ("grad", "grad"),
                            ("optimizer_state", "grad"), ("param", "param"), ("grad", "param"),
                            (OUTSIDE, OUTSIDE), ("param", OUTSIDE)]:  # fmt: skip
        timeline.label([block], category)
        assert timeline.category[block] == owner


def test_what_was_there_before_is_never_counted() -> None:
    timeline = filled()
    timeline.label([timeline.allocate(10**9, OUTSIDE)], OUTSIDE)
    assert timeline.peak().nbytes == 217
    assert sum(timeline.totals().values()) == 100


sizes = st.lists(st.tuples(st.integers(0, 10**12), st.sampled_from(CATEGORIES), st.integers(0, 5)), max_size=30)


@given(sizes)
def test_categories_always_sum_to_the_peak(blocks: list[tuple[int, str, int]]) -> None:
    """Blocks of any sizes and owners, each freed some events later: peak and totals against a plain simulation."""
    timeline = Timeline()
    alive: dict[int, int] = {}
    due: dict[int, list[int]] = {}
    worst = 0
    for turn, (nbytes, category, life) in enumerate(blocks):
        for block in due.pop(turn, []):
            timeline.free(block)
            alive.pop(block)
        block = timeline.allocate(nbytes, "x")
        timeline.label([block], category)
        alive[block] = nbytes
        due.setdefault(turn + life + 1, []).append(block)
        worst = max(worst, sum(alive.values()))
    peak = timeline.peak()
    assert peak.nbytes == worst == sum(peak.by_category.values())
    assert timeline.alive() == list(alive)
    assert sum(timeline.totals().values()) == sum(alive.values()) == (timeline.bytes_alive() or [0])[-1]
