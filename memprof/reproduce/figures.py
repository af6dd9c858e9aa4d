"""What each witness says of one cell: the formula by the paper's counting, the trace, and a measurement."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from memprof.api import plan
from memprof.bounds.floor import flops_per_example, update_bytes
from memprof.catalogue import get_method
from memprof.counting import MEMPROF, Counting
from memprof.formula import formula
from memprof.method import HORIZON, Method
from memprof.papers.cells import Column, Row
from memprof.papers.letters import evaluate
from memprof.papers.source import Paper, Table
from memprof.record import Measured, Memory, Record, Trace
from memprof.reproduce import layer
from memprof.scenario import Scenario
from memprof.trace import trace

OWN = ("device", "kernels", "counting", "seed")
"""fields of a scenario in which a stored measurement may differ"""


@dataclass(frozen=True, slots=True)
class Figures:
    """Plain numbers: bytes, elements, shares (0.5 for 50 %), counts."""

    ours: float | None = None
    """by formula, counted as the paper counts"""
    stored: float | None = None
    """by trace: what the real code keeps"""
    measured: float | None = None


@dataclass(slots=True)
class Witnesses:
    """Formula, trace and stored measurements, each asked once."""

    tracing: bool = True
    measurements: Mapping[str, Measured] = field(default_factory=dict)
    """by `key` of their scenario"""
    _traces: dict[str, Trace] = field(default_factory=dict)
    _layers: dict[str, dict[str, int]] = field(default_factory=dict)

    def figures(self, paper: Paper, table: Table, row: Row, column: Column) -> Figures:
        if row.method is None:
            return Figures()
        if table.weights is not None:
            return self._of_layer(paper, table, row, column)
        scenario = scenario_of(paper, table, row, column)
        return self._of_scenario(scenario, paper.convention(table, row), column, table.devices)

    def against(self, paper: Paper, table: Table, column: Column) -> Figures:
        """The figures of the row that a saving, a share or a difference is taken against."""
        other = next(row for row in table.rows if row.label == column.against)
        quantity = "bytes" if table.weights is None else "elements"
        return self.figures(paper, table, other, column.model_copy(update={"quantity": quantity}))

    def _of_scenario(self, scenario: Scenario, counting: Counting, column: Column, devices: int) -> Figures:
        if column.quantity in COUNTED:
            return Figures(ours=COUNTED[column.quantity](scenario, column, devices))
        measured = self.measurements.get(key(scenario))
        if column.quantity == "examples per second":
            speed = measured.examples_per_second if measured else None
            return Figures(measured=speed.median if speed else None)
        keys = column.of.split("+")
        counting = MEMPROF if "peak" in keys and counting.sums else counting  # a sum has no instants
        return Figures(
            ours=sum(getattr(formula(scenario, counting), name) for name in keys),
            stored=_seen(self.trace(scenario), keys) if self.tracing else None,
            measured=_seen(measured, keys) if measured else None,
        )

    def trace(self, scenario: Scenario) -> Trace:
        if scenario.id not in self._traces:
            self._traces[scenario.id] = trace(scenario)
        return self._traces[scenario.id]

    def _of_layer(self, paper: Paper, table: Table, row: Row, column: Column) -> Figures:
        """For the first of the sizes; `holds_for_all_sizes` looks at the others too."""
        letters = table.sizes[0]
        stored = self._stored(table, row, letters) if self.tracing else {}
        keys = column.of.split("+")
        return Figures(
            ours=counted_elements(paper, table, row, keys, letters),
            stored=sum(stored[name] for name in keys) if stored else None,
        )

    def _stored(self, table: Table, row: Row, letters: Mapping[str, int]) -> dict[str, int]:
        known = f"{table.id} {row.label}"
        if known not in self._layers:
            assert table.weights is not None
            model = layer.layer(table.weights, letters)
            self._layers[known] = layer.stored_elements(model, method_of(row, letters))
        return self._layers[known]


def counted_elements(paper: Paper, table: Table, row: Row, keys: list[str], letters: Mapping[str, int]) -> float:
    """Elements of parameters or optimizer state of some linear layers, counted as the paper counts."""
    assert table.weights is not None
    weights = layer.weights_of(layer.layer(table.weights, letters))
    counting, method = paper.convention(table, row), method_of(row, letters).bind(weights)
    total = 0
    for weight in weights:
        footprint = method.formula(weight)
        sizes = {
            "param": footprint.param,
            "optimizer_state": counting.state(footprint),
        }
        total += sum(sizes[name] for name in keys)
    return total / layer.DTYPE.itemsize


def holds_for_all_sizes(paper: Paper, table: Table, row: Row, column: Column, published: str) -> bool:
    """Whether a printed sum of letters is the formula's number of elements, whatever the letters stand for."""
    keys = column.of.split("+")
    return all(
        counted_elements(paper, table, row, keys, letters) == evaluate(published, letters) for letters in table.sizes
    )


def scenario_of(paper: Paper, table: Table, row: Row, column: Column, **more: Any) -> Scenario:
    """The scenario that a cell speaks of."""
    assert row.method is not None
    fields: dict[str, Any] = {"vocab_size": paper.convention(table, row).vocab_size}
    for setting in (table.setting, column.setting, row.setting):
        fields |= setting.model_dump(exclude_none=True)
    fields |= more
    return plan([fields.pop("model", None) or "1b"], [row.method], **fields)[0]


def key(scenario: Scenario | Record) -> str:
    """What a scenario and its stored measurement share."""
    data = scenario.scenario if isinstance(scenario, Record) else scenario.to_dict()
    return repr(sorted((name, repr(_plain(value))) for name, value in data.items() if name not in OWN))


def _plain(value: Any) -> Any:
    """Tuples come back from JSON as lists."""
    if isinstance(value, dict):
        return sorted((name, repr(_plain(part))) for name, part in value.items())
    return list(value) if isinstance(value, tuple) else value


def _seen(memory: Memory, keys: list[str]) -> int:
    """A witness that sees instants has no total; its peak stands beside the paper's."""
    return sum(int(getattr(memory, "peak" if name == "total" else name)) for name in keys)


def method_of(row: Row, letters: Mapping[str, int]) -> Method:
    """A row's method for layers in letters: `r` is its rank."""
    method = get_method(row.method or "")
    has_rank = any(spec.name == "rank" for spec in dataclasses.fields(method))
    return dataclasses.replace(method, **cast(Any, {"rank": letters["r"]})) if has_rank and "r" in letters else method


def _refreshes(scenario: Scenario, column: Column, devices: int) -> float:
    return len(scenario.method.refresh_steps(HORIZON))


def _parameters(scenario: Scenario, column: Column, devices: int) -> float:
    """Parameters that are trained."""
    return formula(scenario, Counting(sums=True, params="trainable")).param / scenario.itemsize


def _flops(scenario: Scenario, column: Column, devices: int) -> float:
    return flops_per_example(scenario)


def _update_bytes(scenario: Scenario, column: Column, devices: int) -> float:
    return update_bytes(scenario)


def _flop_bound(scenario: Scenario, column: Column, devices: int) -> float:
    """Examples per second if nothing but FLOPs took time."""
    assert column.flops is not None
    return devices * column.flops / flops_per_example(scenario)


def _byte_bound(scenario: Scenario, column: Column, devices: int) -> float:
    """Examples per second if nothing but the optimizer's traffic took time; each device updates all weights."""
    assert column.bytes_per_second is not None
    return devices * scenario.examples * column.bytes_per_second / update_bytes(scenario)


COUNTED: dict[str, Callable[[Scenario, Column, int], float]] = {
    "refreshes": _refreshes,
    "parameters": _parameters,
    "flops": _flops,
    "update bytes": _update_bytes,
    "flop bound": _flop_bound,
    "byte bound": _byte_bound,
}
