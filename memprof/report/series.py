"""What charts show before anything is drawn, the same for a PNG and for the page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from memprof.record import History, Memory
from memprof.report.columns import size
from memprof.report.describe import BASELINE, setting
from memprof.report.palette import NAMES, PALETTE
from memprof.report.rows import Row
from memprof.units import counted

KEYS = ("param", "grad", "optimizer_state", "activation", "peak", "reserved")
"""figures over which prediction and measurement are held together"""


def phases(history: History) -> list[tuple[str, int, int]]:
    """Each phase with the events between which it lies, in order; a phase that comes again is named again."""
    found: list[tuple[str, int, int]] = []
    for name, event in zip(history.phase, history.event, strict=True):
        if found and found[-1][0] == name:
            found[-1] = (name, found[-1][1], event)
        else:
            found.append((name, found[-1][2] if found else 0, event))
    return found


def corners(history: History, tolerance: float = 0.005) -> list[int]:
    """The instants that a drawing needs: without the others no edge of the stack shifts by more than `tolerance` of
    its height. First, last and worst are among them."""
    edges = [list(edge) for edge in zip(*map(accumulate, _instants(history)), strict=True)]
    total = edges[-1]
    worst = total.index(max(total))
    kept = sorted({0, worst, len(total) - 1})
    open_spans, limit = list(pairwise(kept)), tolerance * total[worst]
    found = set(kept)
    while open_spans:
        begin, end = open_spans.pop()
        between = ((_shift(history, edges, begin, at, end), at) for at in range(begin + 1, end))
        shift, middle = max(between, default=(0.0, begin))
        if shift > limit:
            found.add(middle)
            open_spans += [(begin, middle), (middle, end)]
    return sorted(found)


def _instants(history: History) -> Iterator[tuple[int, ...]]:
    """Bytes by category, in the order of the stack, at each instant."""
    return zip(*(getattr(history, name) for name in PALETTE), strict=True)


def _shift(history: History, edges: Sequence[Sequence[int]], begin: int, at: int, end: int) -> float:
    """How far the edge that moves most is from the straight line between two instants."""
    first, last = history.event[begin], history.event[end]
    share = (history.event[at] - first) / (last - first) if last > first else 0.0
    return max(abs(edge[begin] + share * (edge[end] - edge[begin]) - edge[at]) for edge in edges)


def steps(row: Row) -> list[tuple[str, int]]:
    """Category and its bytes more or less than AdamW's, those that fell first; what did not change is left out."""
    changes = [(name, nbytes) for name, nbytes in (row.change or {}).items() if nbytes]
    return sorted(changes, key=lambda pair: pair[1])


def settings(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by what surrounds the method: only within a model, batch size and so on does one stand beside another.

    The name says what tells a group from the others: nothing where there is one.
    """
    records, several = [row.record for row in rows], len({row.model for row in rows}) > 1
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[f"{row.model if several else ''} {setting(row.record, records)}".strip()].append(row)
    return groups


def baseline_label(row: Row, rows: Sequence[Row]) -> str:
    """What the AdamW beside a row is called among these."""
    return next((other.label for other in rows if other.record is row.baseline), BASELINE)


def ends(row: Row) -> tuple[Memory, Memory]:
    """What the same witness says of AdamW and of the method."""
    assert row.saving_by is not None
    return getattr(row.baseline, row.saving_by), getattr(row.record, row.saving_by)


def signed(change: int, unit: str) -> str:
    """More or less, in `unit`; no change is 0, and one that is there never rounds to it."""
    return f"{'-' if change < 0 else '+'}{size(abs(change), unit)}" if change else "0"


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether no other point is both lighter (first) and faster (second), and better in one at least."""
    return [not any(_beats(other, point) for other in points) for point in points]


def _beats(other: tuple[float, float], point: tuple[float, float]) -> bool:
    return other[0] <= point[0] and other[1] >= point[1] and other != point


@dataclass(frozen=True, slots=True)
class Pair:
    """One figure of one cell, in bytes, by trace and by measurement."""

    label: str
    key: str
    predicted: int
    measured: int

    @property
    def gap(self) -> float:
        """Prediction over measurement, minus one."""
        return self.predicted / self.measured - 1 if self.measured else 0.0


def agreement(rows: Sequence[Row]) -> list[Pair]:
    """Every figure that both a trace and a measurement have and that is not nothing."""
    both = [(row.label, row.record.trace, row.record.measured) for row in rows]
    pairs = [
        Pair(label, key, getattr(trace, key), getattr(measured, key))
        for label, trace, measured in both
        if trace and measured
        for key in KEYS
    ]
    return [pair for pair in pairs if pair.predicted and pair.measured]


def verdict(pairs: Sequence[Pair]) -> str:
    """How many are equal, and which is furthest off."""
    equal = sum(pair.predicted == pair.measured for pair in pairs)
    worst = max(pairs, key=lambda pair: abs(pair.gap))
    said = f"{equal} of {counted(len(pairs), 'figure')} equal to the byte"
    if equal == len(pairs):
        return f"{said}."
    off = f"{worst.gap * 100:+.2f} %" if abs(worst.gap) >= 5e-5 else f"{worst.predicted - worst.measured:+d} bytes"
    return f"{said}; furthest off: {NAMES.get(worst.key, worst.key)} of {worst.label}, {off}."
