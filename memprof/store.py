"""A run on disk: a folder with records.jsonl, which grows record by record, and the tables and charts made from it."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memprof.errors import MemprofError, NothingToDoError
from memprof.lock import FileLock
from memprof.record import SCHEMA_VERSION, Record
from memprof.run_file import RECORDS, disk, load, mend, read_environment

RENDERED = ("records.csv", "table.md", "memory.png", "memory.svg", "tradeoff.png", "tradeoff.svg")
"""what `render` makes of them"""


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
        with disk(given):
            given.mkdir(parents=True, exist_ok=True)
            store = cls(given, FileLock(given / RECORDS))
            if started and resume:
                mend(store.records)
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
        with disk(self.path):
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


def render(path: str | Path, records: Sequence[Record] | None = None, **options: Any) -> list[Path]:
    """The run's tables and charts; `options` are by, unit, fits and note. Each file is replaced whole or not at all."""
    folder = Path(path)
    records = load(folder) if records is None else records
    if not records:
        raise NothingToDoError(f"the run {folder} holds no records; nothing to render")
    from memprof.report import files  # brings pandas and matplotlib

    with disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return files.write(folder, records, **options)


def _check(path: Path, force: bool, resume: bool, planned: Collection[str]) -> bool:
    """Whether a run was started here; an error where the flags do not allow what is found."""
    if force and resume:
        raise MemprofError("--force starts over and --resume continues; give one of them")
    with disk(path):
        if path.exists() and not path.is_dir():
            raise MemprofError(f"{path} is a file; a run needs a folder of its own")
        started = (path / RECORDS).exists()
        if started and resume:
            found = load(path)  # a run of another schema must not be continued
            if found and planned and not any(record.id in planned for record in found):
                whose = "its only cell is not" if len(found) == 1 else f"none of its {len(found)} cells is"
                raise MemprofError(
                    f"the run {path} is of other scenarios: {whose} asked for here; "
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
