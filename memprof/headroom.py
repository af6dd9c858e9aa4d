"""Whether a cell is worth trying: the memory that is free, and what has already run out of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memprof.child import CellError
from memprof.device import Device
from memprof.record import Memory, Record
from memprof.scenario import Scenario
from memprof.units import format_size

MAX_FRACTION = 0.95
"""share of the free memory that a cell may need by its trace; the rest is for what no trace sees"""
GROWS = ("batch_size", "seq_len")
"""a cell with more of these, and else the same, takes no less memory"""


@dataclass(frozen=True, slots=True)
class Headroom:
    """What a cell needs and how much of the free memory it may take.

    Checked in the process that measures: its context is there by then and no longer counts as free, and asking sets
    up none in any other process.
    """

    needed: int
    max_fraction: float = MAX_FRACTION
    steady: int = 0
    """of what is needed, what is held between steps too"""

    @classmethod
    def of(cls, traced: Memory, max_fraction: float) -> Headroom:
        return cls(max(traced.peak, traced.refresh_peak or 0), max_fraction, traced.steady)

    def check(self, device: Device) -> None:
        """Refuse what cannot fit, before the machine is driven out of memory."""
        free = device.free_bytes()
        if free is None or self.needed <= self.max_fraction * free:
            return
        raise CellError(
            "skipped",
            f"needs {format_size(self.needed)} GiB by trace, and {format_size(free)} GiB are free on {device.kind}, of "
            f"which --max-fraction {self.max_fraction:g} may be used; a larger --max-fraction tries all the same",
        )


def fit_together(rooms: Sequence[Headroom], device: Device) -> bool:
    """Whether cells that take their steps in turn may live side by side: each holds what is steady, and one is at its
    worst instant."""
    free = device.free_bytes()
    if free is None or not rooms:
        return True
    needed = sum(room.steady for room in rooms) + max(room.needed - room.steady for room in rooms)
    return needed <= min(room.max_fraction for room in rooms) * free


def outgrown(scenario: Scenario, failed: Iterable[Record]) -> str | None:
    """Why not to try a scenario that asks for more than one that ran out of memory; None where none such is known."""
    mine: dict[str, Any] = json.loads(json.dumps(scenario.to_dict()))
    for record in failed:
        sizes = {key: record.scenario.get(key) for key in GROWS}
        if record.status != "oom" or record.id == scenario.id or not _differ_in_size(mine, record.scenario):
            continue
        if all(isinstance(size, int) and size <= mine[key] for key, size in sizes.items()):
            smaller = ", ".join(f"{key} {size}" for key, size in sizes.items())
            return f"skipped after {smaller} ({record.id}) ran out of memory; this one needs no less"
    return None


def _differ_in_size(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether nothing else tells the two apart. A model's name is no difference where its shape is none."""
    return all(one[key] == other.get(key) for key in one if key not in ("model", *GROWS))
