"""A paper's tables in a terminal. Oracle: the widths of what was printed, and the small paper's known figures."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from memprof.papers.read import names, read_paper
from memprof.papers.result import Reproduction
from memprof.report.paper.grid import grid
from memprof.report.paper.screen import PaperTables
from memprof.report.paper.words import summary
from memprof.reproduce.run import reproduce
from tests.papers.conftest import PARAM_MB

WIDE = """
[[table.row]]
label = "Full"
method = "adamw"
cells = [{cells}]
"""


def printed(found: Reproduction, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(PaperTables(found))
    return console.export_text()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_number_is_folded_in_a_terminal(found: Reproduction, width: int) -> None:
    text = printed(found, width)
    assert text.count(f"{PARAM_MB:.2f}") >= 2 and "[1] made up" in text
    assert summary(found).split(";")[0] in " ".join(text.split())
    assert PaperTables(found).natural_width <= 40


def test_columns_without_room_stand_below(paper_file: Callable[..., Path]) -> None:
    head, _, _ = paper_file().read_text().partition("[[table.column]]")
    figures = [f"{number}234567.89" for number in range(1, 8)]
    columns = "".join(f'[[table.column]]\nlabel = "C{number}"\nunit = "MB"\n' for number in range(1, 8))
    cells = ", ".join(f'"{figure}"' for figure in figures)
    paper = read_paper(str(paper_file(text=head + columns + WIDE.format(cells=cells))))
    found = reproduce(paper, tracing=False)
    for width in (40, 60, PaperTables(found).natural_width):
        lines = printed(found, width).splitlines()
        published = [line.split()[1:] for line in lines if line.startswith("  published")]
        assert [figure for block in published for figure in block] == figures
        assert (len(published) == 1) == (width > 60)
        assert all(len(line) <= width for line in lines)


@pytest.mark.parametrize("name", names())
def test_every_number_of_the_papers_is_whole_at_80_columns(name: str) -> None:
    """As wide as with a trace: every figure stands in the printed, stated or formula's place too."""
    found = reproduce(read_paper(name), tracing=False)
    results = tuple(replace(each, stored=each.ours, measured=each.ours) for each in found.results)
    found = replace(found, results=results)
    lines = [line.strip() for line in printed(found, 80).splitlines()]
    for table in found.tables:
        for group in grid(found, table).groups:
            for line in group.lines:
                wanted = " ".join(line).split()
                assert any(each.split() == wanted for each in lines), wanted
