"""The measured witness: real training steps on a device, a timing pass and a memory pass apart."""

from __future__ import annotations

import math
from dataclasses import replace

from memprof.device import Device, resident_bytes
from memprof.record import Measured
from memprof.scenario import Scenario
from memprof.shapes import override
from memprof.step import prepare, train_step
from memprof.timeline import EXTRA, OPTIMIZER_STATE, PARAM
from memprof.timing import Timing, time_steps
from memprof.watch import StepSeen, watch_memory

DEFAULT_STEPS = 10
ROUNDING = "block rounding"
"""a GPU's allocator hands out whole blocks; tensors ask for less"""
TINY = 8


def measure(scenario: Scenario, device: Device, steps: int = DEFAULT_STEPS) -> Measured:
    """Train the scenario for some steps on `device` and say what it cost.

    `device` and `reserved` are read after the timing pass, so that they hold no instrumentation. On a CPU the
    resident set is a high-water mark of the whole process: measure in a process of its own (the runner does).
    """
    warm_up(scenario, device)
    resident = resident_bytes()
    timing = time_steps(scenario, device, steps)
    process, reserved = device.usage().nbytes, device.reserved_peak()
    device.reset()
    ordinary, refresh = watch_memory(scenario, device)
    context = resident if reserved is None else _minus(process, reserved)
    return _measured(scenario, timing, ordinary, refresh, process, reserved, context)


def warm_up(scenario: Scenario, device: Device) -> None:
    """One step of a one-layer twin, so that what torch loads on first use is not taken for the model's."""
    shape = override(scenario.shape, num_layers=1, vocab_size=TINY)
    chunks = min(scenario.loss_chunks, TINY)
    twin = replace(scenario, shape=shape, batch_size=1, seq_len=TINY, accumulation=1, loss_chunks=chunks, text=None)
    train_step(*prepare(twin, device.torch_device), twin)
    device.reset()


def _finite(value: float) -> float | None:
    """A diverged loss is not a number, and JSON has none for it."""
    return value if math.isfinite(value) else None


def _minus(whole: int | None, part: int) -> int | None:
    return None if whole is None else whole - part


def _measured(
    scenario: Scenario,
    timing: Timing,
    ordinary: StepSeen,
    refresh: StepSeen | None,
    process: int | None,
    reserved: int | None,
    context: int | None,
) -> Measured:
    rounding = ordinary.peak - ordinary.replayed.nbytes
    by_category = ordinary.replayed.by_category | {EXTRA: ordinary.replayed.by_category[EXTRA] + rounding}
    makers = ordinary.replayed.extra_by_maker | ({ROUNDING: rounding} if rounding else {})
    speed = timing.examples_per_second(scenario)
    return Measured(
        param=ordinary.after[PARAM],
        grad=ordinary.grad,
        optimizer_state=ordinary.after[OPTIMIZER_STATE],
        activation=ordinary.activation,
        extra=by_category[EXTRA],
        extra_largest=ordinary.replayed.extra_largest,
        extra_by_maker=makers,
        peak=ordinary.peak,
        peak_phase=ordinary.replayed.phase,
        peak_by_category=by_category,
        steady=sum(ordinary.after.values()),
        refresh_peak=None if refresh is None else refresh.peak,
        reserved=reserved,
        device=process,
        context=context,
        residual=_residual(ordinary, refresh, process, reserved, context),
        examples_per_second=speed,
        tokens_per_second=speed.median * scenario.seq_len,
        step_seconds=timing.step_seconds(),
        joules_per_example=timing.joules_per_example,
        loss_first=_finite(timing.losses[0]),
        loss_last=_finite(timing.losses[-1]),
    )


def _residual(
    ordinary: StepSeen,
    refresh: StepSeen | None,
    process: int | None,
    reserved: int | None,
    context: int | None,
) -> int | None:
    """What no line explains: of the allocator's blocks on a GPU, of the resident set's growth on a CPU."""
    if reserved is not None:
        return 0  # what rounding to whole blocks adds is in extra, under its own name
    if process is None or context is None:
        return None
    return process - context - max(ordinary.peak, refresh.peak if refresh else 0)
