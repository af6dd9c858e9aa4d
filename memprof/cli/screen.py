"""Where output goes: data to stdout, progress to stderr; live where somebody watches, plain where nobody does."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.live import Live

from memprof.record import Record
from memprof.report.diff import DifferenceTable
from memprof.report.process import process_table
from memprof.report.table import Comparison, render


def print_table(table: Comparison | DifferenceTable) -> None:
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


def note(text: str) -> None:
    """A line for the reader, not for the data."""
    print(f"memprof: {text}", file=sys.stderr)


class Progress:
    """Records as they come: a table that fills in on a terminal, a line on stderr where only that is one."""

    def __init__(self, names: Sequence[str], *, live: bool, by: str | None, unit: str, fits: int | None) -> None:
        self.names = list(names)
        self.live = live and Console().is_terminal
        self.options = {"by": by, "unit": unit, "fits": fits}

    def watch(self, records: Iterable[Record], done: list[Record]) -> None:
        """Draw `records` into `done`; what finished stays there if an interrupt comes."""
        if self.live:
            with Live(self._table(done), console=Console(), auto_refresh=False) as live:
                for record in self._collect(records, done):
                    del record
                    live.update(self._table(done), refresh=True)
        else:
            for _ in self._collect(records, done):
                self._line(len(done))
            self._line(None)

    @staticmethod
    def _collect(records: Iterable[Record], done: list[Record]) -> Iterator[Record]:
        for record in records:
            done.append(record)
            yield record

    def _table(self, done: list[Record]) -> Comparison:
        waiting = self.names[len(done) :]
        note = f"Running {waiting[0]}, {len(done) + 1} of {len(self.names)}." if waiting else ""
        return render(done, pending=waiting, note=note, **self.options)  # type: ignore[arg-type]

    def _line(self, count: int | None) -> None:
        """One line on stderr that overwrites itself; nothing where stderr is no terminal."""
        if sys.stderr.isatty():
            text = "" if count is None else f"memprof: {count} of {len(self.names)} done"
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
