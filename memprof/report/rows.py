"""Records to rows, once for every renderer: which witness speaks, and how the record stands against AdamW."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from memprof.errors import MemprofError
from memprof.record import Interval, Memory, Pool, Record, Speed
from memprof.report.describe import BASELINE, OWN_COUNTING, labels, plain

TOO_SMALL = 2**30 // 100
"""a peak below this is nothing but "0.01" or less in GiB"""
WITNESSES = ("measured", "trace", "formula")
"""strongest first"""
YES, TIGHT, NO = "yes", "tight", "no"
"""whether a memory is enough"""
PEAK, SUM, EITHER = "peak", "sum", "peak or sum"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One record, ready to be shown. Sizes are bytes; None is a figure that is not to be had."""

    record: Record
    label: str
    """the method's name, with whatever tells it from the other rows"""
    witness: str | None
    """who says what `memory` holds"""
    memory: Memory | None
    saving: float | None
    """share of AdamW's peak that is saved, negative when heavier; None without AdamW in the same scenario"""
    saving_by: str | None
    """the witness of `saving`: weaker than `witness` where AdamW itself was not seen by that one"""
    is_baseline: bool
    fits: str | None
    """yes, tight or no; None where nobody can say"""
    fits_by: str | None
    """the witness of `fits`, which may be a stronger one than that of `memory`: no device has to hold a sum"""
    baseline: Record | None
    """AdamW in the same scenario"""

    @property
    def model(self) -> str:
        return plain(self.record.model)

    @property
    def is_sum(self) -> bool:
        """Whether `memory` is a paper's sum, and its peak no instant."""
        return self.memory is not None and self.memory.is_sum

    @property
    def peak(self) -> int | None:
        return self.memory.peak if self.memory else None

    @property
    def refresh_peak(self) -> int | None:
        return self.memory.refresh_peak if self.memory else None

    @property
    def change(self) -> dict[str, int] | None:
        """Category to the bytes it has more than at AdamW's peak; they sum to the difference of the peaks."""
        if self.baseline is None or self.saving_by is None:
            return None
        mine, theirs = getattr(self.record, self.saving_by), getattr(self.baseline, self.saving_by)
        return dict(mine.peak_change(theirs))

    @property
    def paper_total(self) -> int | None:
        """None beside a sum, which is that total already."""
        return None if self.record.formula is None or self.is_sum else self.record.formula.total

    @property
    def difference(self) -> tuple[str, float] | None:
        """The key in which formula and trace differ most, and by how much of the trace; None where they count
        differently."""
        counts_alike = self.record.formula is not None and not self.record.formula.is_sum
        return self.record.difference("formula", "trace") if counts_alike else None

    @property
    def examples_per_second(self) -> Interval | None:
        return self.record.measured.examples_per_second if self.record.measured else None

    @property
    def tokens_per_second(self) -> float | None:
        return self.record.measured.tokens_per_second if self.record.measured else None

    @property
    def speed(self) -> Speed | None:
        """How the speed was come by."""
        return self.record.measured.speed if self.record.measured else None

    @property
    def ratio(self) -> Interval | None:
        """Examples per second over AdamW's, paired by round; None where AdamW did not run beside it."""
        return self.speed.ratio if self.speed else None

    @property
    def losses(self) -> tuple[float | None, float | None] | None:
        """Of the first and of the last measured step, on the same tokens; None within where one is not finite."""
        measured = self.record.measured
        both = (measured.loss_first, measured.loss_last) if measured else (None, None)
        return None if both == (None, None) else both

    @property
    def status(self) -> str:
        """Empty when all went well."""
        failure = [] if self.record.status == "ok" else [self.record.status]
        return ", ".join([*failure, *(plain(flag) for flag in self.record.flags)])

    @property
    def reason(self) -> str:
        return plain(self.record.reason or "")


def make_rows(records: Sequence[Record], *, by: str | None = None, fits: int | None = None) -> list[Row]:
    """A row for each record, in the order given; by its strongest witness unless `by` names one."""
    if by is not None and by not in WITNESSES:
        raise MemprofError(f"unknown witness {by!r}; choose from {', '.join(reversed(WITNESSES))}")
    baselines = _baselines(records)
    named = zip(records, labels(records), strict=True)
    return [_row(record, label, baselines.get(_surroundings(record)), by, fits) for record, label in named]


def names(rows: Sequence[Row]) -> list[str]:
    """What each row is called where no column says its model: with it, where there are several."""
    several = len({row.model for row in rows}) > 1
    return [f"{row.model} {row.label}" if several else row.label for row in rows]


def featured(rows: Sequence[Row], most: int = 8) -> list[Row]:
    """As many rows as a chart has panels for, in their order: the baselines and those that save most."""
    ranked = sorted(rows, key=lambda row: (not row.is_baseline, -(row.saving or 0.0)))[:most]
    return [row for row in rows if row in ranked]


def suitable_unit(records: Sequence[Record]) -> str:
    """GiB, unless there is nothing to be read in it."""
    spoken = [memory for record in records if (memory := _said(record, _witness(record, None)))]
    peaks = [max(memory.peak, memory.refresh_peak or 0) for memory in spoken]
    return "MiB" if peaks and max(peaks) < TOO_SMALL else "GiB"


def peak_name(rows: Sequence[Row]) -> str:
    """What stands where a peak does: the peak of a step, or a paper's sum."""
    kinds = {row.is_sum for row in rows if row.memory}
    return EITHER if len(kinds) > 1 else SUM if True in kinds else PEAK


def peak_memory(rows: Sequence[Row]) -> str:
    """The same, as a chart names its axis."""
    name = peak_name(rows)
    return "peak memory" if name == PEAK else f"{name} of memory"


def _row(record: Record, label: str, baseline: Record | None, by: str | None, fits: int | None) -> Row:
    witness = _witness(record, by)
    memory = _said(record, witness)
    saving, saving_by = _saving(record, baseline, witness)
    judge = None if fits is None else _judge(record)
    return Row(
        record=record,
        label=label,
        witness=witness,
        memory=memory,
        saving=saving,
        saving_by=saving_by,
        is_baseline=record is baseline and memory is not None,
        baseline=baseline,
        fits=None if judge is None or fits is None else _fitting(getattr(record, judge), fits),
        fits_by=judge,
    )


def _judge(record: Record) -> str | None:
    """Who says whether it fits: the strongest witness that sees instants."""
    seen = ((name, _said(record, name)) for name in WITNESSES)
    return next((name for name, memory in seen if memory and not memory.is_sum), None)


def _fitting(memory: Memory, size: int) -> str:
    """Whether a device of that many bytes holds it, by what is alive at most and by what the allocator would hold.

    Between the two, the allocator has to give back segments before it gets others: it may succeed, slowly.
    """
    alive = max(memory.peak, memory.refresh_peak or 0)
    pool: Pool | None = getattr(memory, "pool", None)
    reserved: int | None = getattr(memory, "reserved", None)
    if max(alive, pool.allocated if pool else 0) > size:
        return NO
    return YES if max(alive, reserved or 0) <= size else TIGHT


def _witness(record: Record, by: str | None) -> str | None:
    """The strongest that ran, or the one asked for. A paper's counting is an option of the formula, so that speaks."""
    is_own = record.scenario.get("counting", OWN_COUNTING) == OWN_COUNTING
    asked = (by,) if by else WITNESSES if is_own else ("formula",)
    return next((name for name in asked if getattr(record, name) is not None), None)


def _said(record: Record, witness: str | None) -> Memory | None:
    memory: Memory | None = getattr(record, witness) if witness else None
    return memory


def _saving(record: Record, baseline: Record | None, witness: str | None) -> tuple[float | None, str | None]:
    """By the strongest witness that saw both: a measured peak is never set against a predicted one, nor any against
    a sum."""
    if baseline is None or witness is None:
        return None, None
    for name in WITNESSES[WITNESSES.index(witness) :]:
        mine, theirs = _said(record, name), _said(baseline, name)
        alike = mine and theirs and mine.is_sum == theirs.is_sum == getattr(record, witness).is_sum
        if alike and mine and theirs and theirs.peak:
            return 1 - mine.peak / theirs.peak, name
    return None, None


def _baselines(records: Sequence[Record]) -> dict[str, Record]:
    """The first AdamW that any witness saw, by what surrounds it."""
    found: dict[str, Record] = {}
    for record in records:
        if record.method == BASELINE and record.best is not None:
            found.setdefault(_surroundings(record), record)
    return found


def _surroundings(record: Record) -> str:
    """The scenario without its method: records that share it may be compared."""
    rest = {key: value for key, value in record.scenario.items() if key not in ("method", "hyperparameters", "given")}
    return json.dumps(rest, sort_keys=True, default=str)
