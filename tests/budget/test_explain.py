"""Why a budget failed, word by word."""

from __future__ import annotations

import dataclasses

import pytest

from memprof.budget.baseline import Baseline
from memprof.budget.check import check_records
from memprof.budget.explain import amount, rate
from memprof.record import Record
from tests.budget.conftest import MakeRecord, WriteBudgets


def why(file: WriteBudgets, record: Record, old: Record | None, **environment: str) -> tuple[str, ...]:
    base = Baseline("base.json", {old.id: old}, {"torch": "2.11.0+cpu"}) if old else None
    return check_records(file('peak = "1 B"').budgets, [record], base, environment)[0].why


def test_without_a_baseline_it_is_what_the_peak_is_made_of(budgets: WriteBudgets, record: MakeRecord) -> None:
    seen = record((100, 0, 200, 50, 50), makers={"aten::mm": 40 * 2**20, "aten::add": 10 * 2**20, "aten::x": 1})
    assert why(budgets, seen, None) == (
        "at the peak, in backward: optimizer_state 200.00 MiB, param 100.00 MiB, activation 50.00 MiB, extra 50.00 MiB",
        "extra was made by aten::mm 40.00 MiB, aten::add 10.00 MiB",
    )


def test_with_a_baseline_it_is_what_grew(budgets: WriteBudgets, record: MakeRecord) -> None:
    old = record((100, 0, 200, 80, 20), makers={"aten::mm": 20 * 2**20})
    new = record((100, 100, 200, 0, 120), phase="optimizer", makers={"aten::_foreach_sqrt": 120 * 2**20})
    assert why(budgets, new, old) == (
        "since base.json peak grew by 120.00 MiB (+30.0%): "
        "grad +100.00 MiB (1.00 x param), extra +100.00 MiB (1.00 x param), activation -80.00 MiB",
        "the peak is in optimizer; it was in backward",
        "extra grew in aten::_foreach_sqrt +120.00 MiB",
    )


def test_a_limit_that_was_broken_before_is_told_so(budgets: WriteBudgets, record: MakeRecord) -> None:
    assert why(budgets, record(), record()) == (
        "peak did not grow since base.json: the limit is below what was accepted there",
    )


def test_a_growth_in_no_category_ends_in_no_empty_list(budgets: WriteBudgets, record: MakeRecord) -> None:
    """A baseline may say so: its figures are data."""
    old = record()
    assert old.trace is not None
    lower = dataclasses.replace(old, trace=dataclasses.replace(old.trace, peak=old.trace.peak - 2**20))
    assert why(budgets, record(), lower)[0] == "since base.json peak grew by 1.00 MiB (+0.2%)"


@pytest.mark.parametrize("torch, said", [("2.11.0+cu130", 0), ("2.12.0", 1)])
def test_another_torch_is_named(budgets: WriteBudgets, record: MakeRecord, torch: str, said: int) -> None:
    lines = why(budgets, record(), record(), torch=torch)
    assert [line for line in lines if "torch" in line] == ["the baseline is of torch 2.11.0, this is torch 2.12.0"][
        :said
    ]


@pytest.mark.parametrize(
    "size, text",
    [(0, "0 B"), (1, "1 B"), (-1, "-1 B"), (1023, "1023 B"), (2**20, "1.00 MiB"), (-3 * 2**29, "-1.50 GiB")],
)
def test_amounts(size: int, text: str) -> None:
    assert amount(size) == text


def test_signs_and_rates() -> None:
    assert (amount(5, signed=True), amount(0, signed=True), rate(0.1234), rate(12345.6)) == (
        "+5 B",
        "0 B",
        "0.123",
        "12,346",
    )
