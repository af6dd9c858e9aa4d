"""What the loss did in each measured row, and the reason where that is nothing to be content with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from memprof.record import Record
from memprof.report.columns import losses
from memprof.report.rows import make_rows, names

TITLE = "Loss of one step's tokens, right after the warm-up and in the last step"


@dataclass(frozen=True, slots=True)
class LossLines:
    """A rich renderable; long reasons fold."""

    lines: list[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(TITLE, style="bold")
        yield Text("\n".join(self.lines))

    @property
    def natural_width(self) -> int:
        """The width at which nothing folds."""
        return max(len(line) for line in (TITLE, *self.lines))


def loss_lines(records: Sequence[Record]) -> LossLines | None:
    """None where no loss was measured."""
    rows = [row for row in make_rows(records) if row.losses is not None]
    called = names(rows)
    width = max(map(len, called), default=0)
    lines = [
        f"{name:<{width}}  {losses(row)}" + (f"  {row.reason}" if row.reason else "")
        for name, row in zip(called, rows, strict=True)
    ]
    return LossLines(lines) if lines else None
