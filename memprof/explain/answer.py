"""`explain`: one method on one model, held against AdamW in the same scenario. Traced: no GPU, no memory."""

from __future__ import annotations

from dataclasses import replace

import torch

from memprof.catalogue import get_method
from memprof.errors import MemprofError
from memprof.explain.accounts import accounts
from memprof.explain.levers import heaviest, levers
from memprof.explain.parts import Anatomy
from memprof.explain.places import PlacedLedger
from memprof.explain.waterfall import waterfall
from memprof.explanation import Explanation
from memprof.record import Record
from memprof.remember import MetaKernels, Remembering
from memprof.runner import run_cell
from memprof.scenario import Scenario
from memprof.step import prepare, request_refresh, train_step
from memprof.timeline import OPTIMIZER, REFRESH

BASELINE = "adamw"
DEPTH = 2


def explain(scenario: Scenario, *, depth: int = DEPTH) -> Explanation:
    """Why the scenario's peak is where it is. `depth`: down to how many pieces of a name its parts are told apart."""
    scenario = replace(scenario, device=None, counting="memprof")
    record, baseline = _record(scenario), baseline_of(scenario)
    step, refresh = _anatomies(scenario, refreshing=scenario.method.is_periodic)
    other = None if baseline is None else _record(baseline)
    assert record.trace is not None
    return Explanation(
        record=record,
        baseline=other,
        peak=step.moment(),
        refresh=refresh.moment() if refresh else None,
        baseline_peak=None if baseline is None else _anatomies(baseline)[0].moment(),
        waterfall=() if other is None else tuple(waterfall(other, record)),
        accounts=accounts(scenario, baseline),
        holdings=step.holdings(depth),
        parts=step.parts(depth),
        state=step.state(),
        levers=levers(scenario, heaviest(record.trace)),
    )


def baseline_of(scenario: Scenario) -> Scenario | None:
    """AdamW in the same scenario; None where that is the scenario itself."""
    plain = replace(scenario, method=get_method(BASELINE).bind(scenario.weights()))
    return None if plain.id == scenario.id else plain


def _record(scenario: Scenario) -> Record:
    record = run_cell(scenario)
    if record.trace is None:
        raise MemprofError(f"{scenario.method.name} cannot be explained: {record.reason}")
    return record


def _anatomies(scenario: Scenario, refreshing: bool = False) -> tuple[Anatomy, Anatomy | None]:
    """An ordinary step taken apart, after one that made the optimizer's state; and one with periodic work."""
    kernels = MetaKernels()
    with torch.random.fork_rng(devices=[]):
        with Remembering(kernels):
            model, optimizer = prepare(scenario, torch.device("meta"))
            train_step(model, optimizer, scenario)
        with PlacedLedger(model, optimizer, OPTIMIZER, kernels) as ledger:
            train_step(model, optimizer, scenario, ledger.mark)
        if not refreshing:
            return Anatomy(ledger), None
        request_refresh(optimizer)
        with PlacedLedger(model, optimizer, REFRESH, kernels) as second:
            train_step(model, optimizer, scenario, second.mark)
    return Anatomy(ledger), Anatomy(second)
