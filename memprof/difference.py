"""What became of each figure between two runs: the result that `memprof diff` shows, and its JSON document.

Like a record, it crosses borders: the engine makes it, reports read it, and neither knows the other.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from memprof.record import Interval, Record

SCHEMA_VERSION = 1
IMPROVED, SAME, WORSE, INCONCLUSIVE, NEW, MISSING = "improved", "same", "worse", "inconclusive", "new", "missing"
VERDICTS = (WORSE, MISSING, INCONCLUSIVE, IMPROVED, NEW, SAME)
"""as they are counted: first what needs a look"""
BYTES = ("param", "grad", "optimizer_state", "activation", "extra", "peak", "steady", "refresh_peak")
SPEED, STATUS = "examples_per_second", "status"
Value = int | Interval | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure of one scenario, before and after: bytes, an interval, or how the cell ended."""

    key: str
    before: Value
    after: Value
    verdict: str
    note: str = ""
    """why, where the two values alone do not say it"""
    parts: Mapping[str, int] = field(default_factory=dict)
    """of a peak: by how much each category's share of that instant changed"""

    @property
    def change(self) -> int | float | None:
        """After less before: bytes, or of a speed the medians; None where one is not there."""
        if isinstance(self.before, int) and isinstance(self.after, int):
            return self.after - self.before
        if isinstance(self.before, Interval) and isinstance(self.after, Interval):
            return self.after.median - self.before.median
        return None

    @property
    def share(self) -> float | None:
        """The change as a share of what was before."""
        base = self.before.median if isinstance(self.before, Interval) else self.before
        return self.change / base if self.change is not None and isinstance(base, int | float) and base else None

    def to_dict(self) -> dict[str, Any]:
        both = {"before": _plain(self.before), "after": _plain(self.after), "change": self.change}
        told = {"note": self.note or None, "at_peak": dict(self.parts) or None}
        return {"figure": self.key, **both, "verdict": self.verdict, **told}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A scenario as both runs have it; one side is None where only the other run has it."""

    before: Record | None
    after: Record | None
    joined_on: str | None
    """`id`, or `scenario` where the ids differ in nothing that matters; None without a partner"""
    witness: str | None
    """whose figures these are; None where no witness spoke on both sides"""
    figures: tuple[Figure, ...]

    @property
    def record(self) -> Record:
        found = self.after or self.before
        assert found is not None
        return found

    def to_dict(self) -> dict[str, Any]:
        ids = {"before": self.before.id if self.before else None, "after": self.after.id if self.after else None}
        origin = {"id": ids, "joined_on": self.joined_on, "scenario": self.record.scenario, "witness": self.witness}
        return {**origin, "figures": [figure.to_dict() for figure in self.figures]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A stored run as it was read: what to call it, what it says of its machine, its records."""

    name: str
    environment: Mapping[str, Any]
    records: Sequence[Record]
    steps: int | None = None
    """timed steps; None where it does not say"""
    rounds: int | None = None
    """of the race that they were timed in; None where each step was timed by itself"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two runs, figure by figure."""

    before: Run
    after: Run
    pairs: tuple[Pair, ...]
    tolerance: str
    """as the user wrote it; empty where every byte counts"""
    by: str | None

    def figures(self) -> Iterator[tuple[Pair, Figure]]:
        yield from ((pair, figure) for pair in self.pairs for figure in pair.figures)

    def counts(self) -> dict[str, int]:
        """Figures by verdict, every verdict named."""
        found = Counter(figure.verdict for _, figure in self.figures())
        return {verdict: found[verdict] for verdict in VERDICTS}

    def environment_changes(self) -> dict[str, tuple[Any, Any]]:
        """What the machines or versions differ in; a run that does not say something differs in it."""
        one, other = self.before.environment, self.after.environment
        pairs = {key: (one.get(key), other.get(key)) for key in dict.fromkeys([*one, *other])}
        return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}

    def document(self) -> str:
        """The JSON document; the same runs give the same bytes."""
        runs = {
            name: {"run": run.name, "environment": dict(run.environment)}
            for name, run in (("before", self.before), ("after", self.after))
        }
        asked = {"tolerance": self.tolerance or None, "by": self.by}
        changes = {"environment_changes": self.environment_changes(), "counts": self.counts()}
        scenarios = [pair.to_dict() for pair in self.pairs]
        body = {"schema_version": SCHEMA_VERSION, **runs, **asked, **changes, "scenarios": scenarios}
        return json.dumps(body, indent=1, allow_nan=False)


def _plain(value: Value) -> Any:
    return asdict(value) if isinstance(value, Interval) else value
