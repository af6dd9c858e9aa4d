"""The trace: the real step, model, method and optimizer, on shape-only tensors under the ledger. No GPU, no memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from memprof.history import history
from memprof.ledger import Ledger
from memprof.llama import LlamaForCausalLM
from memprof.record import Trace
from memprof.remember import MetaKernels, Remembering
from memprof.scenario import Scenario
from memprof.step import prepare, request_refresh, train_step
from memprof.timeline import OPTIMIZER, OPTIMIZER_STATE, PARAM, REFRESH


def trace(scenario: Scenario) -> Trace:
    """Run the scenario's step on meta tensors: once to create the state, once booked, once more with periodic work."""
    with torch.random.fork_rng(devices=[]), _collector_paused():
        return _trace(scenario)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Tensors die by reference count; walking torch's million objects meanwhile would cost more than the step."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _trace(scenario: Scenario) -> Trace:
    kernels = MetaKernels()
    with Remembering(kernels):
        model, optimizer = prepare(scenario, torch.device("meta"))
        train_step(model, optimizer, scenario)
    ledger = booked_step(model, optimizer, scenario, OPTIMIZER, kernels)
    refresh_peak = None
    if scenario.method.is_periodic:
        request_refresh(optimizer)
        refresh_peak = booked_step(model, optimizer, scenario, REFRESH, kernels).peak
    return _read(ledger, refresh_peak)


def booked_step(
    model: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
    scenario: Scenario,
    step_phase: str,
    kernels: MetaKernels | None = None,
) -> Ledger:
    with Ledger(model, optimizer, step_phase, kernels) as ledger:
        train_step(model, optimizer, scenario, ledger.mark)
    return ledger


def _read(ledger: Ledger, refresh_peak: int | None) -> Trace:
    timeline, peak = ledger.timeline, ledger.peak_instant
    after = timeline.totals()
    return Trace(
        param=after[PARAM],
        grad=ledger.grad_bytes,
        optimizer_state=after[OPTIMIZER_STATE],
        activation=timeline.activation(),
        extra=peak.by_category["extra"],
        extra_largest=peak.extra_largest,
        extra_by_maker=peak.extra_by_maker,
        peak=peak.nbytes,
        peak_phase=peak.phase,
        peak_by_category=peak.by_category,
        steady=sum(after.values()),
        refresh_peak=refresh_peak,
        timeline=history(timeline, ledger.start),
    )
