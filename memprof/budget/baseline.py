"""The baseline: the records that were accepted, in the document that `memprof compare --json` prints."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memprof.budget.source import shown
from memprof.errors import MemprofError
from memprof.record import SCHEMA_VERSION, Interval, Measured, Memory, Record, document

MAX_BYTES = 2**24


@dataclass(frozen=True, slots=True)
class Baseline:
    """What was accepted: records by their scenario's id, and the versions that they were made with."""

    name: str
    records: dict[str, Record]
    environment: dict[str, Any] = field(default_factory=dict)


def read_baseline(path: Path) -> Baseline | None:
    """The baseline at `path`; None where none was ever written. A file that is no baseline is an error."""
    if not path.exists():
        return None
    name = shown(path)
    try:
        data = json.loads(_bounded(path))
        if data["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema {data['schema_version']!r}, not {SCHEMA_VERSION}")
        records = [_sound(Record.from_dict(record)) for record in data["records"]]
        return Baseline(name, {record.id: record for record in records}, dict(data["environment"]))
    except OSError as error:
        raise MemprofError(f"cannot read {name}: {error.strerror or error}") from None
    except (MemprofError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise MemprofError(f"{name} is no baseline ({reason}); make it anew with memprof check --update") from None


def write_baseline(path: Path, records: Sequence[Record], environment: Mapping[str, Any], device: str | None) -> None:
    """Replace the baseline whole or not at all.

    Records of `device` (None: of a trace) are replaced by these, so that none outlives its budget. Those of other
    devices stay: they are made by another command, and often on another machine.
    """
    old = read_baseline(path)
    kept = [record for record in old.records.values() if record.scenario.get("device") != device] if old else []
    facts = dict(old.environment) | dict(environment) if old and kept else dict(environment)
    ordered = sorted([*kept, *records], key=lambda record: record.scenario.get("device") is not None)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MemprofError(f"cannot write {shown(path)}: {error.strerror or error}") from None
    replace_file(path, document(ordered, facts) + "\n")


def replace_file(path: Path, content: str) -> None:
    """A reader finds the old file or the new one, never half of either."""
    if not path.name or path.is_dir():
        raise MemprofError(f"cannot write {path}: it is a folder")
    unfinished = path.with_name(f".unfinished-{os.getpid()}-{path.name}")
    try:
        try:
            unfinished.write_bytes(content.encode())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise MemprofError(f"cannot write {shown(path)}: {error.strerror or error}") from None


def _bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES} bytes")
    return content


def _sound(record: Record) -> Record:
    """The record, if what budgets read of it has the right types all the way down."""
    if not isinstance(record.id, str):
        raise TypeError("an id must be text")
    for memory in (record.formula, record.trace, record.measured):
        if memory is not None:
            _check(memory)
    return record


def _check(memory: Memory) -> None:
    breakdowns = [memory.peak_by_category, getattr(memory, "extra_by_maker", {})]
    sizes = [getattr(memory, key, None) for key in ("total", "refresh_peak", "reserved", "device")]
    sizes += [size for breakdown in breakdowns for size in breakdown.values()]
    if not all(size is None or (isinstance(size, int) and not isinstance(size, bool)) for size in sizes):
        raise TypeError("sizes must be integers of bytes")
    if not isinstance(memory.peak_phase, str):
        raise TypeError("peak_phase must be text")
    speed = memory.examples_per_second if isinstance(memory, Measured) else None
    if speed is not None and not _is_interval(speed):
        raise TypeError("examples_per_second must be an interval of numbers")


def _is_interval(speed: Interval) -> bool:
    ends = (speed.low, speed.median, speed.high)
    return all(isinstance(end, int | float) for end in ends) and 0 < speed.low <= speed.median <= speed.high
