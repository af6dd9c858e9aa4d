"""A run on disk: a folder with records.jsonl, which grows record by record, and the tables and charts made from it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memprof.durable import sync_folder
from memprof.errors import MemprofError, NothingToDoError
from memprof.lock import FileLock
from memprof.record import Record
from memprof.resume import check_maker, check_scenarios
from memprof.run_file import RECORDS, Maker, disk, load, mend, read_maker

RENDERED = ("records.csv", "table.md", "memory.png", "memory.svg", "tradeoff.png", "tradeoff.svg")
"""what `render` makes of every run"""
_SOME = ("timeline", "waterfall", "sweep", "agreement")
OCCASIONAL = tuple(f"{name}.{end}" for name in _SOME for end in ("png", "svg"))
"""what it makes of some runs"""
PAGE = "report.html"
"""what `memprof report` makes of them"""
PREDICTION = ("prediction.md", "prediction.csv")
"""and what `memprof report --prediction` does"""


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
        maker: Maker | None = None,
        planned: Sequence[Record] = (),
    ) -> RunStore:
        """A folder ready for `append` until `close`, or until nobody holds the store.

        Refuses, before it writes anything, what neither flag allows, a folder that another process writes to, and to
        continue a run that does not go together with its `maker` and the records `planned`, where these are given.
        """
        given = Path(path)
        _check_place(given, force, resume)
        with disk(given):
            given.mkdir(parents=True, exist_ok=True)
            store = cls(given, FileLock(given / RECORDS))
            try:
                store._begin(force, resume, maker, planned)
            except BaseException:
                store.close()
                raise
        return store

    def _begin(self, force: bool, resume: bool, maker: Maker | None, planned: Sequence[Record]) -> None:
        """Looks again, now that nobody else writes: what is there may have come since."""
        started, made = self.records.stat().st_size > 0, (*RENDERED, *OCCASIONAL, PAGE, *PREDICTION)
        if started and not force and not resume:
            raise _is_taken(self.path, resume)
        if started and resume:
            self._go_on(maker, planned)
        else:
            os.truncate(self.records, 0)
            _clear(self.path, made)
            self._write((maker or Maker()).header())
        _clear(self.path, [file.name for name in made for file in self.path.glob(f".unfinished-*-{name}")])
        for folder in (self.path, self.path.absolute().parent):
            sync_folder(folder)

    def _go_on(self, maker: Maker | None, planned: Sequence[Record]) -> None:
        stored = load(self.path)  # a run of another schema must not be continued
        check_scenarios(self.path, stored, planned)
        then = read_maker(self.path)
        if maker is not None:
            check_maker(self.path, stored, then, maker)
        mend(self.records)
        if maker is not None and then != maker:
            self._write(maker.header())

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
            self._write(record.to_dict(timeline=True))

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


def _check_place(path: Path, force: bool, resume: bool) -> None:
    """An error where the flags do not allow what is found."""
    if force and resume:
        raise MemprofError("--force starts over and --resume continues; give one of them")
    with disk(path):
        if path.exists() and not path.is_dir():
            raise MemprofError(f"{path} is a file; a run needs a folder of its own")
        started = (path / RECORDS).exists()
        if not force and not (started and resume) and path.exists() and any(path.iterdir()):
            raise _is_taken(path, resume)


def _is_taken(path: Path, resume: bool) -> MemprofError:
    what = "holds other files than a run" if resume else "is not empty"
    ways = "--force to write there all the same" if resume else "--force to start over or --resume to continue"
    return MemprofError(f"the folder {path} {what}; use {ways}")


def _clear(path: Path, names: Iterable[str]) -> None:
    """What an earlier run left, and nothing else. The records' file stays, for the lock is on it."""
    for name in names:
        (path / name).unlink(missing_ok=True)
