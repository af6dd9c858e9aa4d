"""What memprof finds over what is published, size by size: at 1 where both agree, off it where the code stores more."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from memprof.papers.result import Reproduction
from memprof.report import style
from memprof.report.describe import plain
from memprof.report.palette import LINES
from memprof.report.paper.bars import BAR_INCHES, bars, names_inches
from memprof.report.paper.dots import COMMON, FAR, Dot, dots_of, far
from memprof.report.paper.words import summary
from memprof.report.place import Point, place
from memprof.report.style import EDGE, MUTED, SMALL

RATIO_INCHES, LEGEND_INCHES, NARROW = 4.4, 0.34, 0.75
LOOKS = {
    "ours": ("o", LINES[0], 5.0, "formula, counted as the paper counts"),
    "stored": ("D", LINES[1], 6.5, "trace: what the code stores"),
    "measured": ("^", LINES[2], 6.5, "measured"),
}
"""field of a result: marker, colour, points, and how the legend calls it; the formula's alone is filled"""
STEPS = (0.1, 0.2, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.4, 1.7, 2, 3, 5)
"""ticks of a narrow axis of ratios"""


def paper_figure(found: Reproduction) -> Figure:
    """Every published size, and the tables that ask for bars."""
    dots = list(dots_of(found.results))
    barred = [table for table in found.tables if table.bars]
    heights = ([RATIO_INCHES] if dots else []) + [BAR_INCHES * len(table.rows) + 0.3 for table in barred]
    with style.styled():
        title = f"{found.paper.name}: memprof's sizes over the published ones"
        said = [plain(found.paper.title), summary(found), "" if dots else "No size is printed or stated here."]
        left = max([NARROW, *(names_inches(found, table) for table in barred)])
        right = 1.9 if barred else 0.5
        legend = LEGEND_INCHES if dots else 0.0
        page = style.page(title, list(filter(None, said)), heights, left=left, right=right, legend=legend)
        panels = iter(page.panels)
        if dots:
            _ratios(next(panels), dots)
            _legend(page, {dot.field for dot in dots})
        for table in barred:
            bars(next(panels), found, table)
    return page.figure


def _ratios(axes: Axes, dots: Sequence[Dot]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.axhline(1, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    for dot in dots:
        marker, colour, size, _ = LOOKS[dot.field]
        filled = dot.field == "ours"
        axes.plot(
            dot.published, dot.ratio, marker, markersize=size, color=colour, zorder=2.2 if filled else 2.1,
            markerfacecolor=colour if filled else "none", markeredgewidth=0.6 if filled else 1.2,
        )  # fmt: skip
    sizes, ratios = [dot.published for dot in dots], [dot.ratio for dot in dots]
    axes.set_xlim(min(sizes) / 1.4, max(sizes) * 1.4)
    axes.set_ylim(min(*ratios, 0.85) / 1.08, max(*ratios, 1.15) * (1.08 if max(ratios) < FAR else 1.6))
    _ticks(axes)
    axes.set_xlabel(f"published, {COMMON}")
    axes.set_ylabel("memprof / published")
    named = [Point(dot.published, dot.ratio, name, dot.ratio, dot.ratio) for name, dot in far(dots).items()]
    others = [Point(dot.published, dot.ratio, "", dot.ratio, dot.ratio) for dot in dots]
    place(axes, named, others)


def _ticks(axes: Axes) -> None:
    """1, 2 and 5 of every decade; on a narrow axis of ratios finer ones."""
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
        narrow = axis is axes.yaxis and high / low < 6
        axis.set_major_locator(FixedLocator([tick for tick in (STEPS if narrow else ticks) if low <= tick <= high]))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.grid(which="major")
    axes.tick_params(length=0, labelsize=SMALL)


def _legend(page: style.Page, fields: set[str]) -> None:
    looks = [(field, *look) for field, look in LOOKS.items() if field in fields]
    handles = [
        Line2D(
            [],
            [],
            marker=marker,
            color=colour,
            linestyle="none",
            markersize=size,
            label=label,
            markerfacecolor=colour if field == "ours" else "none",
        )  # fmt: skip
        for field, marker, colour, size, label in looks
    ]
    handles.append(Line2D([], [], color=MUTED, linestyle=(0, (4, 3)), label="as published"))
    height = page.figure.get_size_inches()[1]
    page.figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(EDGE / style.WIDTH, 1 - page.top / height),
        ncols=len(handles), fontsize=SMALL + 0.5, frameon=False, borderaxespad=0, borderpad=0, columnspacing=1.6,
    )  # fmt: skip
