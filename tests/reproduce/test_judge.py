"""Verdicts. Oracle: rounding by decimal arithmetic, and cells made up so that they come out or do not."""

from __future__ import annotations

import decimal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.papers.read import read_paper
from memprof.papers.result import Reproduction, Result, Verdict
from memprof.record import Interval, Measured
from memprof.reproduce.figures import key, scenario_of
from memprof.reproduce.judge import comes_out
from memprof.reproduce.run import reproduce
from tests.papers.conftest import PARAM_MB

Write = Callable[..., Path]
PARTS = {"param": 1, "grad": 1, "optimizer_state": 1, "activation": 1, "extra": 1}
SIZES: dict[str, Any] = PARTS | {"peak": 5, "peak_phase": "backward", "peak_by_category": PARTS, "steady": 2}


def judged(file: Path) -> Reproduction:
    return reproduce(read_paper(str(file)), tracing=False)


def only(file: Path) -> Result:
    (result,) = judged(file).results
    return result


@given(st.decimals(min_value=0, max_value=1000, places=6), st.integers(min_value=0, max_value=3))
def test_a_figure_comes_out_where_it_rounds_to_the_printed_digits(figure: decimal.Decimal, places: int) -> None:
    digit = decimal.Decimal(1).scaleb(-places)
    printed = figure.quantize(digit, rounding=decimal.ROUND_HALF_EVEN)
    assert comes_out(str(printed), float(figure))
    assert not comes_out(str(printed + digit * 2), float(figure))


@pytest.mark.parametrize(
    ("printed", "figure", "out"),
    [("0.31", 0.305, True), ("0.30", 0.305, True), ("0.30", 0.3051, False), ("< 24", 23.9, True), ("< 24", 24.1, False),
     ("< 24", 24.0, False),
     ("9%", 9.4, True), ("9 %", 9.6, False), ("15", 15.0, True), ("-0.2", -0.24, True)],
)  # fmt: skip
def test_half_a_last_digit_is_what_rounding_allows(printed: str, figure: float, out: bool) -> None:
    assert comes_out(printed, figure) is out


def test_a_cell_that_comes_out_is_reproduced(paper_file: Write) -> None:
    result = only(paper_file(cell=f'"{PARAM_MB:.2f}"'))
    assert (result.verdict, result.is_lost) == (Verdict.REPRODUCED, False)
    assert result.ours == pytest.approx(PARAM_MB, rel=1e-12)


def test_a_cell_in_another_unit_says_so_and_is_lost_unless_that_was_expected(paper_file: Write) -> None:
    printed = f"{PARAM_MB * 1e6 / 2**20:.2f}"
    assert only(paper_file(cell=f'"{printed}"')).verdict is Verdict.OTHER_UNIT
    assert only(paper_file(cell=f'"{printed}"')).is_lost
    assert not only(paper_file(cell=f'{{ value = "{printed}", expect = "other unit" }}')).is_lost


def test_a_cell_marked_as_reproducible_that_does_not_come_out_is_lost(paper_file: Write) -> None:
    found = judged(paper_file(cell='"18.10"'))
    assert [each.column for each in found.lost] == ["Param"]
    assert not found.is_true


def test_one_marked_as_not_reproduced_is_not_and_may_come_out_after_all(paper_file: Write) -> None:
    for value in ("18.10", f"{PARAM_MB:.2f}"):
        cell = f'{{ value = "{value}", expect = "not reproduced", because = "known" }}'
        found = judged(paper_file(cell=cell))
        assert found.is_true and found.results[0].because == "known"


def test_without_a_method_or_a_published_figure_there_is_nothing_to_judge(paper_file: Write) -> None:
    assert only(paper_file(cell='"-"')).verdict is Verdict.UNPUBLISHED
    text = paper_file(cell='{ value = "3", expect = "not run", because = "no such method" }').read_text()
    result = only(paper_file(text=text.replace('method = "adamw"', "")))
    assert (result.verdict, result.ours, result.is_lost) == (Verdict.NOT_RUN, None, False)


RATIOS = """
[[table.column]]
label = "Less"
quantity = "{quantity}"
of = "optimizer_state"
against = "Full"
unit = "{unit}"

[[table.row]]
label = "SGD"
method = "lion"
cells = ["-", "{value}"]
"""


@pytest.mark.parametrize(
    ("quantity", "unit", "value", "verdict"),
    [("saving", "", "50%", Verdict.REPRODUCED), ("saving", "", "51%", Verdict.NOT_REPRODUCED),
     ("difference", "MB", f"{-PARAM_MB:.1f}", Verdict.REPRODUCED)],
)  # fmt: skip
def test_a_row_is_taken_against_another(
    paper_file: Write, quantity: str, unit: str, value: str, verdict: Verdict
) -> None:
    """Lion keeps one moment of the weights' size where AdamW keeps two, and step counts of some bytes."""
    file = paper_file(cell='"-", "-"', row=RATIOS.format(quantity=quantity, unit=unit, value=value))
    found = {(each.row, each.column): each for each in judged(file).results}
    assert found["SGD", "Less"].verdict is verdict
    assert ("Full", "Less") not in found


IDENTITY = """
[[table.row]]
label = "Twice"
cells = [{{ value = "{value}", expect = "not run", because = "made up" }}]

[[table.identity]]
says = "Twice = 2 x Full"
terms = [{{ row = "Twice" }}, {{ row = "Full", times = -2.0 }}]
"""


@pytest.mark.parametrize(("value", "holds"), [("35.98", True), ("35.99", True), ("36.00", False), ("35.95", False)])
def test_an_identity_holds_within_what_rounding_allows(paper_file: Write, value: str, holds: bool) -> None:
    """17.99 stands for 17.985 to 17.995, so twice it for 35.97 to 35.99, and a printed sum for half a digit more."""
    (found,) = judged(paper_file(row=IDENTITY.format(value=value))).identities
    assert (found.holds, found.is_lost) == (holds, not holds)


def test_a_share_is_not_what_is_saved(paper_file: Write) -> None:
    """Adafactor's factors are a hundredth of AdamW's moments and less."""
    row = RATIOS.replace('method = "lion"', 'method = "adafactor"').format(quantity="share", unit="", value="0.8%")
    found = {(each.row, each.column): each for each in judged(paper_file(cell='"-", "-"', row=row)).results}
    share = found["SGD", "Less"].ours
    assert share is not None and 0 < share < 2


def test_nothing_is_taken_against_nothing(paper_file: Write) -> None:
    row = RATIOS.replace('of = "optimizer_state"', 'of = "activation"').format(quantity="share", unit="", value="50%")
    result = judged(paper_file(cell='"-", "-"', row=row, text=None))
    assert result.results  # with activations the share is there
    text = (
        paper_file(cell='"-", "-"', row=row)
        .read_text()
        .replace('name = "mine"', 'name = "mine"\ncounting = "paper:galore"')
    )
    last = judged(paper_file(text=text)).results[-1]
    assert (last.ours, last.verdict) == (None, Verdict.NOT_RUN)


@pytest.mark.parametrize(("unit", "other"), [("GiB", 1e9), ("GB", 2**30), ("MiB", 1e6), ("MB", 2**20)])
def test_either_family_of_units_may_be_meant(paper_file: Write, unit: str, other: float) -> None:
    text = paper_file().read_text().replace('unit = "MB"', f'unit = "{unit}"')
    printed = f"{PARAM_MB * 1e6 / other:.5f}"
    assert only(paper_file(text=text.replace('"17.99"', f'"{printed}"'))).verdict is Verdict.OTHER_UNIT


SPEED = """
[[table.column]]
label = "Examples/s"
quantity = "examples per second"
"""


def test_a_speed_is_set_beside_and_never_judged(paper_file: Write) -> None:
    paper = read_paper(str(paper_file(cell='"17.99", "141.5"', row=SPEED)))
    table = paper.tables[0]
    scenario = scenario_of(paper, table, table.rows[0], table.columns[1])
    measured = Measured(**SIZES, examples_per_second=Interval(median=141.5, low=140.0, high=142.0))
    for measurements, verdict in (({}, Verdict.NOT_RUN), ({key(scenario): measured}, Verdict.ELSEWHERE)):
        found = reproduce(paper, tracing=False, measurements=measurements)
        assert found.results[1].verdict is verdict and found.is_true


def test_letters_must_hold_for_every_size(paper_file: Write) -> None:
    """2mm is 2mn for a square matrix, and for no other."""
    layers = """weights = { o_proj = ["m", "n"] }
sizes = [{ m = 32, n = 32 }, { m = 32, n = 64 }]
"""
    text = paper_file(cell='"2mm"').read_text().replace("setting =", f"{layers}setting =")
    text = text.replace('of = "param"\nunit = "MB"', 'quantity = "elements"\nof = "optimizer_state"')
    text = text.replace('method = "adamw"', 'method = "adamw"\ncounting = { parts = { "step counts" = 0.0 } }')
    assert only(paper_file(text=text)).verdict is Verdict.NOT_REPRODUCED
    assert only(paper_file(text=text.replace("2mm", "2mn"))).verdict is Verdict.REPRODUCED


def test_an_identity_may_name_its_column_and_may_be_known_not_to_hold(paper_file: Write) -> None:
    named = IDENTITY.format(value="35.98").replace('{ row = "Twice" }', '{ row = "Twice", column = "Param" }')
    named = named.replace("times = -2.0", 'times = -2.0, column = "Param"')
    (found,) = judged(paper_file(row=named)).identities
    assert (found.column, found.holds) == ("", True)
    wrong = IDENTITY.format(value="36.98") + "holds = false\n"
    (found,) = judged(paper_file(row=wrong)).identities
    assert (found.holds, found.is_lost) == (False, False)
