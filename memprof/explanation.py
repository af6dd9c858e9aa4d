"""Why a method's peak is where it is: the result that `memprof explain` shows, and its JSON document.

Like a record, it crosses borders: the engine makes it, reports read it. All sizes are bytes, by trace.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from memprof.record import History, Record, Trace

SCHEMA_VERSION = 1
LOSS, BATCH, UPDATE = "loss", "batch", "update"
"""places outside the model's own modules: what its head's output goes into, ids and labels, the optimizer's step"""

WORTHWHILE = 0.01
"""a lever that lowers the peak by less than this share of it is not recommended"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The worst instant of a step: when and where it comes, and what is alive then."""

    nbytes: int
    phase: str
    place: str
    """the module whose forward or backward it is, or a weight as its gradient is added or updated"""
    maker: str
    """the operation that allocates there"""
    event: int
    """allocations and frees of the step up to it"""
    by_category: dict[str, int]
    doing: str = ""
    """what goes on there where the phase does not say it: the update, or refresh, of a weight inside backward"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """Tensors of one kind that are alive at the peak."""

    category: str
    name: str
    """modules of one kind in all layers together: layers.*.mlp.gate_proj"""
    what: str
    """a tensor of the optimizer's, or the operation that made it"""
    tensors: int
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A piece of the model and what it holds of each category, read when the category's phase ends."""

    name: str
    modules: int
    """how many of the model's there are under this name, one in each layer"""
    param: int
    grad: int
    optimizer_state: int
    activation: int

    @property
    def total(self) -> int:
        return self.param + self.grad + self.optimizer_state + self.activation


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A figure as papers count it, where that is not what is stored."""

    key: str
    """optimizer_state, or total: the sum that the paper prints"""
    countings: tuple[str, ...]
    """the conventions, each a paper's, by which it comes out so"""
    before: int | None
    """AdamW's; None without a baseline"""
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lever:
    """Something more to change, or several things together, and the peak that a trace finds then."""

    changes: tuple[str, ...]
    options: tuple[str, ...]
    """what the command line must say: the method's name with its settings, options"""
    price: str
    """what it costs beside memory, in words"""
    peak: int
    """of a step, or of a step that refreshes where that one is the heavier"""
    saves: int
    """bytes below the peak without it; negative where it is heavier"""

    @property
    def name(self) -> str:
        return " + ".join(self.changes)

    @property
    def helps(self) -> bool:
        """Whether it lowers the peak by more than rounding hides."""
        return self.saves >= WORTHWHILE * (self.peak + self.saves)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One method on one model, against AdamW in the same scenario."""

    record: Record
    baseline: Record | None
    """AdamW's; None for AdamW itself"""
    peak: Moment
    refresh: Moment | None
    """of a step with periodic work; None where the method has none"""
    baseline_peak: Moment | None
    waterfall: tuple[tuple[str, int], ...]
    """category to what it adds to the baseline's peak on the way to this one; empty without a baseline"""
    accounts: tuple[Account, ...]
    holdings: tuple[Holding, ...]
    """everything alive at the peak, largest first; sums to it"""
    parts: tuple[Part, ...]
    """the model piece by piece, largest first; sums to the trace's figures"""
    state: Mapping[str, int]
    """the optimizer's tensors by name, largest first; sums to the optimizer state"""
    levers: tuple[Lever, ...]
    """what lowers the peak further, best first"""

    @property
    def trace(self) -> Trace:
        assert self.record.trace is not None
        return self.record.trace

    @property
    def timeline(self) -> History:
        assert self.trace.timeline is not None
        return self.trace.timeline

    @property
    def heaviest(self) -> Moment:
        """The peak, or that of a step with periodic work where it is the higher one: what a device must hold."""
        return self.refresh if self.refresh is not None and self.refresh.nbytes > self.peak.nbytes else self.peak

    def document(self, environment: Mapping[str, Any], diagnosis: str) -> str:
        """The JSON document; the same scenario gives the same bytes."""
        body = {"schema_version": SCHEMA_VERSION, "environment": dict(environment), "diagnosis": diagnosis}
        body |= {"record": self.record.to_dict(timeline=True)}
        body |= {"baseline": self.baseline.to_dict() if self.baseline else None}
        body |= {"waterfall": dict(self.waterfall), "optimizer_state": dict(self.state)}
        for name in ("peak", "refresh", "baseline_peak"):
            moment = getattr(self, name)
            body[name] = None if moment is None else asdict(moment)
        for name in ("accounts", "holdings", "parts", "levers"):
            body[name] = [asdict(item) for item in getattr(self, name)]
        return json.dumps(body, indent=1, allow_nan=False)
