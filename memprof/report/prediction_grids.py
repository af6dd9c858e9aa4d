"""Prediction against measurement in words: three grids of text, once for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from memprof.prediction import BY_PHASE, Cell, Gap, Pair, Prediction, States, Summary, Target
from memprof.record import Record
from memprof.report.columns import NONE, SHORT, size
from memprof.report.describe import labels, models, plain

NAMES = {
    "trace": "trace peak", "pool": "simulated allocated", "reserved": "simulated reserved",
    "replay": "replayed reserved", "formula": "formula peak",
} | {pair.key: f"trace, {pair.key}" for pair in BY_PHASE}  # fmt: skip
MEASURED = {"reserved": "reserved", "replay": "reserved, recorded"}
"""what a prediction is held against, where it is not the allocated peak"""
HEADS = {"trace": "Trace", "pool": "Sim.", "reserved": "Sim. reserved", "replay": "Replay", "formula": "Formula"}
Say = Callable[[Cell], str]


@dataclass(frozen=True, slots=True)
class Field:
    """A column of a grid: `rank` says how long it stays when a terminal is narrow, the highest longest."""

    header: str
    cells: list[str]
    rank: int
    is_text: bool = False


@dataclass(frozen=True, slots=True)
class Grid:
    title: str
    fields: list[Field]


def grids(prediction: Prediction, unit: str) -> Iterator[Grid]:
    """Cell by cell, phase by phase where phases are known, and over all."""
    seen = [summary.pair for summary in prediction.summaries]
    yield Grid(title(prediction, unit), [*_named(prediction), *_whole(prediction, seen, unit)])
    phases = [pair for pair in seen if pair in BY_PHASE]
    if phases:
        yield Grid(
            f"The peak of each phase by trace, {unit}", [*_named(prediction), *_by_phase(prediction, phases, unit)]
        )
    yield Grid("Over all cells", _over_all(prediction))


def title(prediction: Prediction, unit: str) -> str:
    return f"{', '.join(models(cell.record for cell in prediction.cells))}: prediction against measurement, {unit}"


def off(gap: Gap | None) -> str:
    """By how much a prediction is off, with its sign; "exact" is to the byte."""
    if gap is None:
        return NONE
    if gap.predicted == gap.measured:
        return "exact"
    return f"{gap.error * 100:+.2f} %" if abs(gap.error) >= 5e-5 else f"{gap.predicted - gap.measured:+d} B"


def target(aim: Target | None) -> str:
    """At most so far off: in the median, and in the worst cell."""
    if aim is None:
        return NONE
    return ", ".join(NONE if share is None else f"{share * 100:g} %" for share in (aim.median, aim.worst))


def names(prediction: Prediction) -> dict[str, str]:
    """Each cell's record by its id, with its model where there are several."""
    records = [cell.record for cell in prediction.cells]
    several = len(models(records)) > 1
    said = zip(records, labels(records), strict=True)
    return {record.id: f"{plain(record.model)} {label}" if several else label for record, label in said}


def _named(prediction: Prediction) -> list[Field]:
    return [Field("Method", list(names(prediction).values()), 100, True)]


def _whole(prediction: Prediction, seen: Sequence[Pair], unit: str) -> Iterator[Field]:
    """The measured peak first, then each prediction with how far it is off; what no cell has has no column."""
    here = {pair.key for pair in seen}
    say = [("Peak", _measured("peak", unit), 85)]
    say += [pair for key in ("formula", "trace", "pool") if key in here for pair in _both(key, unit)]
    on_gpu = [
        cell.record.measured for cell in prediction.cells if cell.record.measured and cell.record.measured.reserved
    ]
    say += [("Reserved", _measured("reserved", unit), 70)] if on_gpu else []
    say += [pair for key in ("reserved", "replay") if key in here for pair in _both(key, unit)]
    say += [("Device (NVML)", _measured("device", unit), 30)] if any(each.device for each in on_gpu) else []
    for header, cell, rank in say:
        yield Field(header, [cell(each) for each in prediction.cells], rank)
    if prediction.states:
        yield Field("States", [_states(cell) for cell in prediction.cells], 88)


def _measured(key: str, unit: str) -> Say:
    return lambda cell: size(getattr(cell.record.measured, key), unit)


_OFF = {"trace": 95, "reserved": 92, "pool": 90, "replay": 80, "formula": 75}


def _both(key: str, unit: str) -> list[tuple[str, Say, int]]:
    def predicted(cell: Cell) -> str:
        return size(cell.gaps[key].predicted, unit) if key in cell.gaps else NONE

    return [
        (HEADS[key], predicted, _OFF[key] - 45),
        (f"{HEADS[key]} off", lambda cell: off(cell.gaps.get(key)), _OFF[key]),
    ]


def _states(cell: Cell) -> str:
    """The state that is furthest off, in bytes."""
    if not cell.states:
        return NONE
    key, nbytes = max(cell.states.items(), key=lambda each: abs(each[1]))
    return f"{nbytes:+d} B {SHORT[key]}" if nbytes else "exact"


def _by_phase(prediction: Prediction, phases: Sequence[Pair], unit: str) -> Iterator[Field]:
    for number, pair in enumerate(phases):
        gaps = [cell.gaps.get(pair.key) for cell in prediction.cells]
        head = pair.key.capitalize()
        yield Field(f"{head} trace", [size(gap.predicted if gap else None, unit) for gap in gaps], 40 - number)
        yield Field(f"{head} measured", [size(gap.measured if gap else None, unit) for gap in gaps], 50 - number)
        yield Field(f"{head} off", [off(gap) for gap in gaps], 90 - number)


def _over_all(prediction: Prediction) -> list[Field]:
    """A line for each pair and one for the states."""
    known = names(prediction)
    lines = [_summary(each, known) for each in prediction.summaries]
    lines += [_over_states(prediction.states, known)] if prediction.states else []
    heads = (("Predicted", 100, True), ("Against", 40, True), ("Cells", 60, False), ("Median", 90, False),
             ("Worst", 90, False), ("Below", 70, False), ("Target", 93, True), ("Verdict", 95, True),
             ("Worst cell", 55, True))  # fmt: skip
    columns = zip(*lines, strict=True)
    return [Field(name, list(cells), rank, text) for (name, rank, text), cells in zip(heads, columns, strict=True)]


def _summary(summary: Summary, known: dict[str, str]) -> list[str]:
    key = summary.pair.key
    against = MEASURED.get(key, "allocated peak" if summary.pair not in BY_PHASE else f"allocated, {key}")
    figures = [str(summary.cells), f"{summary.median * 100:.2f} %", off(summary.worst), str(summary.below)]
    ends = [target(summary.pair.target), verdict(summary.met), _cell(summary.worst_cell, known)]
    return [NAMES[key], against, *figures, *ends]


def _over_states(states: States, known: dict[str, str]) -> list[str]:
    worst = f"{states.worst:+d} B {SHORT[states.worst_key]}" if states.worst_key else "exact"
    where = _cell(states.worst_cell, known) if states.worst_cell else NONE
    exact = f"{states.exact} exact"
    return ["states", "to the byte", str(states.cells), exact, worst, NONE, "exact", verdict(states.met), where]


def verdict(met: bool | None) -> str:
    return NONE if met is None else "met" if met else "NOT MET"


def _cell(record: Record, known: dict[str, str]) -> str:
    return known[record.id]
