"""What a record from outside must be, version 1: figures of the right kind that make sense together.

It comes out of a file, which anybody may have written, or out of a measuring process. What is let in here is stored,
compared and shown, and nothing behind it looks again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

MAX_BYTES = 2**63
MAX_FIGURE = 1e300
MAX_SPEED = 1e15
"""examples per second"""
MAX_DEPTH = 4
"""how deep a scenario may nest; ours has a shape, and hyperparameters with tuples"""
PARTS = ("param", "grad", "optimizer_state", "activation", "extra")
"""the keys of `peak_by_category`"""
PHASES = ("forward", "backward", "optimizer", "refresh")
NO_PHASE = "sum"
"""in place of one of them, of a peak that a paper's counting adds up"""
MAX_ID = 64
MAX_INSTANTS = 240
"""columns of a timeline are at most so long: about twenty kilobytes as JSON"""


def check_record(data: Mapping[str, Any], statuses: Collection[str]) -> None:
    """Raise `ValueError`, `KeyError` or `TypeError` where anything beside the witnesses is not of the schema."""
    scenario = data["scenario"]
    if data["status"] not in statuses or not isinstance(scenario, dict):
        raise ValueError(f"status {data['status']!r}")
    if not _is_id(data["id"]):
        raise ValueError(f"the id must be text of 1 to {MAX_ID} printable ASCII characters")
    texts = [*(scenario[key] for key in ("model", "method")), *data["flags"]]
    if not all(map(_is_text, texts)) or isinstance(data["flags"], str):
        raise ValueError("model, method and flags must be text")
    if not isinstance(scenario.get("hyperparameters", {}), dict):
        raise ValueError("hyperparameters must be a table")
    given = scenario.get("given", [])
    if not isinstance(given, list) or not all(map(_is_text, given)):
        raise ValueError("given must be a list of text")
    check_plain(scenario, "scenario")
    if not isinstance(data["reason"], str | None):
        raise ValueError("the reason must be text or null")


def check_plain(facts: object, name: str) -> None:
    """Raise `ValueError` unless they can be written and shown: no deep nest, no number that JSON does not know."""
    if _is_deeper(facts, MAX_DEPTH):
        raise ValueError(f"the {name} nests deeper than {MAX_DEPTH}")
    json.loads(json.dumps(facts, allow_nan=False), parse_int=_bounded)


def check_witness(data: Mapping[str, Any], known: Collection[str], optional: Collection[str]) -> None:
    """The same for one witness, whose keys are `known`; those that are `optional` may be null."""
    unknown = set(data) - set(known)
    if unknown:
        raise ValueError(f"unknown keys {sorted(unknown)}")
    for name in (*PARTS, "peak", "steady"):
        if not _is_size(data[name]):
            raise ValueError(f"{name} must be an integer of bytes")
    if data.get("refresh_peak") is not None and not _is_size(data["refresh_peak"]):
        raise ValueError("refresh_peak must be an integer of bytes or null")
    _check_parts(data["peak_by_category"], data["peak"])
    if data.get("timeline") is not None:
        _check_timeline(data["timeline"], data["peak"], data["steady"])
    for name, test in _KINDS.items():
        if name in data and not test(data[name]) and not (data[name] is None and name in optional):
            raise ValueError(f"{name} is not what the schema says")


def _check_parts(parts: object, peak: int) -> None:
    if not isinstance(parts, dict) or set(parts) != set(PARTS) or not all(map(_is_size, parts.values())):
        raise ValueError(f"peak_by_category must give bytes for {', '.join(PARTS)}")
    if sum(parts.values()) != peak:
        raise ValueError(f"peak_by_category sums to {sum(parts.values())} and the peak is {peak}")


def _check_timeline(timeline: object, peak: int, steady: int) -> None:
    """Columns of one length, instants in order, and the same peak and steady state as the witness has."""
    columns = ("event", "phase", *PARTS)
    if not isinstance(timeline, dict) or set(timeline) != {"events", *columns} or not _is_size(timeline["events"]):
        raise ValueError(f"a timeline must have events and the columns {', '.join(columns)}")
    if not all(isinstance(timeline[name], list | tuple) for name in columns):
        raise ValueError("a timeline's columns must be lists")
    lengths = {len(timeline[name]) for name in columns}
    if len(lengths) != 1 or not 0 < lengths.pop() <= MAX_INSTANTS:
        raise ValueError(f"a timeline's columns must be of one length, from 1 to {MAX_INSTANTS}")
    sizes = [timeline[name] for name in ("event", *PARTS)]
    if not all(phase in PHASES for phase in timeline["phase"]) or not all(
        _is_size(value) for column in sizes for value in column
    ):
        raise ValueError("a timeline must hold names of phases and integers of bytes")
    _check_order(timeline["event"], timeline["events"])
    totals = [sum(parts) for parts in zip(*sizes[1:], strict=True)]
    if (max(totals), totals[-1]) != (peak, steady):
        raise ValueError(f"the timeline has peak {max(totals)} and ends with {totals[-1]}, the witness says otherwise")


def _check_order(instants: Sequence[int], events: int) -> None:
    rising = all(one < other for one, other in pairwise(instants))
    if not rising or (instants[0], instants[-1]) != (0, events):
        raise ValueError("a timeline's events must rise from 0 to their number")


def _bounded(digits: str) -> int:
    if abs(value := int(digits)) > MAX_BYTES:
        raise ValueError("a number is out of range")
    return value


def _is_deeper(value: object, depth: int) -> bool:
    """Looks no further down than `depth`, so that nothing that nests thousands deep is followed."""
    if not isinstance(value, dict | list):
        return False
    inside = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(_is_deeper(part, depth - 1) for part in inside)


def _is_size(value: object) -> bool:
    return is_bytes(value) and cast(int, value) >= 0


def is_bytes(value: object) -> bool:
    """A difference of bytes may be below 0."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < MAX_BYTES


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_FIGURE


def _is_amount(value: object) -> bool:
    return is_number(value) and cast(float, value) >= 0


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_ID and value.isascii() and value.isprintable()


def _is_peak_phase(value: object) -> bool:
    return value in (*PHASES, NO_PHASE)


def _is_makers(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value)) and all(map(is_bytes, value.values()))


def _is_phases(value: object) -> bool:
    return (
        isinstance(value, dict) and set(value) <= set(PHASES) and all(n is None or _is_size(n) for n in value.values())
    )


def _is_seconds(value: object) -> bool:
    return isinstance(value, dict) and all(part is None or _is_amount(part) for part in value.values())


def _is_interval(value: object) -> bool:
    """Numbers in order and above 0, as a speed is."""
    if (
        not isinstance(value, dict)
        or set(value) != {"median", "low", "high"}
        or not all(map(is_number, value.values()))
    ):
        return False
    return bool(0 < value["low"] <= value["median"] <= value["high"] <= MAX_SPEED)


_KINDS: dict[str, Callable[[object], bool]] = {
    "peak_phase": _is_peak_phase, "peak_at": _is_text, "extra_largest": _is_text, "total": _is_size,
    "reserved": _is_size, "device": _is_size, "context": is_bytes, "residual": is_bytes, "extra_by_maker": _is_makers,
    "phase_peaks": _is_phases, "others": _is_size, "attention": _is_text,
    "recording_overhead": is_number, "step_seconds": _is_seconds,
    "examples_per_second": _is_interval, "tokens_per_second": _is_amount,
    "joules_per_example": _is_amount, "loss_first": is_number, "loss_last": is_number,
}  # fmt: skip
