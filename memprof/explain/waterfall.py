"""From one peak to another, category by category."""

from __future__ import annotations

from memprof.record import Memory, Record
from memprof.timeline import CATEGORIES

WITNESSES = ("measured", "trace", "formula")
"""strongest first"""


def waterfall(before: Record, after: Record) -> list[tuple[str, int]]:
    """Every category with the bytes that it adds to the peak of `before` (negative: takes away) on the way to `after`.

    They sum to the difference of the two peaks exactly. Both are of the strongest witness that saw both records, on
    one device where they were measured; nothing to tell where none did.
    """
    pair = shared_witness(before, after)
    if pair is None:
        return []
    one, other = pair
    changes = other.peak_change(one)
    return [(name, changes[name]) for name in CATEGORIES]


def shared_witness(before: Record, after: Record) -> tuple[Memory, Memory] | None:
    """What the strongest witness of both says of each; None where no witness saw both."""
    same_device = before.scenario.get("device") == after.scenario.get("device")
    for name in WITNESSES:
        one: Memory | None = getattr(before, name)
        other: Memory | None = getattr(after, name)
        if one and other and (name != "measured" or same_device):
            return one, other
    return None
