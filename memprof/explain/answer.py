"""`explain`: one method on one model, held against AdamW in the same scenario. Traced: no GPU, no memory."""

from __future__ import annotations

from dataclasses import replace

from memprof.catalogue import get_method
from memprof.child import one_line
from memprof.errors import MemprofError
from memprof.explain.accounts import accounts
from memprof.explain.levers import heaviest, levers
from memprof.explain.parts import Anatomy
from memprof.explain.places import PlacedLedger
from memprof.explain.waterfall import waterfall
from memprof.explanation import Explanation
from memprof.formula import formula
from memprof.record import Record
from memprof.runner import plain
from memprof.scenario import Scenario
from memprof.trace import watch

BASELINE = "adamw"
DEPTH = 2


def explain(scenario: Scenario, *, depth: int = DEPTH) -> Explanation:
    """Why the scenario's peak is where it is. `depth`: down to how many pieces of a name its parts are told apart."""
    scenario = replace(scenario, device=None, counting="memprof")
    against = baseline_of(scenario)
    record, step, refresh = _taken_apart(scenario)
    baseline, other, _ = (None, None, None) if against is None else _taken_apart(against)
    assert record.trace is not None
    return Explanation(
        record=record,
        baseline=baseline,
        peak=step.moment(),
        refresh=refresh.moment() if refresh else None,
        baseline_peak=other.moment() if other else None,
        waterfall=() if baseline is None else tuple(waterfall(baseline, record)),
        accounts=accounts(scenario, against),
        holdings=step.holdings(depth),
        parts=step.parts(depth),
        state=step.state(),
        levers=levers(scenario, heaviest(record.trace)),
    )


def baseline_of(scenario: Scenario) -> Scenario | None:
    """AdamW in the same scenario; None where that is the scenario itself."""
    plain = replace(scenario, method=get_method(BASELINE).bind(scenario.weights()))
    return None if plain.id == scenario.id else plain


def _taken_apart(scenario: Scenario) -> tuple[Record, Anatomy, Anatomy | None]:
    """What formula and trace say, and the booked steps behind it: an ordinary one, one with periodic work."""
    try:
        watched = watch(scenario, PlacedLedger)
    except MemprofError:
        raise
    except Exception as error:
        why = one_line(f"trace: {type(error).__name__}: {error}")
        raise MemprofError(f"{scenario.method.name} cannot be explained: {why}") from None
    record = Record(id=scenario.id, scenario=plain(scenario.to_dict()), formula=formula(scenario), trace=watched.read())
    return record, Anatomy.of(watched.step), Anatomy.of(watched.refresh) if watched.refresh else None
