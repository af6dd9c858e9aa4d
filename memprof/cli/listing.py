"""Plain lists of facts on stdout, for `models`, `methods` and `doctor`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_listing(columns: Sequence[str], rows: Sequence[Sequence[str]], text_columns: Collection[int] = ()) -> None:
    """A table: text columns to the left, numbers to the right; nothing is cut where nobody watches."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        table.add_column(
            name,
            justify="left" if index in text_columns else "right",
            no_wrap=index not in text_columns,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(80, Console(width=1_000).measure(table).maximum))
    console.print(table)


def print_paragraphs(paragraphs: Sequence[str]) -> None:
    """What stands below a table, wrapped as the terminal is wide."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=80)
    for text in paragraphs:
        console.print(Text(text, style="dim"))
