"""What was predicted against what was measured, cell by cell: how far each is off, and whether that is near enough.

Reads records and runs nothing. Bytes are integers; an error is prediction over measurement less one: below 0, more was
needed than had been foretold.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from memprof.errors import NothingToDoError
from memprof.record import Memory, Record
from memprof.schema import PHASES

SCHEMA_VERSION = 1
STATES = ("param", "optimizer_state", "grad")
"""what must be equal to the byte"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """How near is near enough: of the errors without their sign, the median and the largest."""

    median: float
    worst: float | None = None


TRACE_PEAK = Target(median=0.01, worst=0.03)
RESERVED = Target(median=0.03)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two figures of one record that should be the same, by the path that leads to each."""

    key: str
    """in documents and files"""
    predicted: str
    measured: str
    target: Target | None = None


WHOLE = (
    Pair(key="trace", predicted="trace.peak", measured="measured.peak", target=TRACE_PEAK),
    Pair(key="pool", predicted="trace.pool.allocated", measured="measured.peak"),
    Pair(key="reserved", predicted="trace.reserved", measured="measured.reserved", target=RESERVED),
    Pair(key="replay", predicted="measured.closure.replayed_reserved", measured="measured.closure.reserved"),
    Pair(key="formula", predicted="formula.peak", measured="measured.peak"),
)
"""of a whole step or run"""
BY_PHASE = tuple(
    Pair(key=phase, predicted=f"trace.phase_peaks.{phase}", measured=f"measured.phase_peaks.{phase}")
    for phase in PHASES
)
"""of each phase alone"""
PAIRS = (*WHOLE, *BY_PHASE)


@dataclass(frozen=True, slots=True)
class Gap:
    """A prediction and its measurement, which is not nothing."""

    predicted: int
    measured: int

    @property
    def error(self) -> float:
        return (self.predicted - self.measured) / self.measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One measured record, what of it was predicted, and by how many bytes the trace misses each state."""

    record: Record
    gaps: Mapping[str, Gap]
    states: Mapping[str, int]
    """trace less measurement; empty without a trace"""

    @property
    def exact(self) -> bool | None:
        return not any(self.states.values()) if self.states else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One pair over all cells that have it."""

    pair: Pair
    cells: int
    median: float
    """of the errors without their sign"""
    worst: Gap
    worst_cell: Record
    below: int
    """how often less was predicted than was measured"""

    @property
    def met(self) -> bool | None:
        """Whether the target is; None without one."""
        target = self.pair.target
        if target is None:
            return None
        return self.median <= target.median and (target.worst is None or abs(self.worst.error) <= target.worst)


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """Parameters, optimizer state and gradients over all cells that were traced."""

    cells: int
    exact: int
    worst: int
    """bytes by which one of them is off, with its sign"""
    worst_key: str | None
    worst_cell: Record | None

    @property
    def met(self) -> bool:
        return self.exact == self.cells


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """All of it. A pair that no cell has is in no summary."""

    cells: Sequence[Cell]
    summaries: Sequence[Summary]
    states: States | None

    @property
    def missed(self) -> list[str]:
        """The targets that were missed, by name; one that nothing was held against is not missed."""
        names = [each.pair.key for each in self.summaries if each.met is False]
        return [*names, *(["states"] if self.states and not self.states.met else [])]

    def document(self) -> str:
        """As JSON, a cell by its record's id."""
        cells = [_cell(cell) for cell in self.cells]
        states = self.states and _of_states(self.states)
        summary = {each.pair.key: _summary(each) for each in self.summaries}
        whole = {"schema_version": SCHEMA_VERSION, "cells": cells, "summary": summary, "states": states}
        return json.dumps(whole, indent=2, allow_nan=False)


def predict(records: Sequence[Record]) -> Prediction:
    """Every record that was measured, beside what was said of it before."""
    cells = [_seen(record) for record in records if record.measured]
    if not any(cell.gaps or cell.states for cell in cells):
        raise NothingToDoError("no record here was both predicted and measured; add --measure to memprof compare")
    summaries = [_summed(pair, cells) for pair in PAIRS if any(pair.key in cell.gaps for cell in cells)]
    return Prediction(cells=cells, summaries=summaries, states=_states(cells))


def _seen(record: Record) -> Cell:
    pairs = {pair.key: (_figure(record, pair.predicted), _figure(record, pair.measured)) for pair in PAIRS}
    known = {key: Gap(one, other) for key, (one, other) in pairs.items() if one is not None and other}
    traced, measured = record.trace, record.measured
    both = [(key, getattr(traced, key), getattr(measured, key)) for key in STATES] if traced and measured else []
    return Cell(record=record, gaps=known, states={key: one - other for key, one, other in both})


def _figure(record: Record, path: str) -> int | None:
    """The bytes at the path's end, where all on the way is there. A paper's sum over categories is no peak."""
    value: Any = record
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name)
        if value is None or (isinstance(value, Memory) and value.is_sum):
            return None
    return int(value)


def _summed(pair: Pair, cells: Sequence[Cell]) -> Summary:
    seen = [(cell.gaps[pair.key], cell.record) for cell in cells if pair.key in cell.gaps]
    worst, where = max(seen, key=lambda each: abs(each[0].error))
    return Summary(
        pair=pair,
        cells=len(seen),
        median=statistics.median(abs(gap.error) for gap, _ in seen),
        worst=worst,
        worst_cell=where,
        below=sum(gap.error < 0 for gap, _ in seen),
    )


def _states(cells: Sequence[Cell]) -> States | None:
    traced = [cell for cell in cells if cell.states]
    if not traced:
        return None
    off = [(nbytes, key, cell.record) for cell in traced for key, nbytes in cell.states.items() if nbytes]
    nbytes, key, where = max(off, key=lambda each: abs(each[0]), default=(0, None, None))
    exact = sum(cell.exact is True for cell in traced)
    return States(cells=len(traced), exact=exact, worst=nbytes, worst_key=key, worst_cell=where)


def _cell(cell: Cell) -> dict[str, Any]:
    gaps = {key: _gap(gap) for key, gap in cell.gaps.items()}
    device = cell.record.measured and cell.record.measured.device
    named = {"id": cell.record.id, "model": cell.record.model, "method": cell.record.method, "device": device}
    return {**named, "pairs": gaps, "states": dict(cell.states) or None}


def _gap(gap: Gap) -> dict[str, Any]:
    return asdict(gap) | {"error": gap.error}


def _summary(each: Summary) -> dict[str, Any]:
    worst = _gap(each.worst) | {"id": each.worst_cell.id}
    target = each.pair.target and asdict(each.pair.target)
    figures = {"cells": each.cells, "median": each.median, "worst": worst, "below": each.below}
    return {**figures, "target": target, "met": each.met}


def _of_states(states: States) -> dict[str, Any]:
    worst = {"key": states.worst_key, "bytes": states.worst, "id": states.worst_cell and states.worst_cell.id}
    return {"cells": states.cells, "exact": states.exact, "worst": worst, "met": states.met}
