"""A paper's tables in the terminal: numbers whole, and columns below one another where a terminal is too narrow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from memprof.papers.result import Reproduction
from memprof.report.describe import plain
from memprof.report.paper.grid import Grid, grid
from memprof.report.paper.words import HOW_JUDGED, identity_lines, summary

GAP = 2
"""spaces between columns, and before the witnesses' names"""


@dataclass(frozen=True, slots=True)
class PaperTables:
    """A rich renderable: every chosen table, then the identities and the sum of it."""

    found: Reproduction

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(plain(self.found.paper.title), style="bold")
        for table in self.found.tables:
            yield from _shown(grid(self.found, table), options.max_width)
        yield Text("\n".join(["", *identity_lines(self.found), summary(self.found), HOW_JUDGED]))

    @property
    def natural_width(self) -> int:
        """The width at which all columns of every table stand side by side."""
        return max(_total(_widths(grid(self.found, table))) for table in self.found.tables)


def _shown(each: Grid, room: int) -> Iterator[Text | Table]:
    widths = _widths(each)
    blocks = _blocks(widths, room)
    yield Text(f"\n{each.title}", style="bold")
    yield Text(f"{each.setting}\n", style="dim")
    for block in blocks:
        yield _columns([["", *each.headers]], widths, block, style="bold")
    for group in each.groups:
        yield Text.assemble((group.row, "bold"), ": ", (group.verdict, _colour(group.verdict)))
        for block in blocks:
            yield _columns(group.lines, widths, block, style="")
    if each.notes:
        yield Text("\n".join(["", *each.notes]), style="dim")


def _widths(each: Grid) -> list[int]:
    """Of the witnesses' names and of every column; a header folds at its words."""
    lines = [line for group in each.groups for line in group.lines]
    headers = ["", *each.headers]
    widths = [
        max(len(text) for text in ["", *headers[place].split(), *(line[place] for line in lines)])
        for place in range(len(headers))
    ]
    return [GAP + widths[0], *widths[1:]]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _blocks(widths: Sequence[int], room: int) -> list[list[int]]:
    """Columns that find room side by side, each block with the names of the witnesses before it."""
    blocks: list[list[int]] = [[]]
    for place in range(1, len(widths)):
        wanted = [0, *blocks[-1], place]
        if blocks[-1] and _total([widths[each] for each in wanted]) > room:
            blocks.append([])
        blocks[-1].append(place)
    return blocks


def _columns(lines: Sequence[Sequence[str]], widths: Sequence[int], block: Sequence[int], style: str) -> Table:
    """Lines under one another; every group of a table has the same widths."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, GAP, 0, 0))
    for place in (0, *block):
        table.add_column(justify="right" if place else "left", width=widths[place], overflow="fold")
    for line in lines:
        table.add_row(Text(" " * GAP + line[0]), *(Text(line[place], style=style) for place in block))
    return table


def _colour(verdict: str) -> str:
    """Colour repeats what the words say."""
    if verdict.startswith(("not published", "derived")) and "LOST" not in verdict:
        return "dim"
    return "red" if " LOST" in verdict else "green" if verdict.startswith("reproduced") else "yellow"
