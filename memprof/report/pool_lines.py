"""What CUDA's allocator would hold for each traced step, behind the comparison: a sum from the left to the right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from memprof.record import Pool, Record
from memprof.report.columns import size
from memprof.report.describe import plain
from memprof.report.rows import Row, make_rows

GAP = 2
NARROWEST_NAME = 14
COLUMNS: tuple[tuple[str, Callable[[Pool], int]], ...] = (
    ("Reserved", lambda pool: pool.reserved),
    ("Cached", lambda pool: pool.cached),
    ("Fragments", lambda pool: pool.fragmentation),
    ("Allocated", lambda pool: pool.allocated),
    ("Tensors", lambda pool: pool.tensors),
    ("Work-\nspaces", lambda pool: sum(pool.workspaces.values())),
    ("Round-\ning", lambda pool: pool.rounding),
    ("Expand-\nable", lambda pool: pool.reserved_expandable),
)
CARDS = {"sm80": "an A100 (sm80)", "sm90": "an H100 or H200 (sm90)", "sm100": "a B200 (sm100)"}
READ = (
    "By the allocator's rules, for the traced run on an otherwise empty GPU. Reserved is cached, fragments and "
    "allocated; allocated, at the worst instant of an ordinary step, is tensors, workspaces and rounding. Fragments: "
    "free bytes in segments that hold a live block. Cached: segments that were free then, or were taken at another "
    "instant. Expandable: what would be reserved with expandable_segments:True, whose blocks are cut closer to what "
    "was asked for. The driver's context comes on top."
)


@dataclass(frozen=True, slots=True)
class PoolLines:
    """A rich renderable: one row a method."""

    title: str
    rows: list[tuple[Row, Pool]]
    unit: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(f"{self.title}, {self.unit}", style="bold")
        yield self._table(options.max_width)
        yield Text("\n".join(["", self._workspaces(), READ]), style="dim")

    @property
    def natural_width(self) -> int:
        """The width at which no name folds."""
        return self._numbers() + self._name()

    def _name(self) -> int:
        return max(Text(row.label).cell_len for row, _ in self.rows)

    def _numbers(self) -> int:
        return sum(GAP + width for width in self._widths())

    def _widths(self) -> list[int]:
        cells = [[size(read(pool), self.unit) for _, pool in self.rows] for _, read in COLUMNS]
        return [max(map(len, [*column, *name.split("\n")])) for (name, _), column in zip(COLUMNS, cells, strict=True)]

    def _table(self, width: int) -> Table:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        room = min(self._name(), max(NARROWEST_NAME, width - self._numbers()))
        table.add_column("Method", width=room, overflow="fold", vertical="bottom")
        for (name, _), column in zip(COLUMNS, self._widths(), strict=True):
            table.add_column(Text(name), justify="right", no_wrap=True, width=column, vertical="bottom")
        for row, pool in self.rows:
            table.add_row(Text(row.label), *(size(read(pool), self.unit) for _, read in COLUMNS))
        return table

    def _workspaces(self) -> str:
        """Which there are, and whose constants they are."""
        names = dict.fromkeys(name for _, pool in self.rows for name in pool.workspaces)
        gpus = dict.fromkeys(pool.gpu for _, pool in self.rows if pool.gpu)
        cards = ", ".join(CARDS.get(gpu, plain(gpu)) for gpu in gpus)
        return f"Workspaces, of {cards or 'no GPU'}: {', '.join(map(plain, names)) or 'none'}."


def pool_lines(records: Sequence[Record], unit: str) -> list[PoolLines]:
    """For each model, of the records whose trace stands for a GPU."""
    found: dict[str, list[tuple[Row, Pool]]] = {}
    for row in make_rows(records):
        trace = row.record.trace
        if trace is not None and trace.pool is not None:
            found.setdefault(row.model, []).append((row, trace.pool))
    return [PoolLines(f"{model}: what CUDA's allocator would hold", rows, unit) for model, rows in found.items()]
