"""A step's timeline as areas of an SVG: drawn once, so that zooming only moves its window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memprof.record import History
from memprof.report.columns import size
from memprof.report.palette import PALETTE
from memprof.report.rows import Row
from memprof.report.series import corners, phases
from memprof.units import UNITS

SIDE = 1000
"""units of the SVG's own coordinates, across and down"""
HEADROOM = 1.12


@dataclass(frozen=True, slots=True)
class Area:
    """Everything up to and with one category, so that areas drawn from the top down leave a stack."""

    look: str
    path: str


@dataclass(frozen=True, slots=True)
class Stretch:
    """A phase, from and to in shares of the step's events."""

    name: str
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Mark:
    """A height with what is written there; `top` is per cent from above."""

    text: str
    top: float


@dataclass(frozen=True, slots=True)
class Plot:
    """One record's timeline."""

    key: str
    name: str
    areas: tuple[Area, ...]
    phases: tuple[Stretch, ...]
    ticks: tuple[Mark, ...]
    peak: Mark
    peak_at: float
    """share of the step's events"""
    data: dict[str, object]
    """what a reader's cursor tells: instants, phases and bytes"""


def plots(rows: Sequence[Row], unit: str) -> list[Plot]:
    """Every record that keeps its timeline, on one scale for each model; first an AdamW, then what is not AdamW."""
    kept = [(row, row.record.trace.timeline) for row in rows if row.record.trace and row.record.trace.timeline]
    most: dict[str, int] = {}
    for row, history in kept:
        most[row.model] = max(most.get(row.model, 1), *history.total)
    first = next((row for row, _ in kept if row.is_baseline), None)
    ordered = sorted(kept, key=lambda pair: 0 if pair[0] is first else 2 if pair[0].is_baseline else 1)
    several = len(most) > 1
    return [_plot(row, history, unit, most[row.model] * HEADROOM, several) for row, history in ordered]


def _plot(row: Row, history: History, unit: str, top: float, several: bool) -> Plot:
    last, total = history.events or 1, history.total
    worst = total.index(max(total))
    columns = {name: getattr(history, name) for name in PALETTE}
    return Plot(
        key=row.record.id,
        name=f"{row.model} {row.label}" if several else row.label,
        areas=tuple(_areas(history, top)),
        phases=tuple(Stretch(name, begin / last, end / last) for name, begin, end in phases(history)),
        ticks=tuple(_ticks(top, unit)),
        peak=Mark(f"peak {size(total[worst], unit)}", 100 - 100 * total[worst] / top),
        peak_at=history.event[worst] / last,
        data={"events": history.events, "event": history.event, "phase": history.phase, **columns},
    )


def _areas(history: History, top: float) -> list[Area]:
    """The highest first; a category that is nowhere has none."""
    drawn = corners(history)
    across = [round(SIDE * history.event[at] / (history.events or 1), 1) for at in drawn]
    below, areas = [0] * len(across), []
    for name in PALETTE:
        column = [getattr(history, name)[at] for at in drawn]
        below = [sum(pair) for pair in zip(below, column, strict=True)]
        if any(column):
            heights = [round(SIDE - SIDE * nbytes / top, 1) for nbytes in below]
            edge = "L".join(f"{x:g} {y:g}" for x, y in zip(across, heights, strict=True))
            areas.append(Area(name, f"M0 {SIDE}L{edge}L{across[-1]:g} {SIDE}Z"))
    return areas[::-1]


def _ticks(top: float, unit: str) -> list[Mark]:
    """Three or four round heights."""
    highest = top / UNITS[unit]
    return [Mark(f"{value:g}", 100 - 100 * value / highest) for value in round_values(highest)]


def round_values(highest: float) -> list[float]:
    """0 and a few round numbers up to `highest`."""
    if highest <= 0:
        return [0.0]
    scale = 10.0 ** (len(f"{highest:.0f}") - 1) if highest >= 1 else 10.0 ** -len(f"{1 / highest:.0f}")
    for share in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0):
        if highest / (share * scale) < 5:
            step = share * scale
            return [round(step * number, 12) for number in range(int(highest / step) + 1)]
    return [0.0]
