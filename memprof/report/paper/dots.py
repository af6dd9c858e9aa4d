"""The points of a paper's chart: memprof's figure over the published one, and which of them lie far off."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memprof.papers.cells import NUMBER
from memprof.papers.result import Result
from memprof.report.describe import plain
from memprof.report.paper.grid import WITNESSES
from memprof.units import UNITS

COMMON = "GiB"
FAR = 1.5
"""memprof's over published, or the reverse, from which on a point is named"""


@dataclass(frozen=True, slots=True)
class Dot:
    """One witness's figure for one published size."""

    field: str
    published: float
    """in GiB"""
    ratio: float
    row: str
    column: str

    @property
    def distance(self) -> float:
        return abs(math.log(self.ratio))


def dots_of(results: Sequence[Result]) -> Iterator[Dot]:
    """Sizes that are printed or stated as a figure: a limit is none, and what is derived proves nothing."""
    for each in results:
        match = NUMBER.fullmatch(each.published or "")
        if each.quantity != "bytes" or not each.is_published or match is None or match[1] or not each.value:
            continue
        for field in WITNESSES.values():
            figure: float | None = getattr(each, field)
            if figure and figure / each.value > 0:
                published = abs(each.value) * UNITS[each.unit or "B"] / UNITS[COMMON]
                yield Dot(field, published, figure / each.value, plain(each.row), plain(each.column))


def far(dots: Sequence[Dot]) -> dict[str, Dot]:
    """Columns that lie far off, each named once, at its farthest point; a single row by its own name."""
    columns: dict[str, list[Dot]] = {}
    for dot in dots:
        if dot.distance > math.log(FAR):
            columns.setdefault(dot.column, []).append(dot)
    return {
        column if len({dot.row for dot in members}) > 1 else members[0].row: max(members, key=lambda dot: dot.distance)
        for column, members in columns.items()
    }
