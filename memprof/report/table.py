"""A comparison in the terminal: a table that fits the width it is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from memprof.record import Record
from memprof.report import captions
from memprof.report.columns import NONE, PEAKS, Column, choose
from memprof.report.describe import BASELINE
from memprof.report.rows import Row, make_rows, peak_name

GAP = 2  # one space of padding and the box's own divider
NARROWEST_TEXT = 14  # names fold at this width before a column of numbers is dropped
LEAST_BAR, MOST_BAR = 12, 32
"""characters of the longest bar: fewer tell nothing, more are no use"""
RUNNING = "..."
_TWO_LINES = ("Refresh peak", "Paper total", "Formula - trace", "Fits ", "Speed ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A rich renderable: chooses its columns when it learns how wide the console is."""

    rows: list[Row]
    columns: list[Column]
    unit: str
    pending: tuple[str, ...] = ()
    note: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown, dropped = self.fit(options.max_width)
        room = options.max_width - _total([self._width(column) for column in shown]) - GAP
        bars = min(room, MOST_BAR) if console.is_terminal and room >= LEAST_BAR else 0
        yield Text(captions.title(self.rows, self.unit), style="bold")
        yield self.table(
            shown, options.max_width - (bars + GAP if bars else 0), bars, "#" if options.ascii_only else "█"
        )
        yield Text("\n".join(["", *self._below(shown, dropped)]), style="dim")

    @property
    def natural_width(self) -> int:
        """The width at which nothing is dropped or folded: what piped output should be given."""
        return _total([self._width(column) for column in self.columns])

    def fit(self, width: int) -> tuple[list[Column], list[Column]]:
        """The columns that `width` has room for, and those it has not; the least important go first."""
        shown = list(self.columns)
        while len(shown) > 2 and _total([self._least(column) for column in shown]) > width:
            shown.remove(min(shown, key=lambda column: column.rank))
        return shown, [column for column in self.columns if column not in shown]

    def table(self, columns: Sequence[Column], width: int, bars: int = 0, block: str = "") -> Table:
        """These columns as a rich table of at most `width`: numbers whole, names folded where they must be.

        Behind them, where `bars` characters are left over, each peak as a bar on its model's scale.
        """
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        for column, room in zip(columns, self._widths(columns, width), strict=True):
            table.add_column(
                Text(_header(column)),
                justify="left" if column.is_text else "right",
                width=room,
                no_wrap=not column.is_text,
                overflow="fold",
            )
        if bars:
            table.add_column(Text(peak_name(self.rows).capitalize()), width=bars, no_wrap=True)
        self._fill(table, columns, bars, block)
        return table

    def _fill(self, table: Table, columns: Sequence[Column], bars: int, block: str) -> None:
        for number, row in enumerate(self.rows):
            if number and row.model != self.rows[number - 1].model:
                table.add_section()
            drawn = [Text(block * self._length(row, bars), style="cyan")] if bars else []
            table.add_row(*(_styled(column, column.cell(row), row) for column in columns), *drawn)
        for name in self.pending:
            table.add_row(*(_running(column, name) for column in columns))

    def _length(self, row: Row, bars: int) -> int:
        """Characters of a peak's bar; none without a peak, and never none with one."""
        most = max((other.peak or 0 for other in self.rows if other.model == row.model), default=0)
        return max(1, round(bars * row.peak / most)) if row.peak and most else 0

    def _below(self, shown: Sequence[Column], dropped: Sequence[Column]) -> list[str]:
        lines = captions.caption(self.rows, self.unit, [column.header for column in shown]) if self.rows else []
        if self.rows and all(name.partition(" ")[0] != BASELINE for name in self._methods()):
            lines.append(f"No {BASELINE} here to compare with: add --method {BASELINE} for savings.")
        if dropped:
            names = ", ".join(column.header for column in dropped)
            lines.append(f"No room at this width for: {names}.")
        return [*lines, self.note] if self.note else lines

    def _methods(self) -> list[str]:
        """Whatever has run or is to run."""
        return [*(row.record.method for row in self.rows), *self.pending]

    def _widths(self, columns: Sequence[Column], width: int) -> list[int]:
        """Each column's width; names take what the numbers leave."""
        widths = [self._width(column) for column in columns]
        least = [self._least(column) for column in columns]
        excess = _total(widths) - width
        for index, (full, small) in enumerate(zip(widths, least, strict=True)):
            cut = max(0, min(excess, full - small))
            widths[index], excess = full - cut, excess - cut
        return widths

    def _width(self, column: Column) -> int:
        texts = [_header(column), *(column.cell(row) for row in self.rows), *self._names(column)]
        return max(Text(line).cell_len for text in texts for line in text.split("\n"))

    def _least(self, column: Column) -> int:
        return min(self._width(column), NARROWEST_TEXT) if column.is_text else self._width(column)

    def _names(self, column: Column) -> tuple[str, ...]:
        return self.pending if column.header == "Method" else ()


def render(
    records: Sequence[Record],
    pending: Sequence[str] = (),
    *,
    by: str | None = None,
    unit: str = "GiB",
    fits: int | None = None,
    note: str = "",
) -> Comparison:
    """What to print: records as rows, and the names of methods still running."""
    rows = make_rows(records, by=by, fits=fits)
    columns = choose(rows, unit, fits)
    return Comparison(rows=rows, columns=columns, unit=unit, pending=tuple(pending), note=note)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _header(column: Column) -> str:
    """Long headers stand in two lines, so that they are no wider than their numbers."""
    long = column.header.startswith(_TWO_LINES)
    return column.header.replace(" ", "\n", 1) if long else column.header


def _styled(column: Column, text: str, row: Row) -> Text:
    """Colour only repeats what the text says: a pipe and a reader without colours lose nothing."""
    if text == NONE:
        return Text(text, style="dim")
    if column.header == "Status" and row.record.status != "ok":
        return Text(text, style="red")
    if column.header in PEAKS:
        return Text(text, style="bold")
    heavier = column.header == "vs AdamW" and row.saving is not None and row.saving < 0
    return Text(text, style="yellow" if heavier or text == "no" else "")


def _running(column: Column, name: str) -> Text:
    if column.header == "Method":
        return Text(name)
    return Text(RUNNING if column.header in PEAKS else "", style="dim")
