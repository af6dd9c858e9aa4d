"""The one record that crosses borders: a scenario, what each witness says of it, and how it went.

Bytes are integers, times are seconds. A witness that did not run is None, and so is a figure that is not to be had.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self, cast

from memprof import schema
from memprof.errors import MemprofError
from memprof.evidence import Closure, Floor, Interval, Pool, Speed
from memprof.reading import read

__all__ = [
    "Closure",
    "Floor",
    "Formula",
    "History",
    "Interval",
    "Measured",
    "Memory",
    "Pool",
    "Record",
    "Speed",
    "Trace",
]

SCHEMA_VERSION = 1
STATUSES = ("ok", "oom", "crashed", "timeout", "skipped", "unsupported", "interrupted")
NO_PHASE = schema.NO_PHASE
"""the phase of a peak that a paper's counting adds up"""
COMPARED = ("param", "grad", "optimizer_state", "activation", "extra", "peak", "refresh_peak")
"""the keys over which formula and trace are held together"""
PARTS: dict[str, type[Any]] = {"examples_per_second": Interval, "pool": Pool, "closure": Closure, "speed": Speed}
"""a witness's figures that are tables of their own"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What every witness can say of memory. `peak_by_category` sums to `peak`."""

    param: int
    grad: int
    optimizer_state: int
    activation: int
    extra: int
    peak: int
    peak_phase: str
    peak_by_category: dict[str, int]
    steady: int
    refresh_peak: int | None = None
    """the worst instant of a step that refreshes or merges; None for a method without periodic work"""

    @property
    def is_sum(self) -> bool:
        """Whether a paper's counting added up categories: no instant has these bytes, and no device must hold them."""
        return self.peak_phase == NO_PHASE

    def peak_change(self, before: Memory) -> dict[str, int]:
        """Category to the bytes by which this peak is above that of `before`; they sum to the peaks' difference."""
        return {name: nbytes - before.peak_by_category[name] for name, nbytes in self.peak_by_category.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula(Memory):
    """By closed form."""

    total: int
    """the papers' sum: param + grad + optimizer_state + activation + largest tensor"""
    peak_at: str = ""
    """the instant that the closed form finds worst, in words"""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Bytes alive through one ordinary step, at some of its instants: columns of one length.

    The categories sum at their highest to the witness's `peak` and at the last instant to its `steady`.
    """

    events: int
    """allocations and frees of the whole step"""
    event: tuple[int, ...]
    """how many of them each instant comes after: 0 first, `events` last"""
    phase: tuple[str, ...]
    param: tuple[int, ...]
    grad: tuple[int, ...]
    optimizer_state: tuple[int, ...]
    activation: tuple[int, ...]
    extra: tuple[int, ...]

    @property
    def total(self) -> list[int]:
        """Bytes alive at each instant."""
        columns = (getattr(self, name) for name in schema.PARTS)
        return [sum(parts) for parts in zip(*columns, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace(Memory):
    """By running the step on meta tensors under the ledger."""

    extra_largest: str = ""
    extra_by_maker: dict[str, int] = field(default_factory=dict)
    """bytes of `extra` by the operation that made them, largest first: a workspace has its name here"""
    reserved: int | None = None
    """what CUDA's caching allocator would hold, by its rules; None for CPU kernels"""
    pool: Pool | None = None
    """what is in it"""
    phase_peaks: dict[str, int | None] = field(default_factory=dict)
    """the most bytes alive within each phase; refresh: of the step with periodic work"""
    timeline: History | None = None
    """stored with a run, left out of documents: it is larger than all the rest"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Memory):
    """By real steps on a device, seen by its allocator."""

    extra_largest: str = ""
    extra_by_maker: dict[str, int] = field(default_factory=dict)
    """bytes of `extra` by the operation that made them, largest first: a workspace has its name here"""
    reserved: int | None = None
    device: int | None = None
    """what the driver (NVML) or the operating system (resident set) says this process uses at most"""
    context: int | None = None
    """device minus reserved (on a CPU: the process before the model)"""
    residual: int | None = None
    """what no line explains"""
    phase_peaks: dict[str, int | None] = field(default_factory=dict)
    """the allocator's peak within each phase; refresh: of the step with periodic work"""
    closure: Closure | None = None
    """where a GPU process's memory went, line by line; None on a CPU"""
    others: int | None = None
    """other processes that were seen on the GPU; None where that is not to be known"""
    recording_overhead: float | None = None
    """by what share a step takes longer while its allocations are recorded: why memory is a pass of its own"""
    attention: str | None = None
    """the autograd node of the attention that ran: which backend it really was"""
    examples_per_second: Interval | None = None
    tokens_per_second: float | None = None
    step_seconds: dict[str, float | None] = field(default_factory=dict)
    joules_per_example: float | None = None
    speed: Speed | None = None
    """how the speed was come by"""
    loss_first: float | None = None
    """of a step at the end of the warm-up, the same one for all methods; None where it is not finite"""
    loss_last: float | None = None
    """of a later step on the same tokens, as many updates further as steps were timed, and one at least"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One cell of a comparison."""

    id: str
    scenario: dict[str, Any]
    status: str = "ok"
    reason: str | None = None
    flags: tuple[str, ...] = ()
    formula: Formula | None = None
    trace: Trace | None = None
    measured: Measured | None = None

    @property
    def method(self) -> str:
        return str(self.scenario["method"])

    @property
    def model(self) -> str:
        return str(self.scenario["model"])

    @property
    def best(self) -> Memory | None:
        """The strongest witness that ran."""
        return self.measured or self.trace or self.formula

    def difference(self, first: str = "formula", second: str = "trace") -> tuple[str, float] | None:
        """The key in which two witnesses differ most, and by how much relative to the second; None without both."""
        one, other = getattr(self, first), getattr(self, second)
        if one is None or other is None:
            return None
        pairs = {key: (getattr(one, key), getattr(other, key)) for key in COMPARED}
        gaps = {key: _relative(*pair) for key, pair in pairs.items() if None not in pair}
        key = max(gaps, key=lambda name: abs(gaps[name]))
        return key, gaps[key]

    def to_dict(self, *, timeline: bool = False) -> dict[str, Any]:
        """As JSON has it; a trace's timeline is null unless asked for."""
        data = asdict(self) | {"flags": list(self.flags)}
        if data["trace"] is not None and not timeline:
            data["trace"]["timeline"] = None
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """A record from JSON, checked against the schema."""
        try:
            witnesses = {
                "formula": _witness(Formula, data["formula"]),
                "trace": _witness(Trace, data["trace"]),
                "measured": _witness(Measured, data["measured"]),
            }
            schema.check_record(data, STATUSES)
            plain = {key: data[key] for key in ("id", "scenario", "status", "reason")}
            return cls(**plain, flags=tuple(data["flags"]), **witnesses)
        except (KeyError, TypeError, ValueError) as error:
            raise MemprofError(f"not a memprof record of schema {SCHEMA_VERSION}: {_why(error)}") from None


def _why(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return "a value is of another kind" if isinstance(error, TypeError) else " ".join(str(error).split())


def _relative(value: int, reference: int) -> float:
    if value == reference:
        return 0.0
    return (value - reference) / reference if reference else math.inf


def _witness(kind: type[Any], data: Mapping[str, Any] | None) -> Any:
    if data is None:
        return None
    optional = {spec.name for spec in fields(kind) if str(spec.type).endswith("| None")}
    schema.check_witness(data, {spec.name for spec in fields(kind)}, optional)
    values = dict(data)
    for name, part in PARTS.items():
        if values.get(name) is not None:
            values[name] = read(part, values[name])
    if values.get("timeline") is not None:
        columns = {key: tuple(v) if isinstance(v, list) else v for key, v in values["timeline"].items()}
        values["timeline"] = History(**cast(Any, columns))
    return kind(**values)


def measured_from_dict(data: Mapping[str, Any] | None) -> Measured:
    """A measurement from JSON, checked against the schema."""
    try:
        if data is None:
            raise ValueError("there is none")
        return cast(Measured, _witness(Measured, data))
    except (KeyError, TypeError, ValueError) as error:
        raise MemprofError(f"not a measurement of schema {SCHEMA_VERSION}: {_why(error)}") from None


def document(records: list[Record], environment: Mapping[str, Any]) -> str:
    """The JSON document, version 1: the same records give the same bytes."""
    body = {"schema_version": SCHEMA_VERSION, "environment": dict(environment)}
    body["records"] = [record.to_dict() for record in records]
    return json.dumps(body, indent=1, allow_nan=False)
