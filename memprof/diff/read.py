"""A stored run in any of its forms: a folder, its records.jsonl, a document of `compare --json`, a single record.

What is read is data from anywhere: bounded here and checked against the schema, so that nothing behind this needs to be
careful.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memprof.difference import Run
from memprof.errors import MemprofError, NothingToDoError
from memprof.record import SCHEMA_VERSION, Record
from memprof.run_file import MAX_FILE, RECORDS, load, read_maker
from memprof.schema import check_plain


def read_run(path: str | Path) -> Run:
    """The run, checked; an error says what is wrong with it, in one line."""
    given = Path(path)
    found = _document(given) if given.is_file() else None
    if found is None:
        maker = read_maker(given)
        found = {"environment": dict(maker.environment), "records": load(given)}
        found |= {"steps": maker.steps, "rounds": maker.rounds}
    records = list({record.id: record for record in found["records"]}.values())
    if not records:
        raise NothingToDoError(f"{given} holds no records; there is nothing to compare")
    try:
        check_plain(found["environment"], "environment")
    except ValueError:
        raise MemprofError(f"{given}: the environment holds more than plain facts") from None
    return Run(
        name=_name(given),
        environment=found["environment"],
        records=tuple(records),
        steps=found.get("steps"),
        rounds=found.get("rounds"),
    )


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
