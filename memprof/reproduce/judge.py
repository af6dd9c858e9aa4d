"""Whether a published cell comes out: to its last printed digit, in another unit, or not, and why."""

from __future__ import annotations

from memprof.papers.cells import MISSING, NUMBER, PERCENT, Cell, Column, Row
from memprof.papers.letters import evaluate
from memprof.papers.result import SLACK, Obeyed, Result, Verdict
from memprof.papers.source import Identity, Paper, Table, Term
from memprof.reproduce.figures import Figures, holds_for_all_sizes, scenario_of
from memprof.units import UNITS

OTHER = {"GiB": "GB", "GB": "GiB", "MiB": "MB", "MB": "MiB"}
"""what a table that says one may mean"""
SPEED = "examples per second"
SCALE = {"flops": 1e12, "parameters": 1e6}
"""units of quantities that are neither bytes nor shares: TFLOP, millions"""


def judge(paper: Paper, table: Table, row: Row, place: int, seen: Figures, other: Figures | None) -> Result:
    """The verdict on the cell of `row` in the column at `place`; `other` is the row that it is taken against."""
    cell, column = row.cells[place], table.columns[place]
    scale = _scale(column)
    ours, stored, measured = (
        _relative(column, getattr(seen, name), getattr(other, name) if other else None)
        for name in ("ours", "stored", "measured")
    )
    shown = [None if figure is None else figure / scale for figure in (ours, stored, measured)]
    return Result(
        table=table.id,
        row=row.label,
        column=column.label,
        quantity=column.quantity,
        unit=column.unit,
        published=None if cell.value == MISSING else cell.value,
        origin=cell.origin or row.origin or table.origin,
        value=_number(table, cell),
        ours=shown[0],
        stored=shown[1],
        measured=shown[2],
        sequences=_sequences(paper, table, row, column),
        verdict=_verdict(paper, table, row, place, ours, measured),
        expected=cell.expect or row.expect or (Verdict.NOT_RUN if column.quantity == SPEED else table.expect),
        because=cell.because or row.because or column.because or table.because,
        note=cell.note,
    )


def obeyed(paper: Paper, table: Table, identity: Identity) -> list[Obeyed]:
    """The identity in every column that all its rows have, or in the columns that its terms name."""
    labels = [column.label for column in table.columns]
    columns = labels if any(term.column is None for term in identity.terms) else [labels[0]]
    found = []
    for label in columns:
        cells = [_cell_of(paper, table, term, label) for term in identity.terms]
        numbers = [NUMBER.fullmatch(cell.value) if cell else None for cell in cells]
        if not all(numbers):
            continue
        terms = [(term.times, match[2]) for term, match in zip(identity.terms, numbers, strict=True) if match]
        found.append(
            Obeyed(
                table=table.id,
                says=identity.says,
                column=label if len(columns) > 1 else "",
                gap=sum(times * float(text) for times, text in terms),
                allowed=sum(abs(times) * _last_digit(text) / 2 for times, text in terms),
                expected=identity.holds,
                note=identity.note,
            )
        )
    return found


def _cell_of(paper: Paper, table: Table, term: Term, column: str) -> Cell | None:
    home = next((each for each in paper.tables if each.id == term.table), None) if term.table else table
    row = next((each for each in home.rows if each.label == term.row), None) if home else None
    labels = [each.label for each in home.columns] if home else []
    wanted = term.column or column
    return row.cells[labels.index(wanted)] if row and wanted in labels else None


def _verdict(paper: Paper, table: Table, row: Row, place: int, ours: float | None, measured: float | None) -> Verdict:
    cell, column = row.cells[place], table.columns[place]
    if cell.value == MISSING:
        return Verdict.UNPUBLISHED
    if column.quantity == SPEED and measured is not None:
        return Verdict.ELSEWHERE
    if ours is None:
        return Verdict.NOT_RUN
    if not NUMBER.fullmatch(cell.value):
        same = holds_for_all_sizes(paper, table, row, column, cell.value)
        return Verdict.REPRODUCED if same else Verdict.NOT_REPRODUCED
    if comes_out(cell.value, ours / _scale(column)):
        return Verdict.REPRODUCED
    unit = OTHER.get(column.unit)
    if unit and comes_out(cell.value, ours / UNITS[unit]):
        return Verdict.OTHER_UNIT
    return Verdict.NOT_REPRODUCED


def comes_out(published: str, ours: float) -> bool:
    """Whether a figure rounds to what is printed; `< 24` is a limit."""
    match = NUMBER.fullmatch(published)
    assert match is not None
    if match[1]:
        return ours < float(match[2])
    return abs(ours - float(match[2])) <= _last_digit(match[2]) / 2 * (1 + SLACK)


def _last_digit(text: str) -> float:
    return 10.0 ** -len(text.partition(".")[2])


def _number(table: Table, cell: Cell) -> float | None:
    if cell.value == MISSING:
        return None
    match = NUMBER.fullmatch(cell.value)
    return float(match[2]) if match else float(evaluate(cell.value, table.sizes[0]))


def _sequences(paper: Paper, table: Table, row: Row, column: Column) -> int | None:
    if row.method is None or table.weights is not None:
        return None
    return scenario_of(paper, table, row, column).batch_size


def _scale(column: Column) -> float:
    if column.quantity in PERCENT:
        return 0.01
    return SCALE.get(column.quantity, UNITS[column.unit] if column.unit else 1)


def _relative(column: Column, figure: float | None, other: float | None) -> float | None:
    """The figure itself, or what it is against another one."""
    if column.against is None or figure is None:
        return figure
    if other is None:
        return None
    if column.quantity == "difference":
        return figure - other
    if other == 0:
        return None
    share = figure / other
    return 1 - share if column.quantity == "saving" else share
