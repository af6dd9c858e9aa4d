"""Where a measured step's memory went, line by line: each line is the sum of those further in below it.

One column a method; a GPU's sum starts from what the driver says, a processor's from the resident set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from memprof.record import Measured, Record
from memprof.report.columns import NONE, percent
from memprof.report.describe import labels, models, plain
from memprof.report.process import READ_HOST
from memprof.units import UNITS, format_size

GAP, INDENT = 2, 2
NARROWEST, WIDEST = 8, 18
"""characters of a method's column; longer names fold"""
Size = Callable[[Measured], int | None]


def _of(name: str) -> Size:
    """A line of the closure."""
    return lambda measured: getattr(measured.closure, name)


GPU: tuple[tuple[str, int, Size], ...] = (
    ("device, as NVML says", 0, _of("device")),
    ("context", 1, _of("context")),
    ("reserved", 1, _of("reserved")),
    ("cached", 2, _of("cached")),
    ("fragmentation", 2, _of("fragmentation")),
    ("allocated at the peak", 2, _of("allocated")),
    ("parameters", 3, _of("param")),
    ("gradients", 3, _of("grad")),
    ("optimizer state", 3, _of("optimizer_state")),
    ("activations", 3, _of("activation")),
    ("temporaries", 3, _of("temporaries")),
    ("workspaces", 3, _of("workspaces")),
    ("rounding", 3, _of("rounding")),
    ("unattributed", 3, _of("unattributed")),
)
"""name, how far in, bytes"""
HOST: tuple[tuple[str, int, Size], ...] = (
    ("resident set at most", 0, lambda measured: measured.device),
    ("before the model", 1, lambda measured: measured.context),
    ("allocator's peak", 1, lambda measured: max(measured.peak, measured.refresh_peak or 0)),
    ("not explained", 1, lambda measured: measured.residual),
)
PHASES = ("forward", "backward", "optimizer", "refresh")
READ_GPU = (
    "Cached: segments that were free then, or were taken at another instant. Fragmentation: free bytes in segments "
    "that hold a live block. Rounding: what blocks are larger than what was asked for. Unattributed: the allocator's "
    "count less its own recorded events. By the rules: what the allocator's rules reserve for those events."
)
READ_BOTH = (
    "A phase's peak is the allocator's own. Recording: by how much a step takes longer while its allocations are "
    "recorded, one step against one: on a busy machine that is noise, below 0 too. No timed step is recorded."
)


def size(nbytes: int | None, unit: str) -> str:
    """In the table's unit; what would be 0.00 there, in bytes."""
    if nbytes is None:
        return NONE
    return f"{nbytes} B" if nbytes and abs(nbytes) < UNITS[unit] / 200 else format_size(nbytes, unit)


@dataclass(frozen=True, slots=True)
class MemoryLines:
    """A rich renderable: as many tables as the width makes of the methods."""

    title: str
    names: list[str]
    measured: list[Measured]
    unit: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(f"{self.title}, {self.unit}", style="bold")
        for columns in self._fitting(options.max_width):
            yield self._table(columns)
            yield Text()
        yield Text("\n".join(self.below()), style="dim")

    @property
    def natural_width(self) -> int:
        """The width at which one table holds all methods."""
        return self._first() + sum(self._widths())

    def rows(self) -> Iterator[tuple[str, list[str]]]:
        """Each line's name, indented, and its figures; an empty name parts what is no sum from the sum."""
        on_gpu = self.measured[0].closure is not None
        for name, depth, read in GPU if on_gpu else HOST:
            yield " " * INDENT * depth + name, [size(read(each), self.unit) for each in self.measured]
        yield "", []
        if on_gpu:
            yield "reserved, by the rules", [size(_of("replayed_reserved")(each), self.unit) for each in self.measured]
            yield "reserved, as it was", [size(_of("reserved")(each), self.unit) for each in self.measured]
        for phase in PHASES:
            if any(each.phase_peaks.get(phase) is not None for each in self.measured):
                yield f"peak in {phase}", [size(each.phase_peaks.get(phase), self.unit) for each in self.measured]
        yield "recording", [_overhead(each.recording_overhead) for each in self.measured]
        yield "other processes", [NONE if each.others is None else str(each.others) for each in self.measured]

    def below(self) -> list[str]:
        """Why a figure is missing, which attention ran, how to read the lines."""
        on_gpu = self.measured[0].closure is not None
        reasons = self._said(lambda each: each.closure.device_reason if each.closure else None)
        ran = self._said(lambda each: each.attention)
        unread = [f"Device and context are not known: {reason}{names}." for reason, names in reasons]
        return [
            *unread,
            *(f"Attention: {node}{names}." for node, names in ran),
            READ_GPU if on_gpu else READ_HOST,
            READ_BOTH,
        ]

    def _said(self, read: Callable[[Measured], str | None]) -> Iterator[tuple[str, str]]:
        """What is said of some, and of whom where that is not everyone."""
        told = [read(each) for each in self.measured]
        for text in dict.fromkeys(text for text in told if text):
            whom = [name for name, said in zip(self.names, told, strict=True) if said == text]
            yield plain(text), "" if len(whom) == len(told) else f" ({', '.join(whom)})"

    def _first(self) -> int:
        return max(len(name) for name, _ in self.rows())

    def _widths(self) -> list[int]:
        """Of each method's column, with the gap before it."""
        figures = [cells for _, cells in self.rows() if cells]
        longest = [max(map(len, column)) for column in zip(*figures, strict=True)]
        named = (max(NARROWEST, min(Text(name).cell_len, WIDEST)) for name in self.names)
        return [GAP + max(pair) for pair in zip(longest, named, strict=True)]

    def _fitting(self, width: int) -> Iterator[range]:
        """The methods whose columns lie in one table."""
        widths = self._widths()
        start, used = 0, self._first()
        for place, column in enumerate(widths):
            if used + column > width and place > start:
                yield range(start, place)
                start, used = place, self._first()
            used += column
        yield range(start, len(widths))

    def _table(self, columns: range) -> Table:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        table.add_column("", no_wrap=True, width=self._first())
        widths = self._widths()
        for place in columns:
            header = Text(self.names[place], overflow="fold")
            table.add_column(header, justify="right", vertical="bottom", width=widths[place] - GAP)
        for name, cells in self.rows():
            shown = [cells[place] for place in columns] if cells else []
            table.add_row(Text(name), *(Text(cell, style="dim" if cell == NONE else "") for cell in shown))
        return table


def _overhead(share: float | None) -> str:
    return NONE if share is None else f"{'+' if share >= 0 else ''}{percent(share)}"


def _has_lines(measured: Measured, on_gpu: bool) -> bool:
    return measured.closure is not None if on_gpu else measured.reserved is None


def memory_lines(records: Sequence[Record], unit: str) -> list[MemoryLines]:
    """For each model, of the records that were measured: on a GPU and on a processor apart.

    A GPU's record of an earlier memprof has no lines.
    """
    found = []
    for model in models(records):
        of_model = [record for record in records if plain(record.model) == model]
        named = list(zip(labels(of_model), (record.measured for record in of_model), strict=True))
        for on_gpu, where in ((True, "GPU's memory at the worst instant"), (False, "measuring process")):
            seen = [(name, each) for name, each in named if each and _has_lines(each, on_gpu)]
            if seen:
                title = f"{model}: the {where}"
                found.append(MemoryLines(title, [name for name, _ in seen], [each for _, each in seen], unit))
    return found
