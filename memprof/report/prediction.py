"""Prediction against measurement in the terminal, as Markdown, and as CSV for analysis."""

from __future__ import annotations

import csv as comma
import io
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from memprof.prediction import PAIRS, STATES, Cell, Prediction
from memprof.report.captions import UNIT_MEANS
from memprof.report.describe import scenario_line
from memprof.report.prediction_grids import Field, Grid, grids, names
from memprof.report.text import escape, inert

GAP = 2
"""one space of padding and the box's own divider"""
SIMULATED = ("pool", "reserved", "replay")
"""pairs that only a GPU has"""
NARROWEST_TEXT = 16
"""names fold at this width before a column is dropped"""
HOW_READ = (
    "Peak is the allocator's own. off: prediction over measurement less one; below 0, more was needed than foretold. "
    "Median: of the errors without their sign. Below: in how many cells less was predicted than measured. "
    "Target: the most that median and worst may be off. "
    "States: parameters, optimizer state and gradients, trace less measurement."
)
HOW_SIMULATED = (
    "Formula and Trace count bytes of tensors; Sim. (simulated) is what the allocator's rules make of the trace, "
    "Replay what they make of the real step's recorded events."
)


@dataclass(frozen=True, slots=True)
class PredictionPage:
    """A rich renderable: the grids, each with the columns that there is room for, and how to read them."""

    prediction: Prediction
    unit: str

    @property
    def natural_width(self) -> int:
        """The width at which nothing is dropped: what piped output should be given."""
        return max(_width(grid.fields) for grid in grids(self.prediction, self.unit))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for grid in grids(self.prediction, self.unit):
            shown = fit(grid.fields, options.max_width)
            yield Text(grid.title, style="bold")
            yield _table(shown, options.max_width)
            dropped = [field.header for field in grid.fields if field not in shown]
            yield Text(f"No room at this width for: {', '.join(dropped)}.\n" if dropped else "", style="dim")
        yield Text("\n".join(caption(self.prediction, self.unit)), style="dim")


def render(prediction: Prediction, *, unit: str = "GiB") -> PredictionPage:
    """What to print."""
    return PredictionPage(prediction, unit)


def caption(prediction: Prediction, unit: str) -> list[str]:
    means = f"{unit} = {UNIT_MEANS[unit]} bytes. " if unit in UNIT_MEANS else ""
    missed = ", ".join(prediction.missed)
    simulated = any(key in cell.gaps for cell in prediction.cells for key in SIMULATED)
    return [
        scenario_line([cell.record for cell in prediction.cells]),
        f"{means}{HOW_READ}{f' {HOW_SIMULATED}' if simulated else ''}",
        f"Targets missed: {missed}." if missed else "Every target that could be tried is met.",
    ]


def fit(fields: Sequence[Field], width: int) -> list[Field]:
    """The columns that `width` has room for; the least important go first."""
    shown = list(fields)
    while len(shown) > 2 and _width(shown, NARROWEST_TEXT) > width:
        shown.remove(min(shown, key=lambda field: field.rank))
    return shown


def _width(fields: Sequence[Field], most: int = 10_000) -> int:
    """What they take, with names folded to `most`."""
    return sum(min(_room(field), most) if field.is_text else _room(field) for field in fields) + GAP * (len(fields) - 1)


def _room(field: Field) -> int:
    lines = [*_header(field).split("\n"), *field.cells]
    return max(Text(line).cell_len for line in lines)


def _header(field: Field) -> str:
    """Two words stand in two lines, so that they are no wider than their numbers."""
    return field.header if field.is_text else "\n".join(field.header.rsplit(" ", 1))


def _table(fields: Sequence[Field], width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    excess = max(0, _width(fields) - width)
    for field in fields:
        cut = min(excess, max(0, _room(field) - NARROWEST_TEXT)) if field.is_text else 0
        excess -= cut
        table.add_column(
            Text(_header(field)),
            justify="left" if field.is_text else "right",
            width=_room(field) - cut,
            no_wrap=not field.is_text,
            overflow="fold",
        )
    for cells in zip(*(field.cells for field in fields), strict=True):
        table.add_row(*(Text(cell, style="red" if cell == "NOT MET" else "") for cell in cells))
    return table


def markdown(prediction: Prediction, *, unit: str = "GiB") -> str:
    """All columns, for GitHub."""
    tables = "\n\n".join(_markdown(grid) for grid in grids(prediction, unit))
    below = "\n\n".join(escape(text) for text in caption(prediction, unit) if text)
    return f"{tables}\n\n{below}\n"


def _markdown(grid: Grid) -> str:
    heads = [_line([escape(field.header) for field in grid.fields])]
    heads.append(_line(["---" if field.is_text else "---:" for field in grid.fields]))
    rows = zip(*(field.cells for field in grid.fields), strict=True)
    return "\n".join(
        [f"### {escape(grid.title)}", "", *heads, *(_line([escape(cell) for cell in row]) for row in rows)]
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def csv(prediction: Prediction) -> str:
    """A row for each cell, bytes and errors; the same columns whatever was measured."""
    known = names(prediction)
    heads = [f"{pair.key}_{what}" for pair in PAIRS for what in ("predicted", "measured", "error")]
    text = io.StringIO()
    writer = comma.writer(text, lineterminator="\n")
    writer.writerow(["id", "model", "method", "cell", "device", *heads, *(f"{key}_off" for key in STATES)])
    writer.writerows(_row(cell, known[cell.record.id]) for cell in prediction.cells)
    return text.getvalue()


def _row(cell: Cell, name: str) -> list[object]:
    record, row = cell.record, list[object]()
    for pair in PAIRS:
        gap = cell.gaps.get(pair.key)
        row += [gap.predicted, gap.measured, gap.error] if gap else [None, None, None]
    device = record.measured and record.measured.device
    texts = [inert(text) for text in (record.id, record.model, record.method, name)]
    return [*texts, device, *row, *(cell.states.get(key) for key in STATES)]
