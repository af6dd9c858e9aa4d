"""A paper's table as text: what is published, and under it what each witness gives, row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memprof.papers.cells import NUMBER, PERCENT
from memprof.papers.result import Reproduction, Result, Verdict
from memprof.papers.source import Table
from memprof.report.columns import NONE
from memprof.report.describe import plain
from memprof.report.paper.words import row_verdict

WITNESSES = {"formula": "ours", "trace": "stored", "measured": "measured"}
"""how a line is called, and the field of a result that it shows"""
PUBLISHED, DERIVED = "published", "derived"
MARKS = {"derived": " d", "stated": " s", "printed": ""}
LEGEND = {
    "stated": "s: stated in the text.",
    "derived": "d, derived: made from other cells or by the same counting, and proves nothing.",
}


@dataclass(frozen=True, slots=True)
class Group:
    """One of the paper's rows: what is said of it, and a line for each witness, its name first."""

    row: str
    verdict: str
    lines: list[list[str]]


@dataclass(frozen=True, slots=True)
class Grid:
    """One table as text without control characters."""

    title: str
    setting: str
    """what its cells are of: the scenario they share, or what the letters stand for"""
    headers: list[str]
    groups: list[Group]
    notes: list[str]


def grid(found: Reproduction, table: Table) -> Grid:
    """A paper's table beside what came out."""
    results = found.of(table)
    columns = [column.label for column in table.columns]
    digits = {label: decimals(results, label) for label in columns}
    footnotes: list[str] = []
    groups = []
    for row in dict.fromkeys(result.row for result in results):
        cells = {result.column: result for result in results if result.row == row}
        lines = [line for line in _lines(columns, cells, digits) if any(cell != NONE for cell in line[1:])]
        groups.append(Group(plain(row), plain(row_verdict(list(cells.values()), footnotes)), lines))
    shown = {result.origin for result in results if result.published is not None}
    legend = " ".join(text for origin, text in LEGEND.items() if origin in shown)
    notes = [f"[{number}] {plain(text)}" for number, text in enumerate(footnotes, 1)]
    headers = [plain(_header(table, label)) for label in columns]
    return Grid(plain(table.title), plain(setting(table)), headers, groups, [*filter(None, [legend]), *notes])


def setting(table: Table) -> str:
    """The scenario that all cells share, or the sizes of the first figures where the cells are letters."""
    if table.sizes:
        letters = ", ".join(f"{letter} = {size:,}" for letter, size in table.sizes[0].items())
        return f"figures for {letters}; letters are tried at {len(table.sizes)} sizes"
    given = table.setting.model_dump(exclude_none=True)
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in given.items())


def _lines(columns: Sequence[str], cells: dict[str, Result], digits: dict[str, int]) -> Iterator[list[str]]:
    """The published line, one for each witness that has anything to say, and how far off the formula is."""
    origins = {cell.origin for cell in cells.values() if cell.published is not None}
    all_derived = origins == {"derived"}
    marks = {} if all_derived else MARKS
    yield [DERIVED if all_derived else PUBLISHED, *(_published(cells.get(label), marks) for label in columns)]
    for said, field in WITNESSES.items():
        yield [
            said,
            *(
                figure(getattr(cells[label], field), cells[label], digits[label]) if label in cells else NONE
                for label in columns
            ),
        ]
    yield ["difference", *(_difference(cells.get(label)) for label in columns)]


def _published(result: Result | None, marks: dict[str, str]) -> str:
    return NONE if result is None or result.published is None else result.published + marks.get(result.origin, "")


def figure(value: float | None, result: Result, digits: int) -> str:
    """A witness's figure in the unit of its column."""
    if value is None:
        return NONE
    if result.quantity == "elements":
        return f"{value:,.0f}"
    return f"{value:.{digits}f}{'%' if result.quantity in PERCENT else ''}"


def _difference(result: Result | None) -> str:
    """How far the formula is from a published figure that does not come out."""
    apart = (Verdict.OTHER_UNIT, Verdict.NOT_REPRODUCED)
    if result is None or result.verdict not in apart or result.difference is None:
        return NONE
    if result.quantity in PERCENT:
        return f"{(result.ours or 0.0) - (result.value or 0.0):+.1f} pt"
    return f"{result.difference * 100:+.1f} %"


def decimals(results: Sequence[Result], column: str) -> int:
    """As many as the paper prints in a column; three figures or so where it prints nothing."""
    members = [result for result in results if result.column == column]
    printed = [result.published or "" for result in members]
    numbers = [text.rstrip(" %") for text in printed if NUMBER.fullmatch(text)]
    if numbers:
        return max(len(text.partition(".")[2]) for text in numbers)
    largest = max((abs(result.ours) for result in members if result.ours), default=0.0)
    return 0 if largest >= 100 or all(result.quantity == "refreshes" for result in members) else 2


def _header(table: Table, label: str) -> str:
    unit = next(column.unit for column in table.columns if column.label == label)
    return f"{label}, {unit}" if unit and unit not in label else label
