"""Stored runs of a few records, made up, to be compared."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings

from memprof.record import Interval, Measured, Record, Trace

SIZES = {"param": 100, "grad": 100, "optimizer_state": 200, "activation": 50, "extra": 10, "peak": 460, "steady": 300}
SPEED_OF = Interval(median=10.0, low=9.0, high=11.0)
SETTINGS = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def scenario(method: str = "adamw", **changes: Any) -> dict[str, Any]:
    known = {"model": "1b", "num_layers": 24, "method": method, "hyperparameters": {"lr": 0.001}, "batch_size": 8}
    return known | {"accumulation": 1, "seq_len": 256, "device": None, "seed": 0} | changes


def record(
    ident: str = "a",
    speed: Interval | None = None,
    status: str = "ok",
    flags: tuple[str, ...] = (),
    in_scenario: dict[str, Any] | None = None,
    traced: bool = True,
    **sizes: Any,
) -> Record:
    """A traced record, measured too where it has a speed; `sizes` replace the figures above."""
    at_peak = {key: sizes.get(key, SIZES[key]) for key in ("param", "grad", "optimizer_state", "activation", "extra")}
    known: dict[str, Any] = SIZES | {"peak_phase": "backward", "peak_by_category": at_peak} | sizes
    return Record(
        id=ident,
        scenario=in_scenario or scenario(),
        status=status,
        flags=flags,
        trace=Trace(**known) if traced else None,
        measured=Measured(**known, examples_per_second=speed) if speed else None,
    )
