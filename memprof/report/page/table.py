"""The comparison's table for the page: what a cell shows, what it sorts by, and what it says to the byte."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from memprof.report.columns import Column
from memprof.report.page.bars import exact
from memprof.report.rows import Row


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the table."""

    text: str
    order: str
    """what it sorts by: a number, or nothing where the text itself is what sorts; "none" comes last either way"""
    tip: str
    is_text: bool


@dataclass(frozen=True, slots=True)
class Line:
    """One record."""

    key: str
    cells: tuple[Cell, ...]
    failed: bool
    is_baseline: bool


def table(rows: Sequence[Row], columns: Sequence[Column]) -> list[Line]:
    """The rows in their order."""
    return [
        Line(
            row.record.id,
            tuple(_cell(column, row) for column in columns),
            row.record.status != "ok",
            row.is_baseline,
        )
        for row in rows
    ]


def _cell(column: Column, row: Row) -> Cell:
    value = column.value(row) if column.value else None
    tip = exact(value) if isinstance(value, int) else ""
    order = "none" if column.value and value is None else "" if value is None else _number(value)
    return Cell(column.cell(row), order, tip, column.is_text)


def _number(value: int | float) -> str:
    return repr(value) if math.isfinite(value) else "1e308"
