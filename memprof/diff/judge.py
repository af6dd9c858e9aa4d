"""Verdicts: bytes exactly, speed by interval, and how a cell ended.

`diff(A, B)` says improved where `diff(B, A)` says worse, and missing where that says new; the rest is the same both
ways. Whatever is added here must keep that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memprof.diff.apart import nearest, why_none_joined
from memprof.diff.join import Joined, join
from memprof.diff.speed import DISTURBED, doubted, doubts, without_speed
from memprof.diff.tolerance import Tolerance
from memprof.difference import (
    BYTES,
    IMPROVED,
    INCONCLUSIVE,
    MISSING,
    NEW,
    SAME,
    SPEED,
    STATUS,
    WORSE,
    Difference,
    Figure,
    Pair,
    Run,
    Value,
)  # fmt: skip
from memprof.errors import MemprofError, NothingToDoError
from memprof.record import Interval, Measured, Memory, Record
from memprof.timeline import CATEGORIES

WITNESSES = ("measured", "trace", "formula")
"""strongest first"""
FAILED = ("oom", "crashed", "timeout")
"""a cell that was tried and did not end; the other bad statuses say that nobody tried"""


def diff(
    before: Run, after: Run, *, by: str | None = None, tolerance: Tolerance | None = None, speed: bool = True
) -> Difference:
    """Figure by figure, by the strongest witness that both runs have of a scenario, or by the one asked for.

    Without `speed` it is about bytes alone, and how cells ended.
    """
    if by is not None and by not in WITNESSES:
        raise MemprofError(f"unknown witness {by!r}; choose from {', '.join(reversed(WITNESSES))}")
    limit = tolerance or Tolerance()
    found = join(before.records, after.records)
    if not any(joined_on for _, _, joined_on in found):
        why = why_none_joined(before.records, after.records)
        raise NothingToDoError(f"{before.name} and {after.name} have no scenario in common: {why}")
    notes = _without_partner(found)
    pairs = tuple(_pair(joined, by, limit, notes) for joined in found)
    pairs = tuple(doubted(pair, doubts(before, after)) if speed else without_speed(pair) for pair in pairs)
    shared = [pair for pair in pairs if pair.joined_on]
    if not any(pair.figures for pair in shared):
        raise NothingToDoError(f"no scenario of {before.name} and {after.name} has figures {_whose(by)} in both")
    return Difference(before=before, after=after, pairs=pairs, tolerance=limit.text, by=by)


def _whose(by: str | None) -> str:
    return "of one witness" if by is None else "that were measured on one device" if by == "measured" else f"by {by}"


def _without_partner(found: Sequence[Joined]) -> dict[str, str]:
    """By the id of a scenario that only the first run has: what keeps the second run's most alike one from it."""
    lost = [before for before, after, _ in found if before and not after]
    new = [after for before, after, _ in found if after and not before]
    told = nearest(lost, new).items()
    return {ident: f"the nearest scenario of the other run differs in {where}" for ident, where in told if where}


def _pair(joined: Joined, by: str | None, tolerance: Tolerance, notes: Mapping[str, str]) -> Pair:
    before, after, joined_on = joined
    figures: tuple[Figure, ...]
    if before is None or after is None:
        witness, figures = _alone(before, after, by, notes)
    else:
        witness = _shared_witness(before, after, by)
        figures = (*_memory(before, after, witness, tolerance), *_speed(before, after, witness, tolerance))
        figures += _status(before, after)
    return Pair(before=before, after=after, joined_on=joined_on, witness=witness, figures=figures)


def _alone(
    before: Record | None, after: Record | None, by: str | None, notes: Mapping[str, str]
) -> tuple[str | None, tuple[Figure, ...]]:
    """A scenario that only one run has: one figure stands for all."""
    record = before or after
    assert record is not None
    witness = next((name for name in _asked(by) if getattr(record, name)), None)
    key, value = (STATUS, record.status) if witness is None else ("peak", getattr(record, witness).peak)
    return witness, (_half(key, value, None, notes.get(record.id, "")) if before else _half(key, None, value),)


def _asked(by: str | None) -> tuple[str, ...]:
    return WITNESSES if by is None else (by,)


def _shared_witness(before: Record, after: Record, by: str | None) -> str | None:
    """What was measured on a CPU is never set against what was measured on a GPU."""
    same_device = before.scenario.get("device") == after.scenario.get("device")
    for name in _asked(by):
        if getattr(before, name) and getattr(after, name) and (name != "measured" or same_device):
            return name
    return None


def _half(key: str, before: Value, after: Value, note: str = "") -> Figure:
    return Figure(key=key, before=before, after=after, verdict=NEW if before is None else MISSING, note=note)


def _memory(before: Record, after: Record, witness: str | None, tolerance: Tolerance) -> list[Figure]:
    if witness is None:
        return []
    one, other = getattr(before, witness), getattr(after, witness)
    values = ((key, getattr(one, key), getattr(other, key)) for key in BYTES)
    figures = [_bytes(*value, tolerance) for value in values if value[1:] != (None, None)]
    return [_explained(figure, one, other) for figure in figures]


def _bytes(key: str, before: int | None, after: int | None, tolerance: Tolerance) -> Figure:
    if before is None or after is None:
        return _half(key, before, after)
    verdict = SAME if tolerance.allows(before, after) else WORSE if after > before else IMPROVED
    return Figure(key=key, before=before, after=after, verdict=verdict)


def _explained(figure: Figure, one: Memory, other: Memory) -> Figure:
    """A changed peak with what changed at that instant, a changed `extra` with what is largest in it now."""
    note, parts = "", {}
    if figure.verdict in (IMPROVED, WORSE) and figure.key == "peak":
        if one.peak_phase != other.peak_phase:
            note = f"now in {other.peak_phase}, before in {one.peak_phase}"
        shares = one.peak_by_category, other.peak_by_category
        changes = {key: shares[1].get(key, 0) - shares[0].get(key, 0) for key in CATEGORIES}
        parts = {key: change for key, change in changes.items() if change}
    elif figure.verdict in (IMPROVED, WORSE) and figure.key == "extra":
        largest = getattr(other, "extra_largest", "")
        note = f"largest now {largest}" if largest else ""
    elif figure.verdict not in (IMPROVED, WORSE):
        return figure
    return Figure(
        key=figure.key, before=figure.before, after=figure.after, verdict=figure.verdict, note=note, parts=parts
    )


def _speed(before: Record, after: Record, witness: str | None, tolerance: Tolerance) -> list[Figure]:
    """Speed is measured, so only a measurement that both have says anything of it."""
    if witness != "measured":
        return []
    one, other = _pace(before.measured), _pace(after.measured)
    if one is None and other is None:
        return []
    if one is None or other is None:
        return [_half(SPEED, one, other)]
    verdict, note = judge_speed(one, other, tolerance), ""
    flags = [flag for flag in DISTURBED if flag in before.flags or flag in after.flags]
    if flags and verdict in (IMPROVED, WORSE):
        verdict, note = INCONCLUSIVE, f"a run is flagged {' and '.join(flags)}"
    return [Figure(key=SPEED, before=one, after=other, verdict=verdict, note=note)]


def _pace(measured: Measured | None) -> Interval | None:
    return measured.examples_per_second if measured else None


def judge_speed(before: Interval, after: Interval, tolerance: Tolerance) -> str:
    """Surely beyond the tolerance, surely within it, or not to be told from these intervals."""
    most = 1 + float(tolerance.share)
    if before == after or max(before.high, after.high) <= min(before.low, after.low) * most:
        return SAME
    if after.low > before.high * most:
        return IMPROVED
    return WORSE if before.low > after.high * most else INCONCLUSIVE


def _status(before: Record, after: Record) -> tuple[Figure, ...]:
    """How the cells ended, where one did not end well: figures of a weaker witness must not hide it."""
    one, other = before.status, after.status
    if one == other == "ok":
        return ()
    verdict = SAME if one == other else INCONCLUSIVE
    if one == "ok" and other in FAILED:
        verdict = WORSE
    if one in FAILED and other == "ok":
        verdict = IMPROVED
    reason = (after.reason if other != "ok" else before.reason) or ""
    return (Figure(key=STATUS, before=one, after=other, verdict=verdict, note=reason),)
