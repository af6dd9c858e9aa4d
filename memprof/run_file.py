"""The file of a run, records.jsonl: a header line, then a record a line. Reads it, and mends a torn end."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memprof.errors import MemprofError
from memprof.record import SCHEMA_VERSION, Record

RECORDS = "records.jsonl"
MAX_FILE = 2**28
"""bytes of a stored run; a record takes about 20,000"""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Maker:
    """What made a run, beside its scenarios: the header of its file."""

    environment: Mapping[str, Any] = field(default_factory=dict)
    """versions, machine and device; no host, no user, no path"""
    steps: int | None = None
    """timed steps; None where nothing is measured"""
    rounds: int | None = None
    """of the race that they were timed in; None also of a run that was made before there were races"""

    def header(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "environment": dict(self.environment),
            "steps": self.steps,
            "rounds": self.rounds,
        }

    def facts(self) -> dict[str, Any]:
        """Steps and rounds first: they are what a command line changes most easily."""
        return {"steps": self.steps, "rounds": self.rounds, **self.environment}


def load(path: str | Path) -> list[Record]:
    """The records of a run, in the order in which their cells first came; of a cell that ran again, the last."""
    lines = [(place, value) for place, value in _lines(_file(path)) if not _is_header(place, value)]
    records = [_record(place, value) for place, value in lines]
    return list({record.id: record for record in records}.values())


def read_environment(path: str | Path) -> dict[str, Any]:
    """What the run says of the machine and versions; the last word where a run was resumed."""
    return dict(read_maker(path).environment)


def read_maker(path: str | Path) -> Maker:
    """What made the run, by its last header; a run without one does not say."""
    headers = [value for place, value in _lines(_file(path)) if _is_header(place, value)]
    if not headers:
        return Maker()
    last = headers[-1]
    return Maker(last.get("environment") or {}, last.get("steps"), last.get("rounds"))


def _file(path: str | Path) -> Path:
    given = Path(path)
    file = given / RECORDS if given.is_dir() else given
    if not file.is_file():
        raise MemprofError(f"no run at {given}: {RECORDS} is not there")
    return file


def _lines(file: Path) -> Iterator[tuple[str, Any]]:
    """Each line with its place. A last line that was cut short is left out: its cell simply runs again."""
    with disk(file.parent, "read"):
        lines = [(number, line) for number, line in enumerate(_bounded(file).split(b"\n"), 1) if line.strip()]
    for position, (number, line) in enumerate(lines, 1):
        try:
            yield f"{file}:{number}", json.loads(line)
        except (ValueError, RecursionError):
            if position < len(lines):
                raise MemprofError(
                    f"{file}:{number} is not JSON; the run is damaged there; without that line it is sound, and its "
                    "cell runs again with --resume"
                ) from None
            _log.warning("%s:%d: the last record was cut short and is left out", file, number)


def _bounded(file: Path) -> bytes:
    with file.open("rb") as opened:
        if os.fstat(opened.fileno()).st_size <= MAX_FILE:
            content = opened.read(MAX_FILE + 1)
            if len(content) <= MAX_FILE:
                return content
    raise MemprofError(f"{file} is larger than any run ({MAX_FILE} bytes)")


def mend(file: Path) -> None:
    """Ends the file with a whole line, so that the next one does not run on from a torn one."""
    kept = file.read_bytes().rstrip()
    start = kept.rfind(b"\n") + 1
    try:
        json.loads(kept[start:] or b"{}")
    except (ValueError, RecursionError):
        kept = kept[:start].rstrip()
    os.truncate(file, len(kept))
    if kept:
        with file.open("ab") as end:
            end.write(b"\n")


def _is_header(place: str, value: Any) -> bool:
    if not isinstance(value, dict):
        raise MemprofError(f"{place}: not a memprof record of schema {SCHEMA_VERSION}")
    if "schema_version" not in value:
        return False
    if value["schema_version"] != SCHEMA_VERSION:
        raise MemprofError(f"{place}: schema {value['schema_version']!r}; this memprof reads schema {SCHEMA_VERSION}")
    if not isinstance(value.get("environment"), dict | None):
        raise MemprofError(f"{place}: the environment is not a table of facts")
    for name in ("steps", "rounds"):
        if not isinstance(value.get(name), int | None) or isinstance(value.get(name), bool):
            raise MemprofError(f"{place}: the {name} are not a number")
    return True


def _record(place: str, value: dict[str, Any]) -> Record:
    try:
        return Record.from_dict(value)
    except MemprofError as error:
        raise MemprofError(f"{place}: {error}") from None


@contextmanager
def disk(path: Path, verb: str = "write") -> Iterator[None]:
    """What the operating system refuses, in one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MemprofError(f"no space left in {path}; make some and go on with --resume") from None
        raise MemprofError(f"cannot {verb} {path}: {error.strerror or error}") from None
