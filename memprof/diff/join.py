"""Which record of one run stands against which of the other.

Records join on their id, which is a hash of the scenario. Those left over join where the ids differ in nothing that
changes what is compared: in the device, so that a traced run stands against a measured one; in fields that an older
memprof did not write, which then stand for their defaults. A scenario must be the only one of its kind on both sides:
what could join in two ways joins in none.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

from memprof.record import Record

Joined = tuple[Record | None, Record | None, str | None]
DEFAULTS: dict[str, Any] = {
    "accumulation": 1, "checkpointing": False, "loss_chunks": 1, "clip_grad_norm": None, "counting": "memprof",
    "seed": 0,
}  # fmt: skip
"""fields of a scenario that go without saying"""


def join(before: Sequence[Record], after: Sequence[Record]) -> list[Joined]:
    """Every record of both runs once: pairs and what was lost in the first run's order, then what is new."""
    partners = {record.id: record for record in after}
    found = {record.id: (partners[record.id], "id") for record in before if record.id in partners}
    lost = [record for record in before if record.id not in found]
    taken = set(found)
    left = [record for record in after if record.id not in taken]
    if lost and left:
        found |= {one.id: (other, "scenario") for one, other in _alike(lost, left)}
    taken = {partner.id for partner, _ in found.values()}
    pairs: list[Joined] = [(record, *found.get(record.id, (None, None))) for record in before]
    return pairs + [(None, record, None) for record in after if record.id not in taken]


def _alike(lost: Sequence[Record], left: Sequence[Record]) -> list[tuple[Record, Record]]:
    defaults = {method: _method_defaults(method) for method in _uneven([*lost, *left])}
    ours, theirs = _by_essence(lost, defaults), _by_essence(left, defaults)
    return [(ours[key][0], theirs[key][0]) for key in ours if len(ours[key]) == len(theirs.get(key, ())) == 1]


def _by_essence(records: Iterable[Record], defaults: dict[str, dict[str, Any]]) -> dict[str, list[Record]]:
    grouped: dict[str, list[Record]] = {}
    for record in records:
        grouped.setdefault(_essence(record, defaults.get(record.method, {})), []).append(record)
    return grouped


def _essence(record: Record, defaults: dict[str, Any]) -> str:
    """The scenario without its device and without what goes without saying."""
    scenario = {**DEFAULTS, **record.scenario}
    scenario.pop("device", None)
    scenario["hyperparameters"] = {**defaults, **scenario.get("hyperparameters", {})}
    return _canonical(scenario)


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _uneven(records: Iterable[Record]) -> set[str]:
    """Methods of which not all records have the same hyperparameters: one of them was written by another version."""
    seen: dict[str, set[frozenset[str]]] = {}
    for record in records:
        seen.setdefault(record.method, set()).add(frozenset(record.scenario.get("hyperparameters", {})))
    return {method for method, kinds in seen.items() if len(kinds) > 1}


def _method_defaults(method: str) -> dict[str, Any]:
    """A method's hyperparameters unless told otherwise; none for a method that is not ours."""
    from memprof.catalogue import METHODS  # brings torch, which two runs of one version never need

    kind = METHODS.get(method)
    fields = dataclasses.fields(kind) if kind else ()
    given = {spec.name: spec.default for spec in fields if spec.default is not dataclasses.MISSING}
    return dict(json.loads(json.dumps(given)))
