"""The baseline: the records that were accepted, in the document that `memprof compare --json` prints."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memprof import durable
from memprof.budget.source import shown
from memprof.diff.speed import OF_THE_MACHINE
from memprof.errors import MemprofError
from memprof.record import SCHEMA_VERSION, Record, document
from memprof.report.describe import plain

MAX_BYTES = 2**24


@dataclass(frozen=True, slots=True)
class Baseline:
    """What was accepted: records by their scenario's id, and the versions that they were made with."""

    name: str
    records: dict[str, Record]
    environment: dict[str, Any] = field(default_factory=dict)
    budgets: dict[str, list[str]] = field(default_factory=dict)
    """for which budget a record was accepted: the ids by the budget's name, one for each device"""

    def former(self, budget: str, device: str | None) -> Record | None:
        """What was accepted for a budget of this name, whatever its scenario was then."""
        known = (self.records.get(record_id) for record_id in self.budgets.get(budget, ()))
        found = (record for record in known if record and record.scenario.get("device") == device)
        return next((record for record in found if record.status == "ok"), None)


def read_baseline(path: Path) -> Baseline | None:
    """The baseline at `path`; None where none was ever written. A file that is no baseline is an error."""
    if not path.exists():
        return None
    name = shown(path)
    try:
        return _parsed(name, json.loads(_bounded(path)))
    except OSError as error:
        raise MemprofError(f"cannot read {name}: {error.strerror or error}") from None
    except (MemprofError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else plain(error)[:200]
        raise MemprofError(f"{name} is no baseline ({reason}); make it anew with memprof check --update") from None


def _parsed(name: str, data: Any) -> Baseline:
    """The baseline of a JSON value; `ValueError` or `MemprofError` where it is none."""
    if not isinstance(data, dict) or "schema_version" not in data:
        raise ValueError("it is not a document of memprof")
    if data["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"schema {data['schema_version']!r}, not {SCHEMA_VERSION}")
    environment, rows, budgets = data.get("environment"), data.get("records"), data.get("budgets", {})
    if not isinstance(environment, dict):
        raise ValueError("its environment is not a table of facts")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("its records are not a list of records")
    if not isinstance(budgets, dict) or not all(isinstance(ids, list) for ids in budgets.values()):
        raise ValueError("its budgets are not a table of lists")
    if not all(isinstance(each, str) for ids in budgets.values() for each in ids):
        raise ValueError("its budgets are not ids of records")
    records = [Record.from_dict(row) for row in rows]
    return Baseline(name, {record.id: record for record in records}, environment, budgets)


def write_baseline(
    path: Path,
    records: Sequence[Record],
    environment: Mapping[str, Any],
    device: str | None,
    budgets: Mapping[str, str] | None = None,
) -> None:
    """Replace the baseline whole or not at all. `budgets` says by name which record was accepted for a budget.

    Records of `device` (None: of a trace) are replaced by these, so that none outlives its budget. Those of other
    devices stay: they are made by another command, and often on another machine.
    """
    old = read_baseline(path)
    kept = [record for record in old.records.values() if record.scenario.get("device") != device] if old else []
    facts = _facts(old.environment, environment, device) if old and kept else dict(environment)
    ordered = sorted([*kept, *records], key=lambda record: record.scenario.get("device") is not None)
    body = json.loads(document(ordered, facts)) | {"budgets": _accepted(old, kept, budgets or {})}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MemprofError(f"cannot write {shown(path)}: {error.strerror or error}") from None
    replace_file(path, json.dumps(body, indent=1, allow_nan=False) + "\n")


def _facts(old: Mapping[str, Any], new: Mapping[str, Any], device: str | None) -> dict[str, Any]:
    """The newest versions; of the machine, what those who measured said, since its speeds are kept."""
    told = {key for key in OF_THE_MACHINE if old.get(key) is not None and (device is None or new.get(key) is None)}
    return {**old, **{key: value for key, value in new.items() if key not in told}}


def _accepted(old: Baseline | None, kept: Sequence[Record], budgets: Mapping[str, str]) -> dict[str, list[str]]:
    """The ids of each budget: those kept of other devices, then its new one."""
    ids = {record.id for record in kept}
    before = {name: [each for each in found if each in ids] for name, found in (old.budgets if old else {}).items()}
    names = dict.fromkeys([*budgets, *(name for name, found in before.items() if found)])
    return {name: [*before.get(name, []), *([budgets[name]] if name in budgets else [])] for name in names}


def update_command(device: str | None) -> str:
    """What accepts the figures of a trace, or of this device."""
    return "memprof check --update" if device is None else f"memprof check --device {device} --update"


def replace_file(path: Path, content: str) -> None:
    """A reader finds the old file or the new one, never half of either. A link stays a link, and the mode as it was."""
    if not path.name or path.is_dir():
        raise MemprofError(f"cannot write {path}: it is a folder")
    path = Path(os.path.realpath(path))
    unfinished = path.with_name(f".unfinished-{os.getpid()}-{path.name}")
    try:
        try:
            unfinished.write_bytes(content.encode())
            if path.exists():
                shutil.copymode(path, unfinished)
            durable.replace(unfinished, path)
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
