"""What papers would print for a method: the same formula, counted their way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from memprof.counting import COUNTINGS, MEMPROF, Counting
from memprof.explanation import Account
from memprof.formula import formula
from memprof.record import Formula
from memprof.scenario import Scenario

STATE, TOTAL = "optimizer_state", "total"
MATTERS = 0.01
"""what a paper leaves out of the optimizer state is told from this share on: not a step count"""


def accounts(scenario: Scenario, baseline: Scenario | None) -> tuple[Account, ...]:
    """Every paper's sum, and its optimizer state where it leaves out a part that matters; equal ones together."""
    found: dict[tuple[str, int | None, int], list[str]] = defaultdict(list)
    for name, counting in COUNTINGS.items():
        if counting.sums:
            ours = _as_in_paper(scenario, counting)
            counted = formula(ours, counting)
            other = None if baseline is None else formula(_as_in_paper(baseline, counting), counting)
            for key in _keys(formula(ours, MEMPROF), counted):
                found[key, getattr(other, key, None), getattr(counted, key)].append(name)
    return tuple(
        Account(key=key, countings=tuple(names), before=before, after=after)
        for (key, before, after), names in found.items()
    )


def _as_in_paper(scenario: Scenario, counting: Counting) -> Scenario:
    """With the paper's vocabulary, as a comparison by its counting has it."""
    return replace(scenario, shape=counting.applied_to(scenario.shape))


def _keys(stored: Formula, counted: Formula) -> Iterator[str]:
    yield TOTAL
    if stored.optimizer_state - counted.optimizer_state > MATTERS * stored.optimizer_state:
        yield STATE
