"""Records against budgets: a verdict for every limit. Bytes gate exactly, speed only where its interval is clear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from memprof.budget.baseline import Baseline, update_command
from memprof.budget.config import Budget
from memprof.budget.explain import explain, explain_change, other_machine, rate, value_of, why_absent
from memprof.budget.limits import SPEED, Kind, Limit
from memprof.diff.speed import DISTURBED
from memprof.errors import NothingToDoError
from memprof.record import Interval, Record
from memprof.report.describe import plain


class Verdict(StrEnum):
    """PASS to the limit itself. Only FAIL, BROKEN and CHANGED make a check end in anything but 0."""

    PASS = "pass"
    FAIL = "FAIL"
    WARN = "warn"
    """slower than asked for, where speed is not gated"""
    INCONCLUSIVE = "inconclusive"
    """the interval of the speed lies on both sides of the limit, or the baseline is of another machine"""
    CHANGED = "scenario changed"
    """the baseline has this budget, but of another scenario"""
    NOT_MEASURED = "not measured"
    """a trace has no such figure"""
    BROKEN = "broken"
    """the cell ran out of memory, crashed or took too long, or it was measured and nobody had this figure"""


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
            require_baseline(budget, record.id, baseline, device=record.scenario.get("device"))
    return [
        _check(budget, limit, record, baseline, environment or {})
        for budget, record in pairs
        for limit in budget.limits
    ]


def require_baseline(
    budget: Budget, record_id: str, baseline: Baseline | None, name: str = "the baseline", *, device: str | None = None
) -> None:
    """Raise where a limit counts from a baseline that knows neither this scenario nor this budget: never a pass."""
    counting = [limit for limit in budget.limits if limit.needs_baseline and (device or limit.key != SPEED)]
    if not counting:
        return
    if baseline is None:
        raise NothingToDoError(
            f"budget {budget.name!r}: {'.'.join(counting[0].path)} counts from {name}, which is not there; "
            f"make it with {update_command(device)} and commit it"
        )
    if _accepted(baseline, record_id) or baseline.former(budget.name, device):
        return
    what = "of this scenario, which is new or has changed"
    if not any(record.scenario.get("device") == device for record in baseline.records.values()):
        what = "made by trace" if device is None else f"measured on {device}"
    raise NothingToDoError(
        f"budget {budget.name!r}: {baseline.name} has no record {what}; accept it with {update_command(device)}"
    )


def _accepted(baseline: Baseline | None, record_id: str) -> Record | None:
    found = baseline.records.get(record_id) if baseline else None
    return found if found and found.status == "ok" else None


def _check(
    budget: Budget, limit: Limit, record: Record, baseline: Baseline | None, environment: Mapping[str, Any]
) -> Check:
    if record.status != "ok":
        reason = f"{record.status}: {plain(record.reason or 'no reason was given')}"
        return Check(budget=budget, limit=limit, verdict=Verdict.BROKEN, why=(reason,))
    speed = _speed(record)
    actual = value_of(record, limit.key) if limit.key != SPEED else speed.median if speed else None
    if actual is None:
        return _not_measured(budget, limit, record)
    old = _accepted(baseline, record.id)
    if limit.needs_baseline and baseline and old is None:
        return _changed(budget, limit, record, baseline, actual)
    apart = other_machine(baseline, environment) if limit.needs_baseline and baseline else ()
    if speed and limit.key == SPEED:
        return _check_speed(budget, limit, record, baseline, speed, apart)
    before = value_of(old, limit.key) if old and limit.needs_baseline else 0
    if before is None:
        raise _not_in_baseline(budget, limit, record, baseline)
    bound = limit.most(before)
    if apart and record.measured is not None and limit.key in ("reserved", "device"):
        return Check(budget=budget, limit=limit, verdict=Verdict.INCONCLUSIVE, bound=bound, actual=actual, why=apart)
    if actual <= bound:
        return Check(budget=budget, limit=limit, verdict=Verdict.PASS, bound=bound, actual=actual)
    why = explain(record, limit, baseline, environment)
    return Check(budget=budget, limit=limit, verdict=Verdict.FAIL, bound=bound, actual=actual, why=why)


def _changed(budget: Budget, limit: Limit, record: Record, baseline: Baseline, actual: float) -> Check:
    """Of a scenario that is not the accepted one: how much heavier it is than that, and no verdict."""
    former = baseline.former(budget.name, record.scenario.get("device"))
    if former is None:
        raise _not_in_baseline(budget, limit, record, baseline)
    interval, then, bound = _speed(record) if limit.key == SPEED else None, _speed(former), None
    before = value_of(former, limit.key)
    if interval and then:
        bound = limit.rate * then.median
    elif before is not None:
        bound = limit.most(before)
    why = explain_change(record, former, limit, baseline)
    return Check(budget=budget, limit=limit, verdict=Verdict.CHANGED, bound=bound, actual=actual, interval=interval,
                 why=why)  # fmt: skip


def _check_speed(
    budget: Budget, limit: Limit, record: Record, baseline: Baseline | None, speed: Interval, apart: tuple[str, ...]
) -> Check:
    """To pass, the slowest that the interval allows must be fast enough; to fail, the fastest must be too slow."""
    old = _accepted(baseline, record.id)
    reference = _speed(old) if limit.needs_baseline else Interval(median=1.0, low=1.0, high=1.0)
    if reference is None:
        raise _not_in_baseline(budget, limit, record, baseline)
    least = Interval(**{end: limit.rate * value for end, value in asdict(reference).items()})
    flags = tuple(f"the run is flagged {flag}" for flag in DISTURBED if flag in record.flags)
    why: tuple[str, ...] = (*apart, *flags)
    if why:
        verdict = Verdict.INCONCLUSIVE
    elif speed.low >= least.high:
        verdict = Verdict.PASS
    elif speed.high < least.low:
        verdict = Verdict.FAIL if budget.gate_throughput else Verdict.WARN
        why = (f"{_span(speed)} examples per second is all below the limit, {_span(least)}",)
    else:
        verdict = Verdict.INCONCLUSIVE
        why = (f"{_span(speed)} examples per second is not clear of the limit, {_span(least)}", _NARROWER)
    return Check(budget=budget, limit=limit, verdict=verdict, bound=least.median, actual=speed.median, interval=speed,
                 why=why)  # fmt: skip


_NARROWER = "more --rounds make an interval narrower"


def _span(speed: Interval) -> str:
    """`the interval of 8 to 12`; of a limit that is one number, that number."""
    if speed.low == speed.high:
        return rate(speed.median)
    return f"the interval of {rate(speed.low)} to {rate(speed.high)}"


def _speed(record: Record | None) -> Interval | None:
    return record.measured.examples_per_second if record and record.measured else None


def _not_in_baseline(budget: Budget, limit: Limit, record: Record, baseline: Baseline | None) -> NothingToDoError:
    name, accept = baseline.name if baseline else "the baseline", update_command(record.scenario.get("device"))
    return NothingToDoError(f"budget {budget.name!r}: {name} has no {limit.key} for this scenario; accept it: {accept}")


def _not_measured(budget: Budget, limit: Limit, record: Record) -> Check:
    """A trace need not have every figure; a measurement that lacks one leaves its limit open, which is no pass."""
    device = record.scenario.get("device")
    verdict = Verdict.NOT_MEASURED if device is None else Verdict.BROKEN
    bound = limit.size if limit.kind is Kind.SIZE else None
    return Check(budget=budget, limit=limit, verdict=verdict, bound=bound, why=(why_absent(limit.key, device),))
