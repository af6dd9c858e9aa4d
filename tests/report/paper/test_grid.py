"""A paper's table as text. Oracle: the small paper of tests/papers, whose figures are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from memprof.papers.read import read_paper
from memprof.papers.result import Reproduction, Verdict
from memprof.report.paper.grid import LEGEND, decimals, grid
from memprof.report.paper.words import failures, row_verdict, summary
from memprof.reproduce.run import reproduce
from tests.papers.conftest import PARAM_MB

Write = Callable[..., Path]
MIXED = """
[[table.column]]
label = "Grad"
of = "grad"
unit = "MB"

[[table.row]]
label = "Mixed"
method = "adamw"
cells = ["17.99", { value = "17.99", origin = "derived" }]

[[table.row]]
label = "Derived"
method = "adamw"
origin = "derived"
cells = ["17.99", { value = "18.50", because = "from elsewhere", expect = "not reproduced" }]
"""


@pytest.fixture
def derived(paper_file: Write) -> Reproduction:
    text = paper_file().read_text()
    head, _, _ = text.partition("[[table.row]]")
    return reproduce(read_paper(str(paper_file(text=head + MIXED))), tracing=False)


def test_each_row_has_a_line_for_each_witness_and_its_verdict(found: Reproduction) -> None:
    full, apart, alone = grid(found, found.paper.tables[0]).groups
    ours = f"{PARAM_MB:.2f}"
    assert (full.verdict, full.lines) == (
        "reproduced",
        [["published", "17.99"], ["formula", ours], ["trace", ours]],
    )
    assert apart.verdict == "all: not reproduced [1]"
    assert apart.lines[0] == ["published", "20.00 s"]
    assert apart.lines[-1] == ["difference", f"{(PARAM_MB / 20 - 1) * 100:+.1f} %"]
    assert (alone.verdict, alone.lines[0][0]) == ("not published", "formula")


def test_what_is_derived_has_no_other_verdict(derived: Reproduction) -> None:
    shown = grid(derived, derived.paper.tables[0])
    mixed, alone = shown.groups
    assert mixed.verdict == "Param: reproduced; the rest: derived"
    assert mixed.lines[0] == ["published", "17.99", "17.99 d"]
    assert alone.verdict == "derived [1]"
    assert alone.lines[0] == ["derived", "17.99", "18.50"]
    assert shown.notes == [LEGEND["derived"], "[1] from elsewhere"]
    assert summary(derived) == (
        "1 of 1 cells that the paper prints or states come out to the last digit; "
        "3 more are derived by the same counting."
    )


def test_a_derived_cell_that_is_lost_is_still_told(derived: Reproduction) -> None:
    results = [replace(each, expected="reproduced") for each in derived.results]
    assert row_verdict([each for each in results if each.row == "Derived"], []) == "derived LOST [1]"


def test_a_speed_of_another_device_is_no_verdict(found: Reproduction) -> None:
    elsewhere = [replace(each, verdict=Verdict.ELSEWHERE, expected="not run", because="") for each in found.results[:2]]
    assert row_verdict(elsewhere, []) == "all: measured elsewhere"
    assert "2 measured on another device, which is no verdict" in summary(replace(found, results=tuple(elsewhere)))


def test_all_text_is_without_control_characters(found: Reproduction) -> None:
    table = found.paper.tables[0]
    column = table.columns[0].model_copy(update={"label": "Pa\x1b[31mram"})
    table = table.model_copy(update={"title": "A\x1b[2J table\n", "columns": (column,)})
    results = tuple(
        replace(each, row=f"{each.row}\x07", column=column.label, because="why\x1b[0m") for each in found.results
    )
    shown = grid(replace(found, tables=(table,), results=results), table)
    texts = [shown.title, *shown.headers, *shown.notes]
    texts += [text for group in shown.groups for text in (group.row, group.verdict)]
    assert shown.title == "A table" and shown.headers == ["Param, MB"]
    assert all(text.isprintable() for text in texts) and any("why" in text for text in shown.notes)


def test_a_lost_cell_is_named_with_what_it_is_now(paper_file: Write) -> None:
    lost = reproduce(read_paper(str(paper_file(cell='"18.10"'))), tracing=False)
    assert failures(lost) == [f"table 1, Full, Param: published 18.10, by formula {PARAM_MB:.4g} MB"]
    assert grid(lost, lost.paper.tables[0]).groups[0].verdict == "all: not reproduced LOST"
    coloured = replace(lost, results=tuple(replace(each, row="\x1b[31mFull") for each in lost.results))
    assert failures(coloured) == failures(lost)


def test_a_column_has_as_many_decimals_as_are_printed(found: Reproduction) -> None:
    def printed(*texts: str | None) -> int:
        return decimals([replace(found.results[0], published=text) for text in texts], "Param")

    assert (printed("17.99", "18"), printed("< 24"), printed("48.5 %"), printed("24h2")) == (2, 0, 1, 2)


def test_a_percentage_is_apart_by_points(paper_file: Write) -> None:
    column = '\n[[table.column]]\nlabel = "Less"\nquantity = "saving"\nof = "optimizer_state"\nagainst = "Full"\n'
    row = '\n[[table.row]]\nlabel = "Lion"\nmethod = "lion"\nexpect = "not reproduced"\ncells = ["-", "57%"]\n'
    found = reproduce(read_paper(str(paper_file(cell='"17.99", "-"', row=column + row))), tracing=False)
    lion = grid(found, found.paper.tables[0]).groups[1]
    assert lion.lines[-1] == ["difference", "-", "-7.0 pt"]
