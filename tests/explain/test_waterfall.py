"""The way from one peak to another: sums by hand and against the peaks of traces, to the byte."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from memprof import profile
from memprof.catalogue import METHODS
from memprof.explain.waterfall import shared_witness, waterfall
from memprof.record import Formula, Record
from tests.cells import MEASURED

TINY: dict[str, Any] = {"num_layers": 1, "vocab_size": 64, "batch_size": 2, "seq_len": 16}


@pytest.fixture(scope="module")
def adamw() -> Record:
    return profile("9m", "adamw", **TINY)


@pytest.mark.parametrize("method", METHODS)
def test_bars_sum_to_the_difference_of_the_peaks(method: str, adamw: Record) -> None:
    after = profile("9m", method, **TINY)
    assert adamw.trace is not None and after.trace is not None
    bars = waterfall(adamw, after)
    assert sum(size for _, size in bars) == after.trace.peak - adamw.trace.peak
    assert sum(size for _, size in waterfall(after, adamw)) == adamw.trace.peak - after.trace.peak


def record(peak: dict[str, int]) -> Record:
    sizes = {**peak, "peak": sum(peak.values()), "peak_phase": "backward", "peak_by_category": peak}
    formula = Formula(**sizes, steady=1, total=1)  # type: ignore[arg-type]
    return Record(id="1", scenario={"model": "9m", "method": "adamw"}, formula=formula)


def test_by_hand() -> None:
    before = record({"param": 5, "grad": 4, "optimizer_state": 8, "activation": 2, "extra": 0})
    after = record({"param": 6, "grad": 0, "optimizer_state": 1, "activation": 2, "extra": 3})
    bars = [("param", 1), ("grad", -4), ("optimizer_state", -7), ("activation", 0), ("extra", 3)]
    assert waterfall(before, after) == bars


def test_measurements_of_two_devices_are_not_mixed(adamw: Record) -> None:
    """Their traces are compared instead; on one device the measurements are."""
    cpu, cuda = (
        replace(adamw, scenario={**adamw.scenario, "device": where}, measured=MEASURED) for where in ("cpu", "cuda")
    )
    assert shared_witness(cpu, cpu) == (MEASURED, MEASURED)
    assert adamw.trace is not None and shared_witness(cpu, cuda) == (adamw.trace, adamw.trace)


def test_nothing_to_tell_without_a_witness_of_both(adamw: Record) -> None:
    assert waterfall(adamw, replace(adamw, formula=None, trace=None)) == []
    assert waterfall(replace(adamw, formula=None), replace(adamw, trace=None)) == []
