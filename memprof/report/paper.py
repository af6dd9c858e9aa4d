"""A paper's tables in the terminal, as CSV and JSON: published, by formula, by trace and measured, row by row."""

from __future__ import annotations

import csv as csv_module
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from memprof.papers.result import Reproduction, Result, Verdict
from memprof.papers.source import Table
from memprof.report.columns import NONE
from memprof.report.describe import plain

WITNESSES = (("formula", "ours"), ("trace", "stored"), ("measured", "measured"))
"""how a line is called, and the field of a result that it shows"""
MARKS = {"derived": " d", "stated": " s", "printed": ""}
LEGEND = "s: stated in the text; d: derived from what is stated; other published cells are printed."
PERCENT = ("saving", "share")


@dataclass(frozen=True, slots=True)
class Group:
    """One of the paper's rows: what is said of it, and a line for each witness, its name first."""

    row: str
    verdict: str
    lines: list[list[str]]


@dataclass(frozen=True, slots=True)
class Grid:
    """One table as text."""

    title: str
    headers: list[str]
    groups: list[Group]
    notes: list[str]


def grid(found: Reproduction, table: Table) -> Grid:
    """A paper's table beside what came out."""
    results = found.of(table)
    columns = [column.label for column in table.columns]
    digits = {label: _digits([each for each in results if each.column == label]) for label in columns}
    footnotes: list[str] = []
    groups = []
    for row in dict.fromkeys(result.row for result in results):
        cells = {result.column: result for result in results if result.row == row}
        lines = [line for line in _lines(columns, cells, digits) if any(cell != NONE for cell in line[1:])]
        groups.append(Group(row, _verdict(list(cells.values()), footnotes), lines))
    shown = {result.origin for result in results if result.published is not None}
    notes = [f"[{number}] {text}" for number, text in enumerate(footnotes, 1)]
    legend = [LEGEND] if shown - {"printed"} else []
    return Grid(table.title, [_header(table, label) for label in columns], groups, [*legend, *notes])


def _lines(columns: Sequence[str], cells: dict[str, Result], digits: dict[str, int]) -> Iterator[list[str]]:
    """The published line, one for each witness that has anything to say, and how far off the formula is."""
    yield ["published", *(_published(cells.get(label)) for label in columns)]
    for said, field in WITNESSES:
        yield [
            said,
            *(
                _figure(getattr(cells[label], field), cells[label], digits[label]) if label in cells else NONE
                for label in columns
            ),
        ]
    yield ["difference", *(_difference(cells.get(label)) for label in columns)]


def _published(result: Result | None) -> str:
    return NONE if result is None or result.published is None else result.published + MARKS[result.origin]


def _figure(value: float | None, result: Result, digits: int) -> str:
    if value is None:
        return NONE
    if result.quantity == "elements":
        return f"{value:,.0f}"
    return f"{value:.{digits}f}{'%' if result.quantity in PERCENT else ''}"


def _difference(result: Result | None) -> str:
    """How far the formula is from a published figure that does not come out."""
    if (
        result is None
        or result.verdict not in (Verdict.OTHER_UNIT, Verdict.NOT_REPRODUCED)
        or result.difference is None
    ):
        return NONE
    return f"{result.difference * 100:+.1f} %"


def _digits(results: Sequence[Result]) -> int:
    """As many decimals as the paper prints; three figures or so where it prints nothing."""
    numbers = [result.published for result in results if result.published and result.published[-1] not in "hnr"]
    if numbers:
        return max(len(text.rstrip(" %").partition(".")[2]) for text in numbers)
    largest = max((abs(result.ours) for result in results if result.ours), default=0.0)
    return 0 if largest >= 100 or all(result.quantity == "refreshes" for result in results) else 2


def _header(table: Table, label: str) -> str:
    unit = next(column.unit for column in table.columns if column.label == label)
    return f"{label}, {unit}" if unit and unit not in label else label


def _verdict(results: Sequence[Result], footnotes: list[str]) -> str:
    """One word where all cells came out; otherwise the columns that did not, with why."""
    judged = [result for result in results if result.verdict is not Verdict.UNPUBLISHED]
    if not judged:
        return "not published"
    numbers = [_noted(footnotes, result.note) for result in judged if result.note]
    if all(result.verdict is Verdict.REPRODUCED for result in judged):
        return " ".join(["reproduced", *dict.fromkeys(numbers)])
    said = []
    for verdict in (Verdict.OTHER_UNIT, Verdict.NOT_REPRODUCED, Verdict.NOT_RUN):
        members = [result for result in judged if result.verdict is verdict]
        if members:
            marks = [_noted(footnotes, result.because) for result in members if result.because]
            where = ", ".join(result.column for result in members) if len(members) < len(judged) else "all"
            lost = " LOST" if any(result.is_lost for result in members) else ""
            said.append(" ".join([f"{where}: {verdict}{lost}", *dict.fromkeys(marks)]))
    if any(result.verdict is Verdict.REPRODUCED for result in judged):
        said.append("the rest: reproduced")
    return " ".join(["; ".join(said), *dict.fromkeys(numbers)])


def _noted(footnotes: list[str], text: str) -> str:
    if text not in footnotes:
        footnotes.append(text)
    return f"[{footnotes.index(text) + 1}]"


def summary(found: Reproduction) -> str:
    """What came out, in one sentence."""
    counts = found.counts()
    total = sum(counts.values())
    come_out = f"{counts.get(Verdict.REPRODUCED, 0)} of {total}"
    said = [f"{come_out} cells that the paper prints or states come out to the last digit"]
    words = {
        Verdict.OTHER_UNIT: "in another unit",
        Verdict.NOT_REPRODUCED: "not, with the reason beside",
        Verdict.NOT_RUN: "not run here",
    }
    said += [f"{counts[verdict]} {text}" for verdict, text in words.items() if counts.get(verdict)]
    if found.derived:
        said.append(f"{found.derived} derived from them come out too")
    if found.identities:
        holding = sum(each.holds for each in found.identities)
        said.append(f"{holding} of {len(found.identities)} identities among printed cells hold")
    return "; ".join(said) + "."


def failures(found: Reproduction) -> list[str]:
    """Cells that are marked as reproducible and no longer come out, and identities that do not hold."""
    cells = [
        f"table {each.table}, {each.row}, {each.column}: published {each.published}, now "
        f"{NONE if each.ours is None else f'{each.ours:.6g}'}"
        for each in found.lost
    ]
    broken = [f"table {each.table}, {each.column}: {each.says}: off by {each.gap:.4g}" for each in found.broken]
    return cells + broken


@dataclass(frozen=True, slots=True)
class PaperTables:
    """A rich renderable: every chosen table, then the identities and the sum of it."""

    found: Reproduction

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(plain(self.found.paper.title), style="bold")
        for table in self.found.tables:
            yield from _rich(grid(self.found, table))
        yield Text("\n".join(["", *identity_lines(self.found), summary(self.found)]))

    @property
    def natural_width(self) -> int:
        """The width at which no number is folded."""
        return max(sum(_widths(grid(self.found, table))) + 2 * len(table.columns) for table in self.found.tables)


def _widths(each: Grid) -> list[int]:
    """Of the witnesses' names and of every column; a header folds at its words."""
    lines = [line for group in each.groups for line in group.lines]
    headers = ["", *each.headers]
    return [
        max(len(text) for text in [*headers[place].split(), *(line[place] for line in lines)])
        for place in range(len(headers))
    ]


def _rich(each: Grid) -> Iterator[Text | RichTable]:
    widths = _widths(each)
    yield Text(f"\n{plain(each.title)}\n", style="bold")
    yield _columns([["", *each.headers]], widths, style="bold")
    for group in each.groups:
        yield Text.assemble((plain(group.row), "bold"), ": ", (plain(group.verdict), _colour(group.verdict)))
        yield _columns(group.lines, widths, style="")
    if each.notes:
        yield Text("\n".join(["", *each.notes]), style="dim")


def _columns(lines: Sequence[Sequence[str]], widths: Sequence[int], style: str) -> RichTable:
    """Lines under one another; every group of a table has the same widths."""
    table = RichTable(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for place, width in enumerate(widths):
        table.add_column(justify="right" if place else "left", width=width + 2 * (place == 0), overflow="fold")
    for line in lines:
        first, *rest = line
        table.add_row(Text(f"  {first}"), *(Text(cell, style=style) for cell in rest))
    return table


def _colour(verdict: str) -> str:
    """Colour repeats what the words say."""
    return "red" if " LOST" in verdict else "green" if verdict.startswith("reproduced") else "yellow"


def identity_lines(found: Reproduction) -> list[str]:
    """Every identity once, with the columns in which it holds."""
    lines = []
    for says in dict.fromkeys(each.says for each in found.identities):
        members = [each for each in found.identities if each.says == says]
        columns = ", ".join(each.column for each in members if each.column)
        verdict = "holds" if all(each.holds for each in members) else "does not hold"
        lines.append(f"{says}: {verdict}{f' for {columns}' if columns else ''}.")
    return lines


def csv(found: Reproduction) -> str:
    """One line a cell, with everything that is known of it."""
    out = io.StringIO()
    writer = csv_module.writer(out, lineterminator="\n")
    names = ["table", "row", "column", "quantity", "unit", "published", "origin", "value", "formula", "trace",
             "measured", "difference", "verdict", "expected", "because", "note"]  # fmt: skip
    writer.writerow(names)
    for result in found.results:
        data = asdict(result) | {"formula": result.ours, "trace": result.stored, "difference": result.difference}
        writer.writerow([_cell(data[name]) for name in names])
    return out.getvalue()


def _cell(value: object) -> str:
    """Numbers as they are; a text that a spreadsheet would take for a formula is marked as text."""
    if value is None:
        return ""
    text = str(value)
    return f"'{text}" if isinstance(value, str) and text[:1] in ("=", "+", "-", "@") else text


def document(found: Reproduction) -> str:
    """The same as one JSON document."""
    cells = [
        {key: value for key, value in asdict(result).items() if key not in ("ours", "stored")}
        | {"formula": result.ours, "trace": result.stored, "difference": result.difference, "lost": result.is_lost}
        for result in found.results
    ]
    identities = [asdict(each) | {"holds": each.holds} for each in found.identities]
    body = {"schema_version": 1, "paper": found.paper.name, "title": found.paper.title, "cells": cells}
    return json.dumps(body | {"identities": identities, "reproduced": found.is_true}, indent=1, allow_nan=False)
