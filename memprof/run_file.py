"""The file of a run, records.jsonl: a header line, then a record a line. Reads it, and mends a torn end."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from memprof.errors import MemprofError
from memprof.record import SCHEMA_VERSION, Record

RECORDS = "records.jsonl"
_log = logging.getLogger(__name__)


def load(path: str | Path) -> list[Record]:
    """The records of a run, in the order in which their cells first came; of a cell that ran again, the last."""
    lines = [(place, value) for place, value in _lines(_file(path)) if not _is_header(place, value)]
    records = [_record(place, value) for place, value in lines]
    return list({record.id: record for record in records}.values())


def read_environment(path: str | Path) -> dict[str, Any]:
    """What the run says of the machine and versions; the last word where a run was resumed."""
    headers = [value for place, value in _lines(_file(path)) if _is_header(place, value)]
    return dict(headers[-1].get("environment") or {}) if headers else {}


def _file(path: str | Path) -> Path:
    given = Path(path)
    file = given / RECORDS if given.is_dir() else given
    if not file.is_file():
        raise MemprofError(f"no run at {given}: {RECORDS} is not there")
    return file


def _lines(file: Path) -> Iterator[tuple[str, Any]]:
    """Each line with its place. A last line that was cut short is left out: its cell simply runs again."""
    with disk(file.parent, "read"):
        lines = [(number, line) for number, line in enumerate(file.read_bytes().split(b"\n"), 1) if line.strip()]
    for position, (number, line) in enumerate(lines, 1):
        try:
            yield f"{file}:{number}", json.loads(line)
        except (ValueError, RecursionError):
            if position < len(lines):
                raise MemprofError(f"{file}:{number} is not JSON; the run is damaged there") from None
            _log.warning("%s:%d: the last record was cut short and is left out", file, number)


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
