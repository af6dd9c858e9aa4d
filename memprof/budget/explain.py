"""Why a budget failed: which category grew, since which baseline, in which phase, and what made it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memprof.budget.baseline import Baseline
from memprof.budget.limits import SPEED, Limit
from memprof.diff.apart import differences
from memprof.diff.speed import OF_THE_MACHINE
from memprof.record import Interval, Memory, Pool, Record
from memprof.report.describe import plain
from memprof.timeline import EXTRA, PARAM

_UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
_NAMED = 2
"""how many of the operations that made `extra` are named"""
_SHARE_OF_MODEL = 0.05
"""growth from this share of the parameters on is also told as a multiple of them"""
_BY_PEAK = ("peak", "reserved", "device")
"""figures that the categories at the peak explain"""


def amount(nbytes: int, signed: bool = False) -> str:
    """Bytes in the unit that suits them, so that a byte too many is seen as such: "1 B", "820.10 MiB"."""
    sign = "-" if nbytes < 0 else "+" if signed and nbytes > 0 else ""
    size = abs(nbytes)
    for unit, bytes_each in _UNITS:
        if size >= bytes_each:
            return f"{sign}{size / bytes_each:.2f} {unit}"
    return f"{sign}{size} B"


def rate(per_second: float, signed: bool = False) -> str:
    """Examples per second to three digits, and never as a power of ten."""
    sign = "+" if signed else ""
    return f"{per_second:{sign},.0f}" if abs(per_second) >= 100 else f"{per_second:{sign}.3g}"


def value_of(record: Record, key: str) -> int | None:
    """A record's figure, by the strongest witness that is not the formula; `total` is the formula's alone."""
    memory = record.formula if key == "total" else witness(record)
    value: int | None = getattr(memory, key, None)
    return value


def witness(record: Record) -> Memory | None:
    """Whose figures are gated: the measurement's where there was to be one, else the trace's."""
    return record.trace if record.scenario.get("device") is None else record.measured


def explain(record: Record, limit: Limit, baseline: Baseline | None, environment: Mapping[str, Any]) -> tuple[str, ...]:
    """Lines for whoever has to mend it. Without a baseline, what the peak is made of."""
    memory = witness(record)
    old = baseline.records.get(record.id) if baseline else None
    then = witness(old) if old else None
    if memory is None:
        return ()
    if baseline is None or old is None or then is None:
        return (*_held(memory, limit.key), *_parts(memory)) if limit.key in _BY_PEAK else ()
    return (*_growth(limit.key, record, old, baseline), *_other_versions(baseline, environment))


def explain_change(record: Record, former: Record, limit: Limit, baseline: Baseline) -> tuple[str, ...]:
    """In what this scenario is not the one that was accepted for its budget, and what that costs."""
    first = f"{baseline.name} has another scenario for this budget: {differences(former, record)}"
    if limit.key == SPEED:
        return (first, *_former_speed(former.measured.examples_per_second if former.measured else None))
    now, before = value_of(record, limit.key), value_of(former, limit.key)
    if now is None or before is None:
        return (first,)
    if now <= before:
        return (first, f"{limit.key} did not grow: there it was {amount(before)}")
    return (first, *_growth(limit.key, record, former, baseline))


def _former_speed(speed: Interval | None) -> tuple[str, ...]:
    return (f"there it was {rate(speed.median)}/s ({rate(speed.low)} to {rate(speed.high)})",) if speed else ()


def other_machine(baseline: Baseline, environment: Mapping[str, Any]) -> tuple[str, ...]:
    """In what the baseline's machine is not this one: then neither speed nor what a driver reserves can be compared."""
    pairs = [(key, baseline.environment.get(key), environment.get(key)) for key in OF_THE_MACHINE]
    return tuple(
        f"the baseline is of {key} {plain(old)}, this is {key} {plain(new)}"
        for key, old, new in pairs
        if old is not None and new is not None and old != new
    )


def _held(memory: Memory, key: str) -> tuple[str, ...]:
    """What the allocator would hold beside tensors, where that is what is over its limit."""
    pool: Pool | None = getattr(memory, "pool", None)
    if key != "reserved" or pool is None:
        return ()
    taken = [f"{plain(name)} {amount(size)}" for name, size in pool.workspaces.items()]
    inside = f" (of it {', '.join(taken)})" if taken else ""
    told = f"held, by the allocator's rules: {amount(pool.allocated)} allocated{inside}"
    rest = f"{amount(pool.fragmentation)} in fragments, {amount(pool.cached)} cached"
    return (f"{told}, {rest}; {amount(pool.reserved_expandable)} with expandable_segments",)


def _parts(memory: Memory) -> tuple[str, ...]:
    largest = sorted(memory.peak_by_category.items(), key=lambda item: -item[1])
    parts = ", ".join(f"{plain(name)} {amount(size)}" for name, size in largest if size)
    return (f"at the peak, in {plain(memory.peak_phase)}: {parts}", *_makers(memory, None))


def _growth(key: str, record: Record, old: Record, baseline: Baseline) -> tuple[str, ...]:
    """How the figure and, for a peak, its categories changed."""
    memory, then = witness(record), witness(old)
    now, before = value_of(record, key), value_of(old, key)
    if memory is None or then is None or now is None or before is None:
        return ()
    since = f"since {baseline.name}"
    if now <= before:
        return (f"{key} did not grow {since}: the limit is below what was accepted there",)
    share = f" (+{(now - before) / before:.1%})" if before else ""
    line = f"{since} {key} grew by {amount(now - before)}{share}"
    if key not in _BY_PEAK:
        return (line,)
    categories = _categories(memory, then)
    return (f"{line}: {categories}" if categories else line, *_phases(memory, then), *_makers(memory, then))


def _categories(memory: Memory, then: Memory) -> str:
    """What each category at the peak gained or lost, the largest growth first."""
    names = dict.fromkeys([*memory.peak_by_category, *then.peak_by_category])
    change = {name: memory.peak_by_category.get(name, 0) - then.peak_by_category.get(name, 0) for name in names}
    changed = sorted(((name, size) for name, size in change.items() if size), key=lambda item: -item[1])
    model = memory.peak_by_category.get(PARAM, 0)
    return ", ".join(f"{plain(name)} {amount(size, signed=True)}{_multiple(size, model)}" for name, size in changed)


def _multiple(growth: int, model: int) -> str:
    return f" ({growth / model:.2f} x param)" if model and growth >= _SHARE_OF_MODEL * model else ""


def _phases(memory: Memory, then: Memory) -> tuple[str, ...]:
    here, there = plain(memory.peak_phase), plain(then.peak_phase)
    return (f"the peak is in {here}" + (f"; it was in {there}" if here != there else ""),)


def _makers(memory: Memory, then: Memory | None) -> tuple[str, ...]:
    """The operations that made `extra`, or more of it than before."""
    if not memory.peak_by_category.get(EXTRA):
        return ()
    now: dict[str, int] = getattr(memory, "extra_by_maker", {})
    before: dict[str, int] = getattr(then, "extra_by_maker", {})
    more = {name: size - before.get(name, 0) for name, size in now.items()}
    grown = sorted(((name, size) for name, size in more.items() if size > 0), key=lambda item: -item[1])[:_NAMED]
    what = "extra grew in" if then else "extra was made by"
    made = ", ".join(f"{plain(name)} {amount(size, signed=then is not None)}" for name, size in grown)
    return (f"{what} {made}",) if made else ()


def _other_versions(baseline: Baseline, environment: Mapping[str, Any]) -> tuple[str, ...]:
    """Another torch may allocate otherwise: say so before anybody looks for the fault in his own code."""
    pairs = [(key, _release(baseline.environment, key), _release(environment, key)) for key in ("torch", "memprof")]
    return tuple(
        f"the baseline is of {k} {old}, this is {k} {new}" for k, old, new in pairs if old and new and old != new
    )


def _release(environment: Mapping[str, Any], key: str) -> str:
    """A version without its build: torch 2.11.0+cpu traces as 2.11.0+cu130 does."""
    return plain(environment.get(key, "")).partition("+")[0]


def why_absent(key: str, device: Any) -> str:
    """Why a record has no such figure, and what has."""
    if key == "reserved" and device is None:
        return "a trace of CPU kernels has none: no allocator reserves memory on a CPU"
    if device is None:
        return "a trace has no such figure; --measure has"
    if key == "reserved" and device == "cpu":
        return "no allocator reserves memory on a CPU; limit `device`, the resident set, instead"
    if key == "device":
        return f"{plain(device)} does not say what this process uses; memprof doctor says why"
    return f"it is not to be had on {plain(device)}"
