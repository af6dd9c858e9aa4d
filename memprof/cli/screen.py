"""Where output goes: data to stdout, progress to stderr; live where somebody watches, plain where nobody does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from rich.console import Console
from rich.live import Live

from memprof.record import Record
from memprof.report.describe import labels, models, plain
from memprof.report.loss_lines import loss_lines
from memprof.report.memory_lines import memory_lines
from memprof.report.pool_lines import pool_lines
from memprof.report.process import process_table
from memprof.report.rows import suitable_unit
from memprof.report.speed_table import speed_tables
from memprof.report.table import Comparison, render
from memprof.units import counted

WIPE = "\r\x1b[K"
"""back to the line's start, and nothing more on it"""


class Fitting(Protocol):
    """What rich can print, and how wide it would be with nothing folded."""

    @property
    def natural_width(self) -> int: ...


def print_table(table: Fitting) -> None:
    """Fitted to a terminal; as wide as it needs to be in a file or a pipe."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(80, table.natural_width))
    console.print(table)


def print_process(records: Sequence[Record], unit: str) -> None:
    """What the measuring processes used, and the parts of it."""
    table = process_table(records, unit)
    if table is not None:
        print(f"\nThe measuring process, {unit}", flush=True)
        Console(width=None if Console().is_terminal else 120).print(table)


def print_details(records: Sequence[Record], unit: str) -> None:
    """Behind the comparison: what an allocator would hold, what each process did, and how each speed was come by."""
    speeds, losses = speed_tables(records), loss_lines(records)
    memory: list[Fitting] = [*pool_lines(records, unit), *memory_lines(records, unit)]
    tables = [*memory, *([speeds] if speeds else []), *([losses] if losses else [])]
    for part in tables:
        print(flush=True)
        print_table(part)


def note(text: str) -> None:
    """A line for the reader, not for the data."""
    print(f"memprof: {text}", file=sys.stderr)


class Progress:
    """Records as they come: a table that fills in on a terminal; else a line on stderr, which a log keeps for each."""

    def __init__(
        self, cells: Sequence[Record], *, live: bool, by: str | None, unit: str | None, fits: int | None
    ) -> None:
        """`cells` are all there will be, in the order in which they come, with or without their figures."""
        self.labels = labels(cells)
        prefixes = [f"{cell.model} " if len(models(cells)) > 1 else "" for cell in cells]
        self.names = [f"{prefix}{label}" for prefix, label in zip(prefixes, self.labels, strict=True)]
        self.live = live and Console().is_terminal
        self.unit = unit
        self.options = {"by": by, "fits": fits}
        self._race: Callable[[str], None] = self._say

    def racing(self, entrants: int, rounds: int) -> None:
        """Show that methods are being timed, which may take longer than all the rest."""
        self._race(f"timing {counted(entrants, 'method')} in {counted(rounds, 'round')}")

    def watch(self, records: Iterable[Record], done: list[Record]) -> None:
        """Draw `records` into `done`; what finished stays there if an interrupt comes."""
        if self.live:
            with Live(self._table(done), console=Console(), auto_refresh=False) as live:
                self._race = lambda said: live.update(self._table(done, f"{said[:1].upper()}{said[1:]}."), refresh=True)
                for record in self._collect(records, done):
                    del record
                    live.update(self._table(done), refresh=True)
            return
        for record in self._collect(records, done):
            self._line(len(done), record)
        if sys.stderr.isatty():
            print(WIPE, end="", file=sys.stderr, flush=True)

    @staticmethod
    def _collect(records: Iterable[Record], done: list[Record]) -> Iterator[Record]:
        for record in records:
            done.append(record)
            yield record

    def _table(self, done: list[Record], note: str = "") -> Comparison:
        """Each row is named as it will be in the end, when all are there to be told apart."""
        waiting = self.names[len(done) :]
        note = note or (f"Running {waiting[0]}, {len(done) + 1} of {len(self.names)}." if waiting else "")
        unit = self.unit or suitable_unit(done)
        table = render(done, pending=waiting, note=note, unit=unit, **self.options)  # type: ignore[arg-type]
        return replace(table, rows=[replace(row, label=self.labels[place]) for place, row in enumerate(table.rows)])

    def _line(self, count: int, record: Record) -> None:
        why = "" if record.status == "ok" else f", {record.status}: {plain(record.reason)}"
        self._say(f"{count} of {len(self.names)} done", f": {self.names[count - 1]}{why}")

    @staticmethod
    def _say(short: str, more: str = "") -> None:
        """On a terminal a line that overwrites itself. A log that nobody takes any more ends no run."""
        with suppress(OSError):
            if sys.stderr.isatty():
                print(f"{WIPE}memprof: {short}", end="", file=sys.stderr, flush=True)
            else:
                print(f"memprof: {short}{more}", file=sys.stderr, flush=True)
