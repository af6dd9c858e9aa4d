"""The one record that crosses borders: a scenario, what each witness says of it, and how it went.

Bytes are integers, times are seconds. A witness that did not run is None, and so is a figure that is not to be had.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self, cast

from memprof.errors import MemprofError

SCHEMA_VERSION = 1
STATUSES = ("ok", "oom", "crashed", "timeout", "skipped", "unsupported", "interrupted")
COMPARED = ("param", "grad", "optimizer_state", "activation", "extra", "peak", "refresh_peak")
"""the keys over which formula and trace are held together"""
MAX_BYTES = 2**63
MAX_FIGURE = 1e300
PARTS = ("param", "grad", "optimizer_state", "activation", "extra")
"""the keys of `peak_by_category`"""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula(Memory):
    """By closed form."""

    total: int
    """the papers' sum: param + grad + optimizer_state + activation + largest tensor"""
    peak_at: str = ""
    """the instant that the closed form finds worst, in words"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace(Memory):
    """By running the step on meta tensors under the ledger."""

    extra_largest: str = ""
    extra_by_maker: dict[str, int] = field(default_factory=dict)
    """bytes of `extra` by the operation that made them, largest first: a workspace has its name here"""
    reserved: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A median with its 95 % interval."""

    median: float
    low: float
    high: float


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
    examples_per_second: Interval | None = None
    tokens_per_second: float | None = None
    step_seconds: dict[str, float | None] = field(default_factory=dict)
    joules_per_example: float | None = None
    loss_first: float | None = None
    loss_last: float | None = None


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

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"flags": list(self.flags)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """A record from JSON, checked against the schema."""
        try:
            witnesses = {
                "formula": _witness(Formula, data["formula"]),
                "trace": _witness(Trace, data["trace"]),
                "measured": _witness(Measured, data["measured"]),
            }
            if data["status"] not in STATUSES or not isinstance(data["scenario"], dict):
                raise ValueError(f"status {data['status']!r}")
            texts = [data["id"], *(data["scenario"][key] for key in ("model", "method")), *data["flags"]]
            if not all(isinstance(text, str) for text in texts) or isinstance(data["flags"], str):
                raise ValueError("id, model, method and flags must be text")
            if not isinstance(data["scenario"].get("hyperparameters", {}), dict):
                raise ValueError("hyperparameters must be a table")
            json.loads(json.dumps(data["scenario"], allow_nan=False), parse_int=_bounded)  # it can be written and shown
            if not isinstance(data["reason"], str | None):
                raise ValueError("the reason must be text or null")
            plain = {key: data[key] for key in ("id", "scenario", "status", "reason")}
            return cls(**plain, flags=tuple(data["flags"]), **witnesses)
        except (KeyError, TypeError, ValueError) as error:
            raise MemprofError(f"not a memprof record of schema {SCHEMA_VERSION}: {error!r}") from None


def _relative(value: int, reference: int) -> float:
    if value == reference:
        return 0.0
    return (value - reference) / reference if reference else math.inf


def _bounded(digits: str) -> int:
    if abs(value := int(digits)) > MAX_BYTES:
        raise ValueError("a number is out of range")
    return value


def _witness(kind: type[Any], data: Mapping[str, Any] | None) -> Any:
    if data is None:
        return None
    known = {spec.name for spec in fields(kind)}
    unknown = set(data) - known
    if unknown:
        raise ValueError(f"unknown keys {sorted(unknown)}")
    values = dict(data)
    if values.get("examples_per_second") is not None:
        values["examples_per_second"] = Interval(**values["examples_per_second"])
    for name in ("param", "grad", "optimizer_state", "activation", "extra", "peak", "steady"):
        if not _is_size(values[name]):
            raise ValueError(f"{name} must be an integer of bytes")
    if values.get("refresh_peak") is not None and not _is_size(values["refresh_peak"]):
        raise ValueError("refresh_peak must be an integer of bytes or null")
    parts = values["peak_by_category"]
    if not isinstance(parts, dict) or set(parts) != set(PARTS) or not all(map(_is_size, parts.values())):
        raise ValueError(f"peak_by_category must give bytes for {', '.join(PARTS)}")
    _check_kinds(kind, values)
    return kind(**values)


def _check_kinds(kind: type[Any], values: Mapping[str, Any]) -> None:
    """Every other figure is what its field says; what is not to be had is null."""
    speed = values.get("examples_per_second")
    for figure in () if speed is None else (speed.median, speed.low, speed.high):
        if not _is_number(figure):
            raise ValueError("examples_per_second must be finite numbers")
    for name, test in _KINDS.items():
        value = values.get(name)
        if (
            name in values
            and not test(value)
            and not (value is None and str(kind.__annotations__[name]).endswith("| None"))
        ):
            raise ValueError(f"{name} is not what the schema says")


def _is_size(value: object) -> bool:
    return _is_bytes(value) and cast(int, value) >= 0


def _is_bytes(value: object) -> bool:
    """A difference of bytes may be below 0."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < MAX_BYTES


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_FIGURE


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_makers(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value)) and all(map(_is_bytes, value.values()))


def _is_seconds(value: object) -> bool:
    return isinstance(value, dict) and all(part is None or _is_number(part) for part in value.values())


_KINDS: dict[str, Callable[[object], bool]] = {
    "peak_phase": _is_text, "peak_at": _is_text, "extra_largest": _is_text, "total": _is_size, "reserved": _is_size,
    "device": _is_size, "context": _is_bytes, "residual": _is_bytes, "extra_by_maker": _is_makers,
    "step_seconds": _is_seconds, "tokens_per_second": _is_number, "joules_per_example": _is_number,
    "loss_first": _is_number, "loss_last": _is_number,
}  # fmt: skip


def measured_from_dict(data: Mapping[str, Any] | None) -> Measured:
    """A measurement from JSON, checked against the schema."""
    try:
        if data is None:
            raise ValueError("there is none")
        return cast(Measured, _witness(Measured, data))
    except (KeyError, TypeError, ValueError) as error:
        raise MemprofError(f"not a measurement of schema {SCHEMA_VERSION}: {error!r}") from None


def document(records: list[Record], environment: Mapping[str, Any]) -> str:
    """The JSON document, version 1: the same records give the same bytes."""
    body = {"schema_version": SCHEMA_VERSION, "environment": dict(environment)}
    body["records"] = [record.to_dict() for record in records]
    return json.dumps(body, indent=1, allow_nan=False)
