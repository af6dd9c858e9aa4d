"""The columns of a comparison, for the terminal and for Markdown alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memprof.record import Interval
from memprof.report.rows import EITHER, PEAK, SUM, Row, peak_name
from memprof.units import UNITS, format_size

NONE = "-"
SHORT = {
    "param": "Param", "grad": "Grad", "optimizer_state": "OS", "activation": "Act", "extra": "Extra", "peak": "Peak",
    "refresh_peak": "Refresh peak",
}  # fmt: skip
"""how a table calls each key of a record"""
NARROW = 0.015
"""a ratio's interval below this would be one figure twice in two digits"""
PEAKS = (PEAK.capitalize(), SUM.capitalize(), EITHER.capitalize())
"""how the column of peaks may be headed"""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: `rank` says how long it stays when a terminal is narrow, the highest longest."""

    header: str
    cell: Callable[[Row], str]
    rank: int
    is_text: bool = False
    value: Callable[[Row], int | float | None] | None = None
    """what `cell` rounds: bytes as an integer, a share or a speed as a float"""


def choose(rows: Sequence[Row], unit: str, fits: int | None) -> list[Column]:
    """The columns that these rows have something to say in."""
    several = len({row.model for row in rows}) > 1
    refresh = Column("Refresh peak", lambda row: size(row.refresh_peak, unit), 58, value=lambda row: row.refresh_peak)
    paper = Column("Paper total", lambda row: size(row.paper_total, unit), 40, value=lambda row: row.paper_total)
    rate = Column("Examples/s", lambda row: speed(row.examples_per_second), 80, value=_rate)
    candidates: list[tuple[bool, Column]] = [
        (several, Column("Model", lambda row: row.model, 100, True)),
        (True, Column("Method", lambda row: row.label, 100, True)),
        *((True, column) for column in _sizes(unit, peak_name(rows).capitalize())),
        (_any(rows, "refresh_peak"), refresh),
        (_any(rows, "saving"), Column("vs AdamW", saving, 90, value=lambda row: row.saving)),
        (_any(rows, "paper_total"), paper),
        (_any(rows, "difference"), Column("Formula - trace", difference, 55, value=_gap)),
        (fits is not None, Column(f"Fits {limit(fits or 0, unit)}", fitting, 85)),
        (_any(rows, "examples_per_second"), rate),
        (_any(rows, "losses"), Column("Loss", losses, 30, value=lambda row: row.losses[1] if row.losses else None)),
        (_any(rows, "ratio"), Column("Speed vs AdamW", _against, 42, value=_ratio)),
        (any(row.status for row in rows), Column("Status", lambda row: row.status or "ok", 95, True)),
    ]
    return [column for wanted, column in candidates if wanted]


def _sizes(unit: str, peak: str) -> list[Column]:
    ranks = {"param": 65, "grad": 60, "optimizer_state": 75, "activation": 70, "extra": 45, "peak": 99}
    headers = SHORT | {"peak": peak}
    return [_size_column(key, headers[key], unit, rank) for key, rank in ranks.items()]


def _size_column(key: str, header: str, unit: str, rank: int) -> Column:
    def nbytes(row: Row) -> int | None:
        return getattr(row.memory, key) if row.memory else None

    return Column(header, lambda row: size(nbytes(row), unit), rank, value=nbytes)


def _gap(row: Row) -> float | None:
    return row.difference[1] if row.difference else None


def _rate(row: Row) -> float | None:
    return row.examples_per_second.median if row.examples_per_second else None


def _against(row: Row) -> str:
    return "baseline" if row.record is row.baseline else ratio(row.ratio)


def _ratio(row: Row) -> float | None:
    return row.ratio.median if row.ratio else None


def _any(rows: Sequence[Row], name: str) -> bool:
    return any(getattr(row, name) is not None for row in rows)


def size(nbytes: int | None, unit: str) -> str:
    """The number in `unit`; what is there but rounds away is not called zero."""
    if nbytes is None:
        return NONE
    text = format_size(nbytes, unit, digits=0 if unit == "B" else 2)
    return "<0.01" if nbytes > 0 and float(text) == 0 else text


def limit(nbytes: int, unit: str) -> str:
    number = nbytes / UNITS[unit]
    return f"{number:.4g} {unit}" if number < 1000 else f"{number:.0f} {unit}"


def saving(row: Row) -> str:
    if row.is_baseline:
        return "baseline"
    return NONE if row.saving is None else percent(row.saving)


def percent(share: float) -> str:
    """One decimal, and never a minus before a zero."""
    return f"{round(share * 100, 1) + 0.0:.1f} %"


def difference(row: Row) -> str:
    """The largest relative difference with its key; "exact" where there is none."""
    if row.difference is None:
        return NONE
    key, gap = row.difference
    if gap == 0:
        return "exact"
    if math.isinf(gap):
        return f"{SHORT[key]}: trace 0"
    return f"{gap * 100:+.2f} % {SHORT[key]}" if abs(gap) >= 5e-5 else f"<0.01 % {SHORT[key]}"


def fitting(row: Row) -> str:
    return row.fits or NONE


def losses(row: Row) -> str:
    """`10.395 -> 10.298`"""
    if row.losses is None:
        return NONE
    return " -> ".join("not finite" if loss is None else f"{loss:.3f}" for loss in row.losses)


def speed(interval: Interval | None) -> str:
    """The median with its interval, all to the digits that suit the median."""
    if interval is None:
        return NONE
    digits = speed_digits(interval.median)
    return f"{interval.median:.{digits}f} ({interval.low:.{digits}f}-{interval.high:.{digits}f})"


def speed_digits(median: float) -> int:
    """Behind the point."""
    return 0 if median >= 1000 else 1 if median >= 100 else 2 if median >= 10 else 3


def ratio(interval: Interval | None) -> str:
    """`0.98x [0.97, 0.99]`; more digits where the interval is narrow, or where they tell on which side of 1 it ends."""
    if interval is None:
        return NONE
    ends = (interval.low, interval.high)
    least = 2 if interval.high - interval.low >= NARROW else 3
    digits = next((n for n in (2, 3) if n >= least and all(round(end, n) != 1 or end == 1 for end in ends)), 4)
    return f"{interval.median:.{digits}f}x [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
