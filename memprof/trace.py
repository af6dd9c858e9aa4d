"""The trace: the real step, model, method and optimizer, on shape-only tensors under the ledger. No GPU, no memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch

from memprof.allocator import Shapes, Workspaces, simulate
from memprof.history import history
from memprof.kernels import CPU
from memprof.ledger import Ledger, Recorder
from memprof.record import Pool, Trace
from memprof.remember import MetaKernels
from memprof.scenario import Scenario
from memprof.schema import PHASES
from memprof.step import prepare, request_refresh, train_step
from memprof.timeline import OPTIMIZER, OPTIMIZER_STATE, PARAM, REFRESH

L = TypeVar("L", bound=Ledger)


@dataclass(frozen=True, slots=True)
class Watched(Generic[L]):
    """A scenario's booked steps: an ordinary one, and one with periodic work where the method has any."""

    scenario: Scenario
    step: L
    refresh: L | None

    def read(self) -> Trace:
        """What the two ledgers say, and what CUDA's allocator would make of the whole run."""
        pool = self._pool()
        within = dict.fromkeys(PHASES) | self.step.phase_peaks
        if self.refresh is not None:
            within |= {REFRESH: self.refresh.phase_peaks.get(REFRESH)}
        return _read(
            self.step,
            refresh_peak=self.refresh.peak if self.refresh else None,
            phase_peaks=within,
            pool=pool,
            reserved=pool.reserved if pool else None,
        )

    def _pool(self) -> Pool | None:
        """None for a CPU's kernels: its allocator holds nothing back."""
        if self.scenario.kernels == CPU.name:
            return None
        workspaces = Workspaces(shapes=Shapes.of(self.scenario))
        return simulate(self.step.timeline, workspaces=workspaces, start=self.step.start, stop=self.step.end)


def trace(scenario: Scenario) -> Trace:
    """The scenario's step under a plain ledger."""
    with _collector_paused():
        return watch(scenario, Ledger).read()


def watch(scenario: Scenario, kind: type[L]) -> Watched[L]:
    """Run the scenario's step on meta tensors: once to create the state, once booked, once more with periodic work.

    `kind` of ledger: one that books more costs more time, and must not change the books.
    """
    kernels = MetaKernels()
    before = Recorder("meta", kernels)
    with torch.random.fork_rng(devices=[]), _collector_paused():
        with before:
            model, optimizer = prepare(scenario, torch.device("meta"))
            train_step(model, optimizer, scenario, before.mark)
        watched = Watched(scenario, booked_step(kind(model, optimizer, OPTIMIZER, kernels, before), scenario), None)
        if scenario.method.is_periodic:
            request_refresh(optimizer)
            watched = replace(watched, refresh=booked_step(kind(model, optimizer, REFRESH, kernels, before), scenario))
        before.close()
    return watched


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


def booked_step(ledger: L, scenario: Scenario) -> L:
    """The ledger's model and optimizer through one step."""
    assert ledger.optimizer is not None
    with ledger:
        train_step(ledger.model, ledger.optimizer, scenario, ledger.mark)
    return ledger


def _read(ledger: Ledger, **also: Any) -> Trace:
    timeline, peak = ledger.timeline, ledger.peak_instant
    after = timeline.totals(ledger.end)
    return Trace(
        param=after[PARAM],
        grad=ledger.grad_bytes,
        optimizer_state=after[OPTIMIZER_STATE],
        activation=timeline.activation(ledger.end),
        extra=peak.by_category["extra"],
        extra_largest=peak.extra_largest,
        extra_by_maker=peak.extra_by_maker,
        peak=peak.nbytes,
        peak_phase=peak.phase,
        peak_by_category=peak.by_category,
        steady=sum(after.values()),
        timeline=history(timeline, ledger.start, ledger.end),
        **also,
    )
