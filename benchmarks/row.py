"""One line of the fault table: a fault, what it cost, and what was said."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the fault table. None is a figure that the fault has no place for."""

    fault: str
    before: int | None = None
    lost: int | None = None
    children: int | None = None
    code: int | None = None
    message: str = ""
    skipped: bool = False
