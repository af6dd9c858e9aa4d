"""A stored run in any of its forms: a folder, its records.jsonl, a document of `compare --json`, a single record.

What is read is data from anywhere: bounded and checked here once, so that nothing behind this needs to be careful.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memprof.difference import BYTES, Run
from memprof.errors import MemprofError, NothingToDoError
from memprof.record import SCHEMA_VERSION, Interval, Record
from memprof.run_file import RECORDS, load, read_maker
from memprof.timeline import CATEGORIES

MAX_FILE = 2**28
"""bytes of a stored run; a record takes about 4,000"""
MAX_BYTES = 2**63
MAX_SPEED = 1e15
MAX_DEPTH = 4
"""how deep a scenario may nest; ours has a shape and hyperparameters with tuples"""


def read_run(path: str | Path) -> Run:
    """The run, checked; an error says what is wrong with it, in one line."""
    given = Path(path)
    found = _document(given) if given.is_file() else None
    if found is None:
        maker = read_maker(given)
        found = {"environment": dict(maker.environment), "steps": maker.steps, "records": load(given)}
    records = list({record.id: record for record in map(_checked, found["records"])}.values())
    if not records:
        raise NothingToDoError(f"{given} holds no records; there is nothing to compare")
    if not _is_plain(found["environment"]):
        raise MemprofError(f"{given}: the environment holds more than plain facts")
    return Run(name=_name(given), environment=found["environment"], records=tuple(records), steps=found.get("steps"))


def read_runs(before: str | Path, after: str | Path) -> tuple[Run, Run]:
    """Two runs; where both have one name, their folders tell them apart, or else which is which."""
    one, other = read_run(before), read_run(after)
    if one.name != other.name:
        return one, other
    names = [f"{_place(Path(path)).parent.name}/{one.name}" for path in (before, after)]
    if names[0] == names[1]:
        names = [f"{one.name} (before)", f"{one.name} (after)"]
    return dataclasses.replace(one, name=names[0]), dataclasses.replace(other, name=names[1])


def _name(path: Path) -> str:
    """What to call the run: its folder, or the file where that is all of it. Never where it lies."""
    return _place(path).name or "run"


def _place(path: Path) -> Path:
    whole = Path(os.path.normpath(path.absolute()))
    return whole.parent if whole.name == RECORDS else whole


def _document(file: Path) -> dict[str, Any] | None:
    """A file that is one JSON value; None for lines of records, which the store reads."""
    try:
        if file.stat().st_size > MAX_FILE:
            raise MemprofError(f"{file} is larger than any run ({MAX_FILE} bytes)")
        content = file.read_bytes()
        data = json.loads(content)
    except OSError as error:
        raise MemprofError(f"cannot read {file}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        if content.strip() and content.strip()[:1] not in (b"{", b"\0"):
            raise MemprofError(f"{file} is no run: neither {RECORDS} nor a document of compare --json") from None
        return None
    if isinstance(data, dict) and "records" in data:
        return _from_document(file, data)
    if isinstance(data, dict) and "scenario" in data:
        return {"environment": {}, "records": [Record.from_dict(data)]}
    return None


def _from_document(file: Path, data: Mapping[str, Any]) -> dict[str, Any]:
    version = data.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise MemprofError(f"{file}: schema {str(version)[:20]!r}; this memprof reads schema {SCHEMA_VERSION}")
    environment, rows = data.get("environment") or {}, data["records"]
    if not isinstance(environment, dict) or not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
        raise MemprofError(f"{file}: not a memprof document of schema {SCHEMA_VERSION}")
    return {"environment": environment, "records": [Record.from_dict(row) for row in rows]}


def _checked(record: Record) -> Record:
    """A record whose every figure can be compared and shown."""
    scenario = record.scenario
    sound = (
        isinstance(scenario.get("model"), str)
        and isinstance(scenario.get("method"), str)
        and isinstance(scenario.get("hyperparameters", {}), dict)
        and _is_plain(scenario)
        and isinstance(record.reason, str | None)
        and all(isinstance(flag, str) for flag in record.flags)
        and all(_is_sound(witness) for witness in (record.formula, record.trace, record.measured) if witness)
    )
    if not sound:
        raise MemprofError(f"record {record.id[:12]!r} is not of schema {SCHEMA_VERSION}: a value is out of its range")
    return record


def _is_sound(witness: Any) -> bool:
    at_peak = witness.peak_by_category
    return (
        all(_is_size(getattr(witness, key)) for key in BYTES if key != "refresh_peak")
        and (witness.refresh_peak is None or _is_size(witness.refresh_peak))
        and isinstance(witness.peak_phase, str)
        and isinstance(at_peak, dict)
        and all(key in CATEGORIES and _is_size(value) for key, value in at_peak.items())
        and isinstance(getattr(witness, "extra_largest", ""), str)
        and _is_interval(getattr(witness, "examples_per_second", None))
    )


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_BYTES


def _is_interval(value: Interval | None) -> bool:
    """Numbers in order and above zero, as a speed is."""
    if value is None:
        return True
    ends = (value.low, value.median, value.high)
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends):
        return False
    return 0 < value.low <= value.median <= value.high <= MAX_SPEED


def _is_plain(value: object) -> bool:
    """Flat enough to be shown, and without the numbers that JSON does not know."""
    if _depth(value) > MAX_DEPTH:
        return False
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def _depth(value: object) -> int:
    """How deep containers nest, counted no further than needed."""
    depth, level = 0, [value]
    while level and depth <= MAX_DEPTH:
        inner = [part for part in level if isinstance(part, dict | list)]
        level = [part for box in inner for part in (box.values() if isinstance(box, dict) else box)]
        depth += bool(inner)
        if not inner:
            break
    return depth
