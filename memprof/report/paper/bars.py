"""Columns of a table stacked, row by row, as a figure of the paper shows them."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from memprof.papers.result import Reproduction, Result
from memprof.papers.source import Table
from memprof.report import style
from memprof.report.describe import plain
from memprof.report.palette import PALETTE
from memprof.report.style import EDGE, INK, RULE, SMALL, folded, text_width

BAR_INCHES = 0.42
SHADES = tuple(PALETTE[name] for name in ("param", "optimizer_state", "activation", "grad", "extra"))


def names_inches(found: Reproduction, table: Table) -> float:
    """White left of the bars, for the rows' names."""
    return EDGE + 0.15 + max(text_width(name) for name in _names(_rows(found, table)))


def bars(axes: Axes, found: Reproduction, table: Table) -> None:
    """By trace where all of it was traced, else by formula; the title says which."""
    cells = [each for each in found.of(table) if each.column in table.bars]
    traced = all(each.stored is not None for each in cells)
    rows, left = _rows(found, table), [0.0] * len(_rows(found, table))
    for shade, label in zip(_shades(table), table.bars, strict=True):
        sizes = {each.row: (each.stored if traced else each.ours) or 0.0 for each in cells if each.column == label}
        widths = [sizes.get(row, 0.0) for row in rows]
        axes.barh(range(len(rows)), widths, left=left, color=shade, height=0.62)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for y, total in enumerate(left):
        axes.annotate(
            f"{total:.2f}", (total, y), (4, 0), textcoords="offset points", va="center", color=INK, size=SMALL
        )
    axes.set_xlim(0, max(left) * 1.08 or 1)
    axes.set_yticks(range(len(rows)), _names(rows))
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_color(RULE)
    style.size_axis(axes, next(column.unit for column in table.columns if column.label == table.bars[0]))
    title = f"{plain(table.title)}, by {'trace' if traced else 'formula'}"
    axes.set_title(title, loc="left", fontsize=style.TEXT, color=INK)
    _legend(axes, table)


def _rows(found: Reproduction, table: Table) -> list[str]:
    results: Sequence[Result] = found.of(table)
    return list(dict.fromkeys(each.row for each in results))


def _names(rows: Sequence[str]) -> list[str]:
    return [folded(plain(row)) for row in rows]


def _shades(table: Table) -> list[str]:
    return [SHADES[number % len(SHADES)] for number in range(len(table.bars))]


def _legend(axes: Axes, table: Table) -> None:
    handles = [
        Patch(facecolor=shade, label=folded(plain(label), 20))
        for shade, label in zip(_shades(table), table.bars, strict=True)
    ]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, fontsize=SMALL)
