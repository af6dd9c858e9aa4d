"""What else lowers a peak, tried one by one: a trace says by how much, never a rule of thumb."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, cast

from memprof.catalogue import METHODS, get_method
from memprof.errors import MemprofError
from memprof.explanation import Lever
from memprof.formula import formula
from memprof.method import Method
from memprof.record import Memory
from memprof.scenario import Scenario
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
    """Change after change, each time the one that lowers the peak most, as long as one does; none for fewer than two.

    Which one that is the formula says, at once.
    """
    applied: list[Change] = []
    while True:
        possible = [(change, change.apply(scenario)) for change in CHANGES if change not in applied]
        peaks = {heaviest(formula(changed)): (change, changed) for change, changed in possible if changed is not None}
        if not peaks or min(peaks) >= heaviest(formula(scenario)):
            break
        change, scenario = peaks[min(peaks)]
        applied.append(change)
    return [(tuple(applied), scenario)] if len(applied) > 1 else []


def options(before: Scenario, after: Scenario) -> tuple[str, ...]:
    """What the command line must say, the method's name included, to make `after` of `before`."""
    said = [spelled(after.method)] if after.method != before.method else []
    said += ["--checkpointing"] if after.checkpointing != before.checkpointing else []
    for name in ("loss_chunks", "batch_size", "accumulation"):
        if getattr(after, name) != getattr(before, name):
            said.append(f"--{name.replace('_', '-')} {getattr(after, name)}")
    return tuple(said)


def spelled(method: Method) -> str:
    """A method as the command line takes it, with what is not at its default; the rank has an option of its own."""
    settings = [f"{name}={_value(getattr(method, name))}" for name in method.given()]
    return f"{method.name}:{','.join(settings)}" if settings else method.name


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return "/".join(map(_value, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _built(scenario: Scenario, **changed: Any) -> Scenario | None:
    try:
        return replace(scenario, **changed)
    except MemprofError:
        return None


def _checkpointing(scenario: Scenario) -> Scenario | None:
    return None if scenario.checkpointing else _built(scenario, checkpointing=True)


def _chunked_loss(scenario: Scenario) -> Scenario | None:
    if scenario.loss_chunks > 1 or scenario.tokens < CHUNKS:
        return None
    return _built(scenario, loss_chunks=CHUNKS)


def _half_batch(scenario: Scenario) -> Scenario | None:
    """Half the micro-batch, twice as many of them: the same examples in a step."""
    if scenario.batch_size % 2 or scenario.method.updates == "backward":
        return None
    return _built(scenario, batch_size=scenario.batch_size // 2, accumulation=scenario.accumulation * 2)


def _per_layer(scenario: Scenario) -> Scenario | None:
    if getattr(scenario.method, "per_layer", None) is not False or scenario.accumulation > 1:
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
    Change("half the micro-batch", "twice as many, each smaller", _half_batch),
    Change("updates inside backward", "no accumulation, no clipping", _per_layer),
    Change("8-bit states", "moments rounded to 8 bits", _eight_bit),
)
