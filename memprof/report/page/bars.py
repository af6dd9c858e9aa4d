"""Stacks and steps of bytes as parts of a bar's width, for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memprof.report.captions import SPOKEN
from memprof.report.columns import percent, size
from memprof.report.palette import NAMES, PALETTE
from memprof.report.rows import Row
from memprof.report.series import baseline_label, ends, signed, steps


@dataclass(frozen=True, slots=True)
class Piece:
    """A rectangle in a bar; `start` and `width` are per cent of the bar's room."""

    look: str
    """a category, or `from` and `to` for the whole peaks at a waterfall's ends"""
    start: float
    width: float


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of a bar chart."""

    name: str
    pieces: tuple[Piece, ...]
    text: str
    """the figure that is written beside it"""
    tip: str
    """all of it to the byte, a line for each part"""
    key: str = ""
    """the record it belongs to; empty for a step of a waterfall"""


@dataclass(frozen=True, slots=True)
class Waterfall:
    """From AdamW's peak to a method's."""

    name: str
    said: str
    bars: tuple[Bar, ...]


def stacks(rows: Sequence[Row], unit: str) -> list[Bar]:
    """Each row's peak by category, on one scale for each model."""
    return [_stack(row, unit, _most(rows, row.model)) for row in rows]


def exact(nbytes: int) -> str:
    """All digits, in groups of three."""
    return f"{nbytes:,} bytes"


def spelled(by_category: Mapping[str, int], total: int) -> str:
    """Categories that are there, each with its bytes, and their sum."""
    parts = [f"{NAMES[name]} {exact(by_category[name])}" for name in PALETTE if by_category.get(name)]
    return "\n".join([*parts, f"together {exact(total)}"])


def _most(rows: Sequence[Row], model: str) -> int:
    return max((row.peak or 0 for row in rows if row.model == model), default=0) or 1


def _stack(row: Row, unit: str, most: int) -> Bar:
    if row.memory is None:
        text = f"{row.status}: {row.reason}" if row.reason else row.status or "no figures"
        return Bar(row.label, (), text, text, row.record.id)
    pieces, start = [], 0
    for name in PALETTE:
        nbytes = row.memory.peak_by_category.get(name, 0)
        if nbytes > 0:
            pieces.append(Piece(name, 100 * start / most, 100 * nbytes / most))
        start += nbytes
    when = "a sum over categories" if row.is_sum else f"worst in {row.memory.peak_phase}"
    tip = f"{row.label}, {row.witness}, {when}\n"
    tip += spelled(row.memory.peak_by_category, row.memory.peak)
    return Bar(row.label, tuple(pieces), size(row.peak, unit), tip, row.record.id)


def waterfalls(rows: Sequence[Row], unit: str) -> list[Waterfall]:
    """One for each row that has an AdamW beside it, those that save most first."""
    beside = [row for row in rows if row.change is not None and not row.is_baseline]
    several = len({row.model for row in beside}) > 1
    ordered = sorted(beside, key=lambda row: -(row.saving or 0.0))
    return [_waterfall(row, baseline_label(row, rows), unit, several) for row in ordered]


def _waterfall(row: Row, baseline: str, unit: str, several: bool) -> Waterfall:
    before, after = ends(row)
    most = 1.0 * max(before.peak, after.peak) or 1.0
    bars = [_whole(baseline, "from", before.peak, most, unit)]
    reached = before.peak
    for category, change in steps(row):
        piece = Piece(category, 100 * min(reached, reached + change) / most, 100 * abs(change) / most)
        bars.append(Bar(NAMES[category], (piece,), signed(change, unit), f"{change:+,} bytes"))
        reached += change
    bars.append(_whole(row.label, "to", after.peak, most, unit))
    share = row.saving or 0.0
    less = "less" if share >= 0 else "more"
    said = f"{size(after.peak, unit)} {unit}, {percent(abs(share))} {less} than AdamW, {SPOKEN[row.saving_by or '']}"
    return Waterfall(f"{row.model} {row.label}" if several else row.label, said, tuple(bars))


def _whole(name: str, look: str, peak: int, most: float, unit: str) -> Bar:
    return Bar(name, (Piece(look, 0, 100 * peak / most),), size(peak, unit), exact(peak))
