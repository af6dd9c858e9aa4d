"""The measured witness, as far as memory goes: real training steps on a device. `race/` measures how fast they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from memprof.device import Device, Usage, most_others, resident_bytes
from memprof.measure.attention import attention_node
from memprof.measure.closure import WorstInstant, close
from memprof.measure.history_file import write_history
from memprof.measure.watch import Watched, watch_memory
from memprof.record import Measured
from memprof.scenario import Scenario
from memprof.shapes import override
from memprof.step import prepare, request_refresh, train_step
from memprof.timeline import EXTRA, OPTIMIZER_STATE, PARAM, REFRESH

TINY = 8
WARMUP_STEPS = 2
"""before the plain step that is timed: one creates the state, one finds all kernels chosen"""


def measure_memory(scenario: Scenario, device: Device, history: Path | None = None) -> Measured:
    """What the scenario's steps take of `device`'s memory, as its allocator and the driver or operating system say.

    Plain steps go before the recorded ones: they say how long a step takes unrecorded, and what the resident set is
    without a profiler in it. That is a high-water mark of the whole process: measure in a process of its own (the
    runner does). With `history` the recording is kept in that file.
    """
    warm_up(scenario, device)
    resident = resident_bytes()
    conditions = [device.conditions()]
    seconds = time_plain_step(scenario, device)
    unrecorded = device.usage()
    device.reset()
    watched = watch_memory(scenario, device)
    reserved, usage = device.reserved(), device.usage()
    conditions.append(device.conditions())
    if history is not None:
        write_history(history, scenario.id, device.kind, watched.recording, watched.phases)
    if reserved is None or watched.ordinary.counted is None:
        found = _on_a_host(watched, resident, unrecorded)
    else:
        found = _on_a_gpu(watched, watched.ordinary.counted, usage, reserved)
    return replace(
        found,
        others=most_others(conditions),
        recording_overhead=watched.ordinary.seconds / seconds - 1 if seconds else None,
        attention=attention_node(scenario, device.torch_device),
    )


def warm_up(scenario: Scenario, device: Device) -> None:
    """One step of a one-layer twin, so that what torch loads on first use is not taken for the model's."""
    shape = override(scenario.shape, num_layers=1, vocab_size=TINY)
    chunks = min(scenario.loss_chunks, TINY)
    twin = replace(scenario, shape=shape, batch_size=1, seq_len=TINY, accumulation=1, loss_chunks=chunks, text=None)
    train_step(*prepare(twin, device.torch_device), twin)
    device.reset()


def time_plain_step(scenario: Scenario, device: Device) -> float:
    """Seconds of an ordinary step, unrecorded, between two that warm up and one with periodic work."""
    model, optimizer = prepare(scenario, device.torch_device)
    for _ in range(WARMUP_STEPS):
        train_step(model, optimizer, scenario)
    device.synchronize()
    begin = device.now()
    train_step(model, optimizer, scenario)
    end = device.now()
    device.synchronize()
    seconds = device.seconds(begin, end)
    if scenario.method.is_periodic:
        request_refresh(optimizer)
        train_step(model, optimizer, scenario)
    return seconds


def _on_a_gpu(watched: Watched, counted: int, usage: Usage, reserved: int) -> Measured:
    """The worst instant by whole blocks, and the sum of the process's memory down from what the driver says."""
    worst = WorstInstant.of(watched, counted)
    closure = close(worst, usage, reserved)
    makers = worst.extra_by_maker
    return replace(
        _seen(watched),
        extra=worst.by_category[EXTRA],
        extra_largest=next((f"{maker} ({nbytes} B)" for maker, nbytes in makers.items()), ""),
        extra_by_maker=makers,
        peak=counted,
        peak_phase=worst.alive.phase,
        peak_by_category=worst.by_category,
        reserved=reserved,
        device=usage.nbytes,
        context=closure.context,
        residual=closure.unattributed,
        closure=closure,
    )


def _on_a_host(watched: Watched, resident: int, usage: Usage) -> Measured:
    """The resident set never falls, so the worst of all steps is in it; `resident` was there before the model."""
    worst = max(watched.ordinary.peak, watched.refresh.peak if watched.refresh else 0)
    residual = None if usage.nbytes is None else usage.nbytes - resident - worst
    return replace(_seen(watched), device=usage.nbytes, context=resident, residual=residual)


def _seen(watched: Watched) -> Measured:
    """What the events say of the steps."""
    ordinary, refresh, alive = watched.ordinary, watched.refresh, watched.ordinary.replayed
    return Measured(
        param=ordinary.after[PARAM],
        grad=ordinary.grad,
        optimizer_state=ordinary.after[OPTIMIZER_STATE],
        activation=ordinary.activation,
        extra=alive.by_category[EXTRA],
        extra_largest=alive.extra_largest,
        extra_by_maker=alive.extra_by_maker,
        peak=ordinary.peak,
        peak_phase=alive.phase,
        peak_by_category=alive.by_category,
        steady=sum(ordinary.after.values()),
        refresh_peak=None if refresh is None else refresh.peak,
        phase_peaks=ordinary.phase_peaks | {REFRESH: None if refresh is None else refresh.phase_peaks.get(REFRESH)},
    )
