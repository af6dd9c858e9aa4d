"""Made-up records: sizes are chosen so that every answer can be had by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from memprof.record import NO_PHASE, Floor, Formula, History, Interval, Measured, Record, Speed, Trace

GIB = 2**30
MakeRecord = Callable[..., Record]


def memory(param: int, grad: int, state: int, activation: int, extra: int, unit: int = GIB) -> dict[str, Any]:
    """The keys all witnesses share; the peak is the sum, as of an instant at which all five are alive."""
    at_peak = {
        "param": param * unit,
        "grad": grad * unit,
        "optimizer_state": state * unit,
        "activation": activation * unit,
        "extra": extra * unit,
    }
    peak = sum(at_peak.values())
    steady = at_peak["param"] + at_peak["optimizer_state"]
    return {**at_peak, "peak": peak, "peak_phase": "backward", "peak_by_category": dict(at_peak), "steady": steady}


def make_record(
    method: str = "adamw",
    sizes: tuple[int, int, int, int, int] = (2, 2, 4, 1, 1),
    *,
    model: str = "1b",
    formula: bool = True,
    trace: bool = True,
    speed: float | None = None,
    refresh: int | None = None,
    reserved: int | None = None,
    formula_off: int = 0,
    status: str = "ok",
    reason: str | None = None,
    flags: tuple[str, ...] = (),
    hyperparameters: dict[str, Any] | None = None,
    unit: int = GIB,
    timeline: bool = False,
    summed: tuple[int, int, int, int, int] | None = None,
    raced: dict[str, Any] | None = None,
    **scenario: Any,
) -> Record:
    """A record; `speed` makes it measured, `formula_off` bytes set the formula's peak apart from the trace's.

    `timeline` gives the trace one of six instants, of which the third is the peak. `summed` are the sizes that the
    formula adds up as a paper counts. `raced` says how `speed` was come by, in fields that differ from those of `race`.
    """
    shared = memory(*sizes, unit=unit)
    predicted, refresh_by_formula = {**shared, "peak": shared["peak"] + formula_off}, refresh
    predicted["peak_by_category"] = shared["peak_by_category"] | {"extra": shared["extra"] + formula_off}
    if summed:
        predicted = memory(*summed, unit=unit) | {"peak_phase": NO_PHASE}
        scenario, refresh_by_formula = {"counting": "paper:galore"} | scenario, None
    extras: dict[str, Any] = {"refresh_peak": refresh, "reserved": reserved, "extra_largest": "aten::mm (1024 B)"}
    known = {"model": model, "vocab_size": 32000, "num_layers": 24, "method": method}
    known |= {"hyperparameters": hyperparameters or {"lr": 0.001, "betas": [0.9, 0.999]}}
    known |= {"batch_size": 8, "accumulation": 1, "seq_len": 256, "dtype": "bf16", "kernels": "cuda-flash"}
    known |= {"checkpointing": False, "loss_chunks": 1, "clip_grad_norm": None, "counting": "memprof"}
    known |= {"device": None, "seed": 0, **scenario}
    return Record(
        id=hashlib.sha256(repr(known).encode()).hexdigest()[:12],
        scenario=known,
        status=status,
        reason=reason,
        flags=flags,
        formula=Formula(**predicted, total=sum(sizes[:4]) * unit, refresh_peak=refresh_by_formula) if formula else None,
        trace=Trace(**shared, **extras, timeline=history(sizes, unit) if timeline else None) if trace else None,
        measured=_measured(shared, extras, speed, raced) if speed is not None else None,
    )


def history(sizes: tuple[int, int, int, int, int], unit: int = GIB) -> History:
    """Forward, backward and the optimizer's update, two instants each."""
    param, grad, state, activation, extra = (size * unit for size in sizes)
    phases = ("forward", "forward", "backward", "backward", "optimizer", "optimizer")
    return History(
        events=1000,
        event=(0, 300, 310, 800, 801, 1000),
        phase=phases,
        param=(param,) * 6,
        grad=(0, 0, grad, grad, grad, 0),
        optimizer_state=(state,) * 6,
        activation=(0, activation, activation, 0, 0, 0),
        extra=(0, 0, extra, 0, extra, 0),
    )


def race(speed: float, **fields: Any) -> Speed:
    """A race of 16 rounds on a GPU in which all was well; a step takes 1.5 times its floor, its update 1.25 times."""
    floor = Floor(
        copy_bytes_per_second=4.1e12,
        matrix_flops_per_second=712e12,
        optimizer_bytes=4_100_000_000,
        optimizer_seconds=0.001,
        optimizer_ratio=1.25,
        flops=71_200_000_000_000,
        seconds=0.101,
        ratio=1.5,
    )
    plain: dict[str, Any] = {
        "rounds": 16,
        "steps": 48,
        "warmup_steps": 5,
        "steady": True,
        "without_periodic": Interval(median=speed * 1.05, low=speed, high=speed * 1.1),
        "p99_step_seconds": 0.16,
        "papers_examples_per_second": speed * 1.5,
        "spread": Interval(median=1.0, low=0.995, high=1.004),
        "host_wait": 0.31,
        "watts": 655.4,
        "joules_per_example": 12.34,
        "mfu": 0.412,
        "mfu_reason": "MFU: 6 N + 12 L A T FLOPs a token, over 989.5 TFLOP/s",
        "model_flops_per_second": 408e12,
        "floor": floor,
    }
    return Speed(**plain | fields)


def _measured(shared: dict[str, Any], extras: dict[str, Any], speed: float, raced: dict[str, Any] | None) -> Measured:
    interval = Interval(median=speed, low=speed * 0.98, high=speed * 1.03)
    seconds = {"forward": 0.1, "backward": 0.2, "optimizer": 0.05, "refresh": None}
    rates: dict[str, Any] = {"examples_per_second": interval, "tokens_per_second": speed * 256, "step_seconds": seconds}
    return Measured(**shared, **extras, **rates, speed=None if raced is None else race(speed, **raced))


@pytest.fixture
def record() -> MakeRecord:
    return make_record
