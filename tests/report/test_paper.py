"""A paper's tables as text and pictures. Oracle: the small paper of tests/papers, whose figures are known."""

from __future__ import annotations

import csv as csv_module
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.patches import Rectangle
from rich.console import Console

from memprof.errors import MemprofError
from memprof.papers.read import read_paper
from memprof.papers.result import Reproduction
from memprof.report import paper_page
from memprof.report.paper import PaperTables, csv, document, failures, grid, summary
from memprof.report.paper_chart import paper_figure
from memprof.report.paper_files import ENDINGS, free, write
from memprof.reproduce.run import reproduce
from tests.papers.conftest import PARAM_MB, paper_file

__all__ = ["paper_file"]
Write = Callable[..., Path]
TWO = """
[[table.row]]
label = "<script>|x"
method = "galore"
origin = "stated"
cells = [{ value = "20.00", expect = "not reproduced", because = "made up" }]

[[table.row]]
label = "Ours alone"
method = "lion"
cells = ["-"]
"""


@pytest.fixture
def found(paper_file: Write) -> Reproduction:
    return reproduce(read_paper(str(paper_file(row=TWO))))


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


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_number_is_folded_in_a_terminal(found: Reproduction, width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(PaperTables(found))
    text = console.export_text()
    assert text.count(f"{PARAM_MB:.2f}") >= 2 and "[1] made up" in text
    assert summary(found).split(";")[0] in " ".join(text.split())
    assert PaperTables(found).natural_width <= 40


def test_the_page_shows_markup_in_names_as_text(found: Reproduction) -> None:
    page = paper_page.markdown(found, "memprof reproduce mine -o out", "mine.png")
    assert "<script>" not in page and "&lt;script&gt;\\|x" in page
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {5}
    assert "![published against memprof's own figures](mine.png)" in page


def test_the_page_tells_what_the_code_stores_otherwise() -> None:
    found = reproduce(read_paper("approximations"), ["1"])
    page = paper_page.markdown(found, "x", "y.png")
    assert "GaLore counted 0.53, stored 0.61 GiB" in page
    assert "The vocabulary has 32,100 tokens." in page
    assert "Not counted: the projector between a gradient and its subspace." in page


def test_a_lost_cell_is_named_with_what_it_is_now(paper_file: Write) -> None:
    lost = reproduce(read_paper(str(paper_file(cell='"18.10"'))), tracing=False)
    assert failures(lost) == [f"table 1, Full, Param: published 18.10, now {PARAM_MB:.6g}"]
    assert grid(lost, lost.paper.tables[0]).groups[0].verdict == "all: not reproduced LOST"


def test_csv_and_json_have_every_cell(found: Reproduction) -> None:
    rows = list(csv_module.DictReader(io.StringIO(csv(found))))
    cells = json.loads(document(found))["cells"]
    assert [row["row"] for row in rows] == [cell["row"] for cell in cells] == ["Full", "<script>|x", "Ours alone"]
    assert float(rows[0]["formula"]) == cells[0]["formula"] == pytest.approx(PARAM_MB)
    assert rows[2]["published"] == "" and cells[2]["published"] is None


def test_a_chart_has_a_dot_for_each_published_size_and_witness(found: Reproduction) -> None:
    (axes,) = paper_figure(found).axes
    dots = [line for line in axes.get_lines() if line.get_marker() in ("o", "D")]
    assert len(dots) == 4  # formula and trace of two published cells


def test_bars_stack_the_columns_that_a_table_names() -> None:
    found = reproduce(read_paper("galore-mini"), ["figure-1"], tracing=False)
    axes = paper_figure(found).axes[-1]
    totals = [patch.get_x() + patch.get_width() for patch in axes.patches[4:] if isinstance(patch, Rectangle)]
    both = [each.ours for each in found.results if each.column == "Weights and OS"]
    assert totals == pytest.approx(both)


def test_files_are_written_whole_and_never_over_others(found: Reproduction, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    free(str(folder), "mine", force=False)
    written = write(str(folder), found)
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"mine.{end}" for end in ENDINGS)
    assert all(path.stat().st_size for path in written)
    with pytest.raises(MemprofError, match="holds mine.md already; --force overwrites it"):
        free(str(folder), "mine", force=False)
    before = {path: path.read_bytes() for path in written}
    free(str(folder), "mine", force=True)
    write(str(folder), found)
    assert {path: path.read_bytes() for path in written} == before


def test_a_file_in_the_folder_s_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MemprofError, match="is no folder; name one with -o"):
        free(str(tmp_path / "file"), "mine", force=True)
