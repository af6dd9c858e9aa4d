"""What else lowers a peak, tried one by one: a trace says by how much, never a rule of thumb."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations
from typing import Any, cast

from memprof.catalogue import METHODS, get_method
from memprof.errors import MemprofError
from memprof.explanation import WORTHWHILE, Lever
from memprof.formula import formula
from memprof.method import Method
from memprof.record import Memory
from memprof.scenario import Scenario
from memprof.spelling import spell_method
from memprof.trace import trace

CHUNKS = 8
EIGHT_BIT = "adamw-8bit"


@dataclass(frozen=True, slots=True)
class Change:
    """Something to change in a scenario."""

    name: str
    price: str
    apply: Callable[[Scenario], Scenario | None]
    """None where it is so already, or where this step cannot do it"""


def levers(scenario: Scenario, peak: int) -> tuple[Lever, ...]:
    """Every change alone, and the best of them together; best first. `peak` is what they are to lower."""
    singles = [((change,), changed) for change in CHANGES if (changed := change.apply(scenario)) is not None]
    found = [_lever(scenario, peak, changes, changed) for changes, changed in [*singles, *_together(scenario)]]
    return tuple(sorted(found, key=lambda lever: -lever.saves))


def _lever(scenario: Scenario, peak: int, changes: tuple[Change, ...], changed: Scenario) -> Lever:
    reached = heaviest(trace(changed))
    return Lever(
        changes=tuple(change.name for change in changes),
        options=options(scenario, changed),
        price=", ".join(change.price for change in changes),
        peak=reached,
        saves=peak - reached,
    )


def heaviest(memory: Memory) -> int:
    """What a device must hold: the peak of a step, or of one with periodic work."""
    return max(memory.peak, memory.refresh_peak or 0)


def _together(scenario: Scenario) -> list[tuple[tuple[Change, ...], Scenario]]:
    """The fewest changes that bring the peak as low as all that can be combined do, but for what is not worthwhile;
    none where a single one does.

    Which they are the formula says of every combination, at once.
    """
    found = [
        (heaviest(formula(changed)), changes, changed)
        for count in range(len(CHANGES) + 1)
        for changes in combinations(CHANGES, count)
        if (changed := _with_all(scenario, changes)) is not None
    ]
    near = min(peak for peak, _, _ in found) * (1 + WORTHWHILE)
    _, changes, changed = min((each for each in found if each[0] <= near), key=lambda each: (len(each[1]), each[0]))
    return [(changes, changed)] if len(changes) > 1 else []


def _with_all(scenario: Scenario, changes: Sequence[Change]) -> Scenario | None:
    changed: Scenario | None = scenario
    for change in changes:
        changed = None if changed is None else change.apply(changed)
    return changed


def options(before: Scenario, after: Scenario) -> tuple[str, ...]:
    """What the command line must say, the method's name included, to make `after` of `before`."""
    said = [spelled(after.method)] if after.method != before.method else []
    said += ["--checkpointing"] if after.checkpointing != before.checkpointing else []
    for name in ("loss_chunks", "batch_size", "accumulation"):
        if getattr(after, name) != getattr(before, name):
            said.append(f"--{name.replace('_', '-')} {getattr(after, name)}")
    return tuple(said)


def spelled(method: Method) -> str:
    return spell_method(method.name, method.hyperparameters(), method.given())


def _built(scenario: Scenario, **changed: Any) -> Scenario | None:
    try:
        return replace(scenario, **changed)
    except MemprofError:
        return None


def _checkpointing(scenario: Scenario) -> Scenario | None:
    return None if scenario.checkpointing else _built(scenario, checkpointing=True)


def _chunked_loss(scenario: Scenario) -> Scenario | None:
    return None if scenario.loss_chunks >= CHUNKS else _built(scenario, loss_chunks=CHUNKS)


def _smaller_batch(scenario: Scenario) -> Scenario | None:
    """Half the micro-batch and twice as many of them, or a third and so on of an odd one: the same examples a step."""
    parts = next((parts for parts in range(2, scenario.batch_size + 1) if scenario.batch_size % parts == 0), None)
    if parts is None:
        return None
    return _built(scenario, batch_size=scenario.batch_size // parts, accumulation=scenario.accumulation * parts)


def _per_layer(scenario: Scenario) -> Scenario | None:
    if getattr(scenario.method, "per_layer", None) is not False:
        return None
    return _with_method(scenario, replace(scenario.method, **cast(Any, {"per_layer": True})))


def _eight_bit(scenario: Scenario) -> Scenario | None:
    """The method's own 8-bit inner optimizer; for AdamW its 8-bit form, with AdamW's settings."""
    method = scenario.method
    if getattr(method, "inner", None) == "adamw":
        return _with_method(scenario, replace(method, **cast(Any, {"inner": EIGHT_BIT})))
    if type(method) is METHODS["adamw"]:
        known = {spec.name for spec in fields(METHODS[EIGHT_BIT])}
        kept = {name: value for name, value in method.hyperparameters().items() if name in known}
        return _with_method(scenario, get_method(EIGHT_BIT, **kept))
    return None


def _with_method(scenario: Scenario, method: Method) -> Scenario | None:
    return _built(scenario, method=method.bind(scenario.weights()))


CHANGES = (
    Change("activation checkpointing", "a second forward", _checkpointing),
    Change("chunked loss", "the head piece by piece", _chunked_loss),
    Change("smaller micro-batches", "more of them", _smaller_batch),
    Change("updates inside backward", "no accumulation, no clipping", _per_layer),
    Change("8-bit states", "moments rounded to 8 bits", _eight_bit),
)
