"""In what two scenarios differ, in words: why they were not held against each other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from memprof.record import Record

MOST = 100
"""records of a run that are looked at to explain why none joined"""
NAMED = 4
"""fields or methods that are named of many"""
LONGEST = 40
"""characters of a value"""
SHAPE = "shape"
_TWICE = ("vocab_size", "num_hidden_layers")
"""fields of a shape that a scenario has at its top as well"""
_NOT_SAID = object()


def why_none_joined(before: Sequence[Record], after: Sequence[Record]) -> str:
    """The two most alike scenarios of one method and where they differ; the methods, where none is in both runs."""
    pairs = [(one, other) for one in before[:MOST] for other in after[:MOST] if one.method == other.method]
    if not pairs:
        return f"the methods differ: {_methods(before)} before, {_methods(after)} after"
    one, other = min(pairs, key=lambda pair: len(_differing(*pair)))
    where = differences(one, other)
    alike = "could join in more than one way" if not where else f"differ in {where}"
    return f"the nearest two, of {_shown(one.method)}, {alike}"


def nearest(lost: Sequence[Record], new: Sequence[Record]) -> dict[str, str]:
    """For each lost scenario's id, in what the most alike new one of its method and model differs.

    A new scenario is named once, so that a rank exchanged for another is told and not every pairing of ranks.
    """
    found, left = {}, list(new[:MOST])
    for record in lost[:MOST]:
        alike = [other for other in left if (other.method, other.model) == (record.method, record.model)]
        if alike:
            other = min(alike, key=lambda each: len(_differing(record, each)))
            left.remove(other)
            found[record.id] = differences(record, other)
    return found


def differences(one: Record, other: Record) -> str:
    """`rank (128 before, 64 after), seed (0 before, 1 after)`; empty where none does."""
    found = _differing(one, other).items()
    return _listed(
        [f"{_shown(key)} ({_value(before)} before, {_value(after)} after)" for key, (before, after) in found]
    )


def _differing(one: Record, other: Record) -> dict[str, tuple[Any, Any]]:
    """Every field with its two values; hyperparameters by their own names, a shape's within one model."""
    alike = one.model == other.model
    ours, theirs = _flat(one, alike), _flat(other, alike)
    pairs = {key: (ours.get(key, _NOT_SAID), theirs.get(key, _NOT_SAID)) for key in dict.fromkeys([*ours, *theirs])}
    return {key: pair for key, pair in pairs.items() if _canonical(pair[0]) != _canonical(pair[1])}


def _flat(record: Record, with_shape: bool) -> dict[str, Any]:
    scenario = dict(record.scenario)
    settings, shape = scenario.pop("hyperparameters", {}), scenario.pop(SHAPE, {})
    inside = shape.items() if isinstance(shape, Mapping) and with_shape else ()
    return scenario | dict(settings) | {key: value for key, value in inside if key not in _TWICE}


def _canonical(value: object) -> str:
    return "" if value is _NOT_SAID else json.dumps(value, sort_keys=True)


def _value(value: object) -> str:
    return "not said" if value is _NOT_SAID else _shown(value if isinstance(value, str) else json.dumps(value))


def _methods(records: Sequence[Record]) -> str:
    return _listed([_shown(name) for name in dict.fromkeys(record.method for record in records)])


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return ", ".join(texts[:NAMED]) + more


def _shown(text: str) -> str:
    """One printable line, cut where it is long: names come from a file."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
