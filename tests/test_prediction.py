"""Prediction against measurement, on records whose errors can be had by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from memprof.errors import NothingToDoError
from memprof.prediction import PAIRS, RESERVED, TRACE_PEAK, Prediction, predict
from memprof.record import Closure, Formula, Measured, Pool, Record, Trace

NONE: dict[str, Any] = {"param": 0, "grad": 0, "optimizer_state": 0, "activation": 0}


def memory(peak: int, **states: int) -> dict[str, Any]:
    at_peak = NONE | {"extra": peak}
    return (
        NONE | states | {"extra": peak, "peak": peak, "peak_phase": "forward", "peak_by_category": at_peak, "steady": 0}
    )


def pool(allocated: int, reserved: int) -> Pool:
    return Pool(
        allocated=allocated, requested=allocated, reserved=reserved, fragmentation=0, cached=reserved - allocated,
        reserved_expandable=reserved,
    )  # fmt: skip


def closure(reserved: int, replayed: int) -> Closure:
    return Closure(
        device=None, context=None, reserved=reserved, cached=0, fragmentation=0, allocated=reserved, **NONE,
        temporaries=reserved, workspaces=0, rounding=0, unattributed=0, replayed_reserved=replayed,
    )  # fmt: skip


def cell(name: str, traced: int, measured: int, **states: int) -> Record:
    """One record of a peak by trace and measured; `states` are the measured ones, the trace has none."""
    return Record(
        id=name,
        scenario={"model": "1b", "method": name},
        formula=Formula(**memory(traced), total=traced),
        trace=Trace(**memory(traced)),
        measured=Measured(**memory(measured, **states)),
    )


def on_gpu(record: Record, allocated: int, reserved: int, was: int, replayed: int) -> Record:
    """With what the allocator's rules foretell, what was reserved, and what a replay of the recording gives."""
    assert record.trace and record.measured
    trace = replace(record.trace, reserved=reserved, pool=pool(allocated, reserved), phase_peaks={"forward": allocated})
    measured = replace(record.measured, reserved=was, closure=closure(was, replayed), phase_peaks={"forward": 100})
    return replace(record, trace=trace, measured=measured)


def summaries(prediction: Prediction) -> dict[str, tuple[int, float, float, str, int, bool | None]]:
    return {
        each.pair.key: (
            each.cells, round(each.median, 9), round(each.worst.error, 9), each.worst_cell.id, each.below, each.met,
        )
        for each in prediction.summaries
    }  # fmt: skip


def test_errors_are_prediction_over_measurement_less_one() -> None:
    """By hand: 99, 100 and 102 against 100 are -1, 0 and +2 %; of 1, 0 and 2 the median is 1."""
    found = predict([cell("a", 99, 100), cell("b", 100, 100), cell("c", 102, 100)])
    expected = (3, 0.01, 0.02, "c", 1)
    assert {key: figures[:5] for key, figures in summaries(found).items()} == {"trace": expected, "formula": expected}
    assert found.missed == []


def test_every_pair_is_read_from_where_it_stands() -> None:
    """By hand, each against 100 but the reserved 200: pool 101, reserved 210, replay 198, forward 101."""
    found = predict([on_gpu(cell("a", 97, 100), 101, 210, 200, 198)])
    assert {key: figures[2] for key, figures in summaries(found).items()} == {
        "trace": -0.03, "pool": 0.01, "reserved": 0.05, "replay": -0.01, "formula": -0.03, "forward": 0.01,
    }  # fmt: skip
    assert found.missed == ["trace", "reserved"]


def test_what_no_record_has_is_no_figure() -> None:
    """A CPU reserves nothing, an older record has no phases, and a paper's sum is no peak."""
    record = cell("a", 100, 100)
    assert record.formula
    counted = replace(record, formula=replace(record.formula, peak_phase="sum"))
    assert set(summaries(predict([counted]))) == {"trace"}
    assert set(summaries(predict([record]))) == {"trace", "formula"}
    assert predict([replace(record, formula=None, trace=None), record]).states is not None


@pytest.mark.parametrize(
    ("peaks", "missed"),
    [([101, 99], []), ([101.1, 98.9], ["trace"]), ([100, 100, 103], []), ([100, 100, 103.1], ["trace"])],
)
def test_a_target_has_two_ends(peaks: list[float], missed: list[str]) -> None:
    """1 % in the median and 3 % in the worst cell are met still; a tenth of a per cent above is not."""
    assert (TRACE_PEAK.median, TRACE_PEAK.worst, RESERVED.median) == (0.01, 0.03, 0.03)
    cells = [cell(f"{number}", round(peak * 10**6), 10**8) for number, peak in enumerate(peaks)]
    assert predict(cells).missed == missed


def test_reserved_has_a_target_for_the_median_alone() -> None:
    cells = [on_gpu(cell(f"{peak}", 100, 100), 100, peak, 100, 100) for peak in (103, 100, 150)]
    assert predict(cells).missed == []
    assert predict([*cells, on_gpu(cell("far", 100, 100), 100, 104, 100, 100)]).missed == ["reserved"]


def test_states_are_equal_to_the_byte_or_not() -> None:
    """The trace says 0 of each; so a byte too many is one that it did not foretell."""
    found = predict([cell("a", 10, 10), cell("b", 10, 10, grad=3), cell("c", 10, 10, param=1, optimizer_state=4)])
    assert found.states is not None
    assert (found.states.cells, found.states.exact, found.states.met) == (3, 1, False)
    worst = found.states.worst_cell
    assert (found.states.worst, found.states.worst_key, worst and worst.id) == (-4, "optimizer_state", "c")
    assert found.missed == ["states"]


def test_without_a_measurement_there_is_nothing_to_do() -> None:
    with pytest.raises(NothingToDoError, match="add --measure"):
        predict([replace(cell("a", 1, 1), measured=None)])
    with pytest.raises(NothingToDoError):
        predict([])


def test_the_document_names_cells_by_their_id() -> None:
    found = json.loads(predict([on_gpu(cell("a", 99, 100, grad=1), 100, 100, 100, 100)]).document())
    assert found["cells"][0]["pairs"]["trace"] == {"predicted": 99, "measured": 100, "error": -0.01}
    assert found["cells"][0]["states"] == {"param": 0, "optimizer_state": 0, "grad": -1}
    trace = found["summary"]["trace"]
    assert (trace["target"], trace["met"], trace["worst"]["id"]) == ({"median": 0.01, "worst": 0.03}, True, "a")
    assert found["summary"]["pool"]["target"] is None and found["summary"]["pool"]["met"] is None
    assert found["states"] == {"cells": 1, "exact": 0, "worst": {"key": "grad", "bytes": -1, "id": "a"}, "met": False}


def test_keys_are_told_apart() -> None:
    assert len({pair.key for pair in PAIRS}) == len(PAIRS)
