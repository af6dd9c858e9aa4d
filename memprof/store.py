"""A run on disk: a folder with records.jsonl, which grows record by record, and the tables and charts made from it."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memprof.errors import MemprofError, NothingToDoError
from memprof.lock import FileLock
from memprof.record import SCHEMA_VERSION, Record

RECORDS = "records.jsonl"
RENDERED = ("records.csv", "table.md", "memory.png", "memory.svg", "tradeoff.png", "tradeoff.svg")
"""what `render` makes of them"""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunStore:
    """A run that is being written."""

    path: Path
    lock: FileLock | None = field(default=None, repr=False, compare=False)

    @classmethod
    def create(
        cls,
        path: str | Path,
        force: bool = False,
        resume: bool = False,
        environment: Mapping[str, Any] | None = None,
        planned: Collection[str] = (),
    ) -> RunStore:
        """A folder ready for `append` until `close`, or until nobody holds the store.

        Refuses, before it writes anything, what neither flag allows, a folder that another process writes to, and to
        continue a run with none of the cells that are `planned`, where these are given.
        """
        given = Path(path)
        started = _check(given, force, resume, planned)
        with _disk(given):
            given.mkdir(parents=True, exist_ok=True)
            store = cls(given, FileLock(given / RECORDS))
            if started and resume:
                _mend(store.records)
                if dict(environment or {}) != read_environment(store.path):
                    store._write(_header(environment))
            else:
                _clear(store.path)
                store._write(_header(environment))
        return store

    @property
    def records(self) -> Path:
        return self.path / RECORDS

    def close(self) -> None:
        """Let another process write here."""
        if self.lock is not None:
            self.lock.release()

    def append(self, record: Record) -> None:
        """One line, on the disk when this returns."""
        with _disk(self.path):
            self._write(record.to_dict())

    def load(self) -> list[Record]:
        return load(self.path)

    def render(self, records: Sequence[Record] | None = None, **options: Any) -> list[Path]:
        return render(self.path, records, **options)

    def _write(self, value: Mapping[str, Any]) -> None:
        """All of the line or, on a full disk, none of it."""
        line = memoryview(json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + b"\n")
        with self.records.open("ab", buffering=0) as file:
            start = os.fstat(file.fileno()).st_size
            try:
                while line:
                    line = line[file.write(line) :]
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    file.truncate(start)
                raise


def load(path: str | Path) -> list[Record]:
    """The records of a run, in the order in which their cells first came; of a cell that ran again, the last."""
    lines = [(place, value) for place, value in _lines(_file(path)) if not _is_header(place, value)]
    records = [_record(place, value) for place, value in lines]
    return list({record.id: record for record in records}.values())


def read_environment(path: str | Path) -> dict[str, Any]:
    """What the run says of the machine and versions; the last word where a run was resumed."""
    headers = [value for place, value in _lines(_file(path)) if _is_header(place, value)]
    return dict(headers[-1].get("environment") or {}) if headers else {}


def render(path: str | Path, records: Sequence[Record] | None = None, **options: Any) -> list[Path]:
    """The run's tables and charts; `options` are by, unit, fits and note. Each file is replaced whole or not at all."""
    folder = Path(path)
    records = load(folder) if records is None else records
    if not records:
        raise NothingToDoError(f"the run {folder} holds no records; nothing to render")
    from memprof.report import files  # brings pandas and matplotlib

    with _disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return files.write(folder, records, **options)


def _check(path: Path, force: bool, resume: bool, planned: Collection[str]) -> bool:
    """Whether a run was started here; an error where the flags do not allow what is found."""
    if force and resume:
        raise MemprofError("--force starts over and --resume continues; give one of them")
    with _disk(path):
        if path.exists() and not path.is_dir():
            raise MemprofError(f"{path} is a file; a run needs a folder of its own")
        started = (path / RECORDS).exists()
        if started and resume:
            found = load(path)  # a run of another schema must not be continued
            if found and planned and not any(record.id in planned for record in found):
                raise MemprofError(
                    f"the run {path} is of other scenarios: none of its {len(found)} cells is asked for here; "
                    "repeat the options it was made with, or use --force to start over"
                )
        elif path.exists() and not force and any(path.iterdir()):
            what = "holds other files than a run" if resume else "is not empty"
            ways = "--force to write there all the same" if resume else "--force to start over or --resume to continue"
            raise MemprofError(f"the folder {path} {what}; use {ways}")
    return started


def _clear(path: Path) -> None:
    """What an earlier run left, and nothing else. The records' file stays, for the lock is on it."""
    os.truncate(path / RECORDS, 0)
    for name in RENDERED:
        (path / name).unlink(missing_ok=True)


def _header(environment: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"schema_version": SCHEMA_VERSION, "environment": dict(environment or {})}


def _file(path: str | Path) -> Path:
    given = Path(path)
    file = given / RECORDS if given.is_dir() else given
    if not file.is_file():
        raise MemprofError(f"no run at {given}: {RECORDS} is not there")
    return file


def _lines(file: Path) -> Iterator[tuple[str, Any]]:
    """Each line with its place. A last line that was cut short is left out: its cell simply runs again."""
    with _disk(file.parent, "read"):
        lines = [(number, line) for number, line in enumerate(file.read_bytes().split(b"\n"), 1) if line.strip()]
    for position, (number, line) in enumerate(lines, 1):
        try:
            yield f"{file}:{number}", json.loads(line)
        except (ValueError, RecursionError):
            if position < len(lines):
                raise MemprofError(f"{file}:{number} is not JSON; the run is damaged there") from None
            _log.warning("%s:%d: the last record was cut short and is left out", file, number)


def _mend(file: Path) -> None:
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
def _disk(path: Path, verb: str = "write") -> Iterator[None]:
    """What the operating system refuses, in one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MemprofError(f"no space left in {path}; make some and go on with --resume") from None
        raise MemprofError(f"cannot {verb} {path}: {error.strerror or error}") from None
