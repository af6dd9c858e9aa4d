"""Made-up records to store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from memprof.record import Formula, Record

GIB = 2**30


def make(method: str, peak: int = 10) -> Record:
    at_peak: dict[str, Any] = {"param": peak * GIB, "grad": 0, "optimizer_state": 0, "activation": 0, "extra": 0}
    ends: dict[str, Any] = {"peak": peak * GIB, "steady": peak * GIB, "total": peak * GIB, "peak_phase": "forward"}
    formula = Formula(**at_peak, **ends, peak_by_category=at_peak)
    scenario = {"model": "1b", "method": method, "hyperparameters": {}, "batch_size": 8}
    return Record(id=f"{method:>12}", scenario=scenario, formula=formula)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
