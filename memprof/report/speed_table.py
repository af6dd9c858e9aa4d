"""How each speed was come by, behind the comparison: rounds of the race, what a step waits for, how far its floor is.

Three small tables one below the other, each narrow enough for 80 columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from memprof.record import Floor, Record, Speed
from memprof.report.captions import RATIO_READ
from memprof.report.columns import NONE, percent, ratio, speed, speed_digits
from memprof.report.rows import Row, make_rows, names
from memprof.units import format_rate

TITLE = "How the speeds were come by"
GAP = 2
NARROWEST_NAME = 14
Cell = Callable[[Row, Speed], str]
Columns = tuple[tuple[str, Cell], ...]


def seconds(value: float | None) -> str:
    """`12.3 ms`: three digits, in the unit that suits them."""
    if value is None:
        return NONE
    factor, unit = next(((f, u) for f, u in ((1, "s"), (1e3, "ms")) if value * f >= 1), (1e6, "us"))
    number = value * factor
    return f"{number:.{2 if number < 9.995 else 1 if number < 99.95 else 0}f} {unit}"


def plain_number(value: float | None) -> str:
    """Three digits, or all before the point."""
    if value is None:
        return NONE
    return f"{value:,.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


def rate(value: float | None) -> str:
    """Examples per second, to the digits of a speed with its interval."""
    return NONE if value is None else f"{value:.{speed_digits(value)}f}"


def times(value: float | None) -> str:
    return NONE if value is None else f"{plain_number(value)}x"


def share(value: float | None) -> str:
    return NONE if value is None else percent(value)


def _rounds(how: Speed) -> str:
    whole = how.rounds + how.rounds_dropped
    return f"{how.rounds} of {whole}" if how.rounds_dropped else str(whole)


def _per_matrix(how: Speed) -> float | None:
    return how.refresh_seconds.median / how.refresh_matrices if how.refresh_seconds and how.refresh_matrices else None


SPEEDS: Columns = (
    ("Examples/s", lambda row, how: speed(row.examples_per_second)),
    ("Without\nperiodic", lambda row, how: rate(how.without_periodic.median)),
    ("Papers'\nclock", lambda row, how: rate(how.papers_examples_per_second)),
    ("Speed vs AdamW", lambda row, how: "baseline" if row.record is row.baseline else ratio(how.ratio)),
)
STEPS: Columns = (
    ("Rounds", lambda row, how: _rounds(how)),
    ("Steps", lambda row, how: str(how.steps)),
    ("Steady", lambda row, how: "yes" if how.steady else "no"),
    ("p99 step", lambda row, how: seconds(how.p99_step_seconds)),
    ("Refresh", lambda row, how: seconds(how.refresh_seconds.median if how.refresh_seconds else None)),
    ("A matrix", lambda row, how: seconds(_per_matrix(how))),
    ("Host\nwait", lambda row, how: share(how.host_wait)),
)
USE: Columns = (
    ("Tokens/s", lambda row, how: plain_number(row.tokens_per_second)),
    ("Watts", lambda row, how: plain_number(how.watts)),
    ("Joules/\nexample", lambda row, how: plain_number(how.joules_per_example)),
    ("MFU", lambda row, how: share(how.mfu)),
    ("Step/\nfloor", lambda row, how: times(how.floor.ratio if how.floor else None)),
    ("Optimizer/\nfloor", lambda row, how: times(how.floor.optimizer_ratio if how.floor else None)),
)
READ = (
    "Examples/s: ours, with a share of the periodic work, median and 95 % interval. Without periodic: ordinary steps "
    "alone. Papers' clock: stopped after launching the optimizer, which leaves out its work on a GPU and all periodic "
    "work.",
    RATIO_READ,
    "Rounds: those that count, and of how many; heat or a power failure drops one. Steps: ordinary ones that were "
    "timed. Steady: whether reserved bytes and step time had settled before the first round, and the bytes stayed so "
    "while the clock ran. p99 step: 99 of 100 steps of a training take no longer; where fewer ordinary ones were timed "
    "the slowest stands for them. Refresh: what a step with periodic work takes beyond an ordinary one, and its share "
    "for a matrix. Host wait: the share of a step by which the device was behind the host as a window ended; near "
    "0 the host is the brake.",
)
BELOW = (
    "Below its floor: caches held some of what the floor takes from memory, a processor's copy also read what it wrote "
    "over, or the rates were measured in a slow moment"
)


@dataclass(frozen=True, slots=True)
class SpeedTables:
    """A rich renderable."""

    rows: list[Row]
    """of the records whose speed says how it was come by"""
    names: list[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(TITLE, style="bold")
        for columns in (SPEEDS, STEPS, USE):
            yield self._table(columns, options.max_width)
            yield Segment.line()
        yield Text("\n".join(self.below()), style="dim")

    @property
    def natural_width(self) -> int:
        """The width at which no name is folded."""
        return max(self._name_width() + self._numbers_width(columns) for columns in (SPEEDS, STEPS, USE))

    def below(self) -> list[str]:
        """How to read the tables, and why what is missing is missing."""
        return [*READ, *self._against_itself(), *self._missing(), *self._floors(), *self._mfu()]

    def _table(self, columns: Columns, width: int) -> Table:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        room = max(NARROWEST_NAME, width - self._numbers_width(columns))
        table.add_column("Method", overflow="fold", vertical="bottom", width=min(self._name_width(), room))
        for header, _ in columns:
            table.add_column(Text(header), justify="right", no_wrap=True)
        for name, row, how in self._each():
            cells = [cell(row, how) for _, cell in columns]
            table.add_row(Text(name), *(Text(text, style="dim" if text == NONE else "") for text in cells))
        return table

    def _each(self) -> Iterator[tuple[str, Row, Speed]]:
        for name, row in zip(self.names, self.rows, strict=True):
            if row.speed is not None:
                yield name, row, row.speed

    def _name_width(self) -> int:
        return max(Text(name).cell_len for name in ("Method", *self.names))

    def _numbers_width(self, columns: Columns) -> int:
        texts = ([*header.split("\n"), *(cell(row, how) for _, row, how in self._each())] for header, cell in columns)
        return sum(GAP + max(map(len, column)) for column in texts)

    def _against_itself(self) -> list[str]:
        """What a ratio shows where there is no difference; the same in all that ran beside one AdamW."""
        spreads = _grouped((ratio(how.spread), name) for name, _, how in self._each() if how.spread)
        return [
            f"AdamW against itself in the same rounds: {spread}{_of(names, self.names)}."
            for spread, names in spreads.items()
        ]

    def _missing(self) -> list[str]:
        """Why there is a dash, where what is there says it."""
        alone = [name for name, row, how in self._each() if how.ratio is None and row.record is not row.baseline]
        inside = [name for name, _, how in self._each() if how.floor and how.floor.optimizer_ratio is None]
        host = [
            name
            for name, row, how in self._each()
            if how.host_wait is None and row.record.scenario.get("device") == "cpu"
        ]
        said = {
            "No ratio without AdamW in the same rounds": alone,
            "A CPU has done what it has launched: no papers' clock and no host wait": host,
            "Updated inside backward, no phase to time": inside,
        }
        return [f"{why}{_of(names, self.names)}." for why, names in said.items() if names]

    def _floors(self) -> list[str]:
        said = _grouped((_floor(how), name) for name, _, how in self._each() if how.floor)
        below = [name for name, _, how in self._each() if how.floor and _is_below(how.floor)]
        found = [f"{text}{_of(names, self.names)}." for text, names in said.items()]
        return [*found, f"{BELOW}{_of(below, self.names)}."] if below else found

    def _mfu(self) -> list[str]:
        reasons = _grouped((how.mfu_reason, name) for name, _, how in self._each() if how.mfu_reason)
        return [f"{reason}{_of(names, self.names)}." for reason, names in reasons.items()]


def _floor(how: Speed) -> str:
    assert how.floor is not None
    flops, copied = how.floor.matrix_flops_per_second, how.floor.copy_bytes_per_second
    return (
        f"Floor: FLOPs of forward and backward over {format_rate(flops, 'FLOP/s')} and the optimizer's bytes over "
        f"{format_rate(copied, 'B/s')}, both rates measured here"
    )


def _is_below(floor: Floor) -> bool:
    return any(times is not None and times < 1 for times in (floor.ratio, floor.optimizer_ratio))


def _grouped(pairs: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    """Names by what is said of them, in the order in which it is first said."""
    found: dict[str, list[str]] = {}
    for said, name in pairs:
        found.setdefault(said, []).append(name)
    return found


def _of(names: Sequence[str], everyone: Sequence[str]) -> str:
    """Whom it is said of, where that is not everyone."""
    return "" if len(names) == len(everyone) else f" ({', '.join(names)})"


def speed_tables(records: Sequence[Record]) -> SpeedTables | None:
    """None where no speed says how it was come by."""
    rows = make_rows(records)
    raced = [(name, row) for name, row in zip(names(rows), rows, strict=True) if row.speed is not None]
    return SpeedTables([row for _, row in raced], [name for name, _ in raced]) if raced else None
