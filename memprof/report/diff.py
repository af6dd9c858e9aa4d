"""A difference between two runs in the terminal and as Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from memprof.difference import Difference
from memprof.report.changes import Change, caption, rows, several_models, styles, title
from memprof.report.text import escape

_READERS: dict[str, Callable[[Change], str]] = {
    "Model": lambda change: change.model,
    "Method": lambda change: change.method,
    "Figure": lambda change: change.figure,
    "Before": lambda change: change.before,
    "After": lambda change: change.after,
    "Change": lambda change: change.change,
    "Share": lambda change: change.share,
    "Verdict": lambda change: change.verdict,
}
_TEXT_COLUMNS = ("Model", "Method", "Figure", "Verdict")
_NOTHING = "No figure changed."


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferenceTable:
    """A rich renderable: title, the rows that changed, and what it takes to read them."""

    difference: Difference
    unit: str
    everything: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        changes = rows(self.difference, self.unit, self.everything)
        yield Text(title(self.difference, self.unit), style="bold")
        yield self._table(changes) if changes else Text(f"\n{_NOTHING}")
        yield Text("\n".join(["", *caption(self.difference, self.unit, self.everything)]), style="dim")

    @property
    def natural_width(self) -> int:
        """The width at which no name is folded: what piped output should be given."""
        return Console(width=10_000).measure(self._table(rows(self.difference, self.unit, self.everything))).maximum

    def _table(self, changes: Sequence[Change]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        columns = _columns(changes)
        for name in columns:
            is_text = name in _TEXT_COLUMNS
            foldable = name in ("Model", "Method")
            table.add_column(name, justify="left" if is_text else "right", no_wrap=not foldable, overflow="fold")
        for number, change in enumerate(changes):
            if number and (change.model, change.method) != (changes[number - 1].model, changes[number - 1].method):
                table.add_section()
            table.add_row(*(_styled(name, change) for name in columns))
        return table


def render(difference: Difference, *, unit: str = "GiB", everything: bool = False) -> DifferenceTable:
    """What to print."""
    return DifferenceTable(difference=difference, unit=unit, everything=everything)


def markdown(difference: Difference, *, unit: str = "GiB", everything: bool = False) -> str:
    """The same table for GitHub; every name and reason is shown as it is, never read as markup."""
    changes = rows(difference, unit, everything)
    columns = _columns(changes)
    lines = [_line(columns), _line(["---" if name in _TEXT_COLUMNS else "---:" for name in columns])]
    lines += [_line([escape(_READERS[name](change)) for name in columns]) for change in changes]
    body = "\n".join(lines) if changes else _NOTHING
    below = "\n\n".join(escape(text) for text in caption(difference, unit, everything=True))
    return f"### {escape(title(difference, unit))}\n\n{body}\n\n{below}\n"


def _columns(changes: Sequence[Change]) -> list[str]:
    """The model has a column only where there are several."""
    return [name for name in _READERS if name != "Model" or several_models(changes)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _styled(column: str, change: Change) -> Text:
    return Text(_READERS[column](change), style=styles(change.verdict) if column == "Verdict" else "")
