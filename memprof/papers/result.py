"""What came out of a paper's tables: cells with their verdicts, and identities among printed cells. Data alone."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from memprof.papers.source import Paper, Table

SLACK = 1e-9
"""of a last digit: binary fractions of decimal ones"""


class Verdict(StrEnum):
    REPRODUCED = "reproduced"
    OTHER_UNIT = "other unit"
    NOT_REPRODUCED = "not reproduced"
    NOT_RUN = "not run"
    ELSEWHERE = "measured elsewhere"
    """a speed of another device: set beside what is published, and no verdict on it"""
    UNPUBLISHED = "not published"


_STRENGTH = {Verdict.REPRODUCED: 2, Verdict.OTHER_UNIT: 1}
"""what may be expected of a cell that comes out; all else is 0"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One cell, judged."""

    table: str
    row: str
    column: str
    quantity: str
    unit: str
    published: str | None
    """as printed"""
    origin: str
    """printed, stated or derived"""
    value: float | None
    """what is published, as a number in the column's unit"""
    ours: float | None
    """in the same unit, by the paper's counting"""
    stored: float | None
    measured: float | None
    sequences: int | None = None
    """of the micro-batch that the trace and a measurement hold; None for single layers"""
    verdict: Verdict
    expected: str
    because: str = ""
    note: str = ""

    @property
    def is_published(self) -> bool:
        """Printed or stated; what is derived from such cells proves nothing more."""
        return self.published is not None and self.origin != "derived"

    @property
    def is_lost(self) -> bool:
        """A cell that is marked as reproducible and does not come out."""
        if self.verdict is Verdict.UNPUBLISHED:
            return False
        return _STRENGTH.get(self.verdict, 0) < _STRENGTH.get(Verdict(self.expected), 0)

    @property
    def difference(self) -> float | None:
        """How far ours is from what is published, relative to it."""
        return None if self.ours is None or not self.value else self.ours / self.value - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Obeyed:
    """An identity among printed cells, for one column."""

    table: str
    says: str
    column: str
    gap: float
    """what the terms add up to, in the unit of the table"""
    allowed: float
    """how far from 0 the rounding of printed digits can bring it"""
    expected: bool
    note: str = ""

    @property
    def holds(self) -> bool:
        return abs(self.gap) <= self.allowed * (1 + SLACK)

    @property
    def is_lost(self) -> bool:
        return self.expected and not self.holds


@dataclass(frozen=True, slots=True)
class Reproduction:
    """All that came out."""

    paper: Paper
    tables: tuple[Table, ...]
    results: tuple[Result, ...]
    identities: tuple[Obeyed, ...]
    measured_on: str | None = None
    """whose measurements stand beside; a speed is one device's"""

    @property
    def lost(self) -> list[Result]:
        """Cells that are marked as reproducible and did not come out."""
        return [result for result in self.results if result.is_lost]

    @property
    def broken(self) -> list[Obeyed]:
        """Identities that were found in the printed cells, and are not there."""
        return [each for each in self.identities if each.is_lost]

    @property
    def is_true(self) -> bool:
        return not self.lost and not self.broken

    def of(self, table: Table) -> list[Result]:
        return [result for result in self.results if result.table == table.id]

    def counts(self, table: Table | None = None) -> dict[Verdict, int]:
        """How many cells that the paper prints or states came to each verdict, in all tables or in one."""
        results = self.results if table is None else self.of(table)
        found = [result.verdict for result in results if result.is_published]
        return {verdict: found.count(verdict) for verdict in Verdict if verdict in found}

    @property
    def derived(self) -> int:
        """Cells that were made from published ones or by the same counting, and prove nothing."""
        return sum(each.origin == "derived" and each.published is not None for each in self.results)
