"""Records against budgets: a verdict for every limit. Bytes gate exactly, speed only where its interval is clear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from memprof.budget.baseline import Baseline
from memprof.budget.config import Budget
from memprof.budget.explain import explain, rate, value_of
from memprof.budget.limits import SPEED, Kind, Limit
from memprof.errors import NothingToDoError
from memprof.record import Interval, Record
from memprof.report.describe import plain


class Verdict(StrEnum):
    """PASS to the limit itself. Only FAIL and BROKEN make a check end in anything but 0."""

    PASS = "pass"
    FAIL = "FAIL"
    WARN = "warn"
    """slower than asked for, where speed is not gated"""
    INCONCLUSIVE = "inconclusive"
    """the interval of the speed lies on both sides of the limit"""
    NOT_MEASURED = "not measured"
    """a trace has no such figure"""
    BROKEN = "broken"
    """the cell ran out of memory, crashed or took too long"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One limit of one budget, held against one record."""

    budget: Budget
    limit: Limit
    verdict: Verdict
    bound: float | None = None
    """bytes that may be there at most, or examples per second there must be at least"""
    actual: float | None = None
    """bytes, or the median of the examples per second"""
    interval: Interval | None = None
    why: tuple[str, ...] = ()

    @property
    def headroom(self) -> float | None:
        """How far the figure may still go; negative where it went too far."""
        if self.bound is None or self.actual is None:
            return None
        at_most = self.limit.kind in (Kind.SIZE, Kind.INCREASE)
        return self.bound - self.actual if at_most else self.actual - self.bound


def check_records(
    budgets: Sequence[Budget],
    records: Sequence[Record],
    baseline: Baseline | None = None,
    environment: Mapping[str, Any] | None = None,
) -> list[Check]:
    """Every limit of every budget against the record at its place; a limit that has no baseline is an error."""
    pairs = list(zip(budgets, records, strict=True))
    for budget, record in pairs:
        if record.status == "ok":
            require_baseline(budget, record.id, baseline, measured=record.measured is not None)
    return [
        _check(budget, limit, record, baseline, environment or {})
        for budget, record in pairs
        for limit in budget.limits
    ]


def require_baseline(
    budget: Budget, record_id: str, baseline: Baseline | None, name: str = "the baseline", *, measured: bool = False
) -> None:
    """Raise where a limit counts from a baseline and there is none for this scenario: that is never a pass."""
    counting = [limit for limit in budget.limits if limit.needs_baseline and (measured or limit.key != SPEED)]
    if not counting:
        return
    if baseline is None:
        raise NothingToDoError(
            f"budget {budget.name!r}: {'.'.join(counting[0].path)} counts from {name}, which is not there; "
            "make it with memprof check --update and commit it"
        )
    old = baseline.records.get(record_id)
    if old is None or old.status != "ok":
        raise NothingToDoError(
            f"budget {budget.name!r}: {baseline.name} has no record of this scenario, which is new or has changed; "
            "accept it with memprof check --update"
        )


def _check(
    budget: Budget, limit: Limit, record: Record, baseline: Baseline | None, environment: Mapping[str, Any]
) -> Check:
    if record.status != "ok":
        reason = f"{record.status}: {plain(record.reason or 'no reason was given')}"
        return Check(budget=budget, limit=limit, verdict=Verdict.BROKEN, why=(reason,))
    old = baseline.records.get(record.id) if baseline else None
    if limit.kind in (Kind.SPEED, Kind.SPEED_RATIO):
        return _check_speed(budget, limit, record, old, baseline)
    actual = value_of(record, limit.key)
    if actual is None:
        return _not_measured(budget, limit, record)
    before = value_of(old, limit.key) if old and limit.needs_baseline else 0
    if before is None:
        raise _not_in_baseline(budget, limit, baseline)
    bound = limit.most(before)
    if actual <= bound:
        return Check(budget=budget, limit=limit, verdict=Verdict.PASS, bound=bound, actual=actual)
    why = explain(record, limit, baseline, environment)
    return Check(budget=budget, limit=limit, verdict=Verdict.FAIL, bound=bound, actual=actual, why=why)


def _check_speed(budget: Budget, limit: Limit, record: Record, old: Record | None, baseline: Baseline | None) -> Check:
    """To pass, the slowest that the interval allows must be fast enough; to fail, the fastest must be too slow."""
    speed = _speed(record)
    if speed is None:
        return _not_measured(budget, limit, record)
    reference = _speed(old) if limit.needs_baseline else Interval(median=1.0, low=1.0, high=1.0)
    if reference is None:
        raise _not_in_baseline(budget, limit, baseline)
    bound = limit.rate * reference.median
    if speed.low >= limit.rate * reference.high:
        verdict = Verdict.PASS
    elif speed.high < limit.rate * reference.low:
        verdict = Verdict.FAIL if budget.gate_throughput else Verdict.WARN
    else:
        verdict = Verdict.INCONCLUSIVE
    return Check(budget=budget, limit=limit, verdict=verdict, bound=bound, actual=speed.median, interval=speed,
                 why=_speed_reasons(verdict, speed, bound))  # fmt: skip


def _speed(record: Record | None) -> Interval | None:
    return record.measured.examples_per_second if record and record.measured else None


def _speed_reasons(verdict: Verdict, speed: Interval, bound: float) -> tuple[str, ...]:
    if verdict is Verdict.PASS:
        return ()
    where = "has the limit inside it" if verdict is Verdict.INCONCLUSIVE else "is all below the limit"
    said = f"the interval of {rate(speed.low)} to {rate(speed.high)} examples per second {where}, {rate(bound)}"
    hint = ("more --steps make it narrower",) if verdict is Verdict.INCONCLUSIVE else ()
    return (said, *hint)


def _not_in_baseline(budget: Budget, limit: Limit, baseline: Baseline | None) -> NothingToDoError:
    name = baseline.name if baseline else "the baseline"
    return NothingToDoError(
        f"budget {budget.name!r}: {name} has no {limit.key} for this scenario; accept it with memprof check --update"
    )


def _not_measured(budget: Budget, limit: Limit, record: Record) -> Check:
    why = _why_absent(limit.key, record.scenario.get("device"))
    return Check(budget=budget, limit=limit, verdict=Verdict.NOT_MEASURED, why=(why,))


def _why_absent(key: str, device: Any) -> str:
    if device is None:
        return "a trace has no such figure; --measure has"
    if key == "reserved" and device == "cpu":
        return "no allocator reserves memory on a CPU; limit `device`, the resident set, instead"
    if key == "device":
        return f"{plain(device)} does not say what this process uses; memprof doctor says why"
    return f"it is not to be had on {plain(device)}"
