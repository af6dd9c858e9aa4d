"""Budget files and made-up records: sizes are chosen so that every answer can be had by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from memprof.budget.config import BudgetFile, read_budgets
from memprof.record import Formula, Interval, Measured, Record, Trace

MIB = 2**20
CATEGORIES = ("param", "grad", "optimizer_state", "activation", "extra")
MakeRecord = Callable[..., Record]
WriteBudgets = Callable[..., BudgetFile]


def make_record(
    at_peak: tuple[int, int, int, int, int] = (100, 100, 200, 50, 50),
    *,
    unit: int = MIB,
    phase: str = "backward",
    makers: Mapping[str, int] | None = None,
    speed: tuple[float, float, float] | None = None,
    device: str | None = None,
    refresh: int | None = None,
    reserved: int | None = None,
    status: str = "ok",
    reason: str | None = None,
    record_id: str = "abc",
) -> Record:
    """A record whose peak is the sum of the five; `speed` is low, median and high."""
    sizes: dict[str, Any] = {name: size * unit for name, size in zip(CATEGORIES, at_peak, strict=True)}
    sizes |= {"peak": sum(at_peak) * unit, "peak_phase": phase, "peak_by_category": dict(sizes)}
    sizes |= {"steady": (at_peak[0] + at_peak[2]) * unit, "refresh_peak": refresh}
    by_maker = dict(makers or {})
    interval = None if speed is None else Interval(low=speed[0], median=speed[1], high=speed[2])
    measured = Measured(**sizes, extra_by_maker=by_maker, reserved=reserved, examples_per_second=interval)
    return Record(
        id=record_id,
        scenario={"model": "1b", "method": "adamw", "device": device},
        status=status,
        reason=reason,
        formula=Formula(**sizes, total=777 * unit),
        trace=Trace(**sizes, extra_by_maker=by_maker),
        measured=measured if device is not None and status == "ok" else None,
    )


@pytest.fixture
def record() -> MakeRecord:
    return make_record


@pytest.fixture
def budgets(tmp_path: Path) -> WriteBudgets:
    """Writes a budget file and reads it; plain keys become one budget called "b"."""

    def write(text: str, whole: bool = False, name: str = "memprof.toml") -> BudgetFile:
        content = text if whole else f'[[budget]]\nname = "b"\n{text}\n'
        (tmp_path / name).write_bytes(content.encode())
        return read_budgets(tmp_path / name)

    return write
