"""Published sizes against what comes out: on the line where they agree, off it where the real code stores otherwise."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter

from memprof.papers.result import Reproduction, Result
from memprof.papers.source import Table
from memprof.report import style
from memprof.report.palette import LINES, PALETTE
from memprof.report.paper import summary
from memprof.report.style import INK, MUTED, RULE, SMALL
from memprof.units import UNITS

SIDE_INCHES = 5.6
BAR_INCHES = 0.42
COMMON = "GiB"
FAR = 2.0
"""stored over published, from which on a point is named"""
OURS, STORED, MEASURED = LINES[0], LINES[1], LINES[2]


def paper_figure(found: Reproduction) -> Figure:
    """Every published size on logarithmic axes, and the tables that ask for bars."""
    sizes = [each for each in found.results if each.quantity == "bytes" and each.value]
    barred = [table for table in found.tables if table.bars]
    heights = ([SIDE_INCHES] if sizes else []) + [BAR_INCHES * len(table.rows) + 0.3 for table in barred]
    with style.styled():
        title = f"{found.paper.name}: published sizes against memprof's"
        page = style.page(title, [found.paper.title, summary(found)], heights or [1.0], left=1.5, right=2.9)
        panels = iter(page.panels)
        if sizes:
            _agreement(next(panels), sizes)
        for table in barred:
            _bars(next(panels), found, table)
    return page.figure


def _agreement(axes: Axes, sizes: Sequence[Result]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    everything = [figure for each in sizes for figure in (_common(each, each.value), *_witnesses(each)) if figure]
    low, high = min(everything) / 1.5, max(everything) * 1.5
    axes.plot([low, high], [low, high], color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    for each in sizes:
        ours, stored, measured = _witnesses(each)
        published = _common(each, each.value)
        _dot(axes, published, stored, "D", STORED, 5.5, filled=False)
        _dot(axes, published, measured, "^", MEASURED, 6.0, filled=True)
        _dot(axes, published, ours, "o", OURS, 4.5, filled=True)
    _name(axes, sizes)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.grid(which="major")
    axes.tick_params(length=0, labelsize=SMALL)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel(f"published, {COMMON}")
    axes.set_ylabel(f"memprof, {COMMON}")
    _legend(axes, any(_witnesses(each)[2] for each in sizes))


def _name(axes: Axes, sizes: Sequence[Result]) -> None:
    """The columns whose stored sizes lie far off, each named once, at its highest point."""
    far: dict[str, list[tuple[float, float, str]]] = {}
    for each in sizes:
        published, stored = _common(each, each.value), _witnesses(each)[1]
        if published and stored and not 1 / FAR < stored / published < FAR:
            far.setdefault(each.column, []).append((stored, published, each.row))
    for column, points in far.items():
        stored, published, row = max(points)
        name = column if len(points) > 1 else f"{row}: {column}"
        below = stored < published
        axes.annotate(
            name, (published, stored), (0, -8 if below else 7), textcoords="offset points", ha="center",
            va="top" if below else "bottom", size=SMALL, color=MUTED,
        )  # fmt: skip


def _witnesses(each: Result) -> tuple[float | None, float | None, float | None]:
    ours, stored, measured = (_common(each, figure) for figure in (each.ours, each.stored, each.measured))
    return ours, stored, measured


def _common(each: Result, figure: float | None) -> float | None:
    """A table may print GB; all of the chart is in one unit."""
    return None if figure is None else figure * UNITS[each.unit] / UNITS[COMMON]


def _dot(
    axes: Axes, published: float | None, figure: float | None, marker: str, colour: str, size: float, filled: bool
) -> None:
    if published and figure:
        axes.plot(
            published, figure, marker, markersize=size, color=colour, markerfacecolor=colour if filled else "none",
            markeredgewidth=1.0, zorder=3 if filled else 2,
        )  # fmt: skip


def _legend(axes: Axes, measured: bool) -> None:
    looks = [
        ("o", OURS, "formula, counted as the paper counts", True),
        ("D", STORED, "trace: what the code stores", False),
    ]
    looks += [("^", MEASURED, "measured", True)] * measured
    handles = [
        Line2D(
            [],
            [],
            marker=marker,
            color=colour,
            linestyle="none",
            label=label,
            markerfacecolor=colour if filled else "none",
        )  # fmt: skip
        for marker, colour, label, filled in looks
    ]
    handles.append(Line2D([], [], color=MUTED, linestyle=(0, (4, 3)), label="equal to what is published"))
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, fontsize=SMALL)


def _bars(axes: Axes, found: Reproduction, table: Table) -> None:
    """Columns of a table stacked, row by row, by trace or else by formula."""
    results = found.of(table)
    rows = list(dict.fromkeys(each.row for each in results))
    unit = next(column.unit for column in table.columns if column.label == table.bars[0])
    left = [0.0] * len(rows)
    for number, label in enumerate(table.bars):
        cells = {each.row: each for each in results if each.column == label}
        widths = [(cells[row].stored if cells[row].stored is not None else cells[row].ours) or 0.0 for row in rows]
        axes.barh(range(len(rows)), widths, left=left, color=_shade(number), height=0.62, label=label)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for place, total in enumerate(left):
        axes.annotate(f"{total:.2f}", (total, place), (4, 0), textcoords="offset points", va="center", color=INK)
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    style.size_axis(axes, unit)
    axes.set_title(table.title, loc="left", fontsize=style.TEXT, color=INK)
    handles = [Patch(facecolor=_shade(number), label=label) for number, label in enumerate(table.bars)]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, fontsize=SMALL)
    axes.spines["left"].set_color(RULE)


def _shade(number: int) -> str:
    return (PALETTE["param"], PALETTE["optimizer_state"], PALETTE["activation"])[number % 3]
