"""How every chart looks: colours, text, a page laid out in inches, and files that are the same bytes each time."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Patch
from matplotlib.textpath import TextPath

from memprof.report.palette import NAMES, PALETTE

INK, MUTED, RULE, LIGHTER, HEAVIER = "#22262e", "#626a76", "#d9dce1", "#3f93c6", "#a0415a"
WIDTH = 10.0  # inches of every page
EDGE = 0.3  # inches of white around it
TOP_LINE, LINE = 0.3, 0.19  # inches that the title and a line of small text take
PANEL_TITLE, BELOW = 0.22, 0.62  # above the first panel its title; below each its axis and the next one's title
SMALL, TEXT, TITLE = 8.5, 9.5, 13.0  # points
MAX_PIXELS = 60_000  # a PNG's side must stay below 2**16
_RC: dict[str, Any] = {
    "font.family": "DejaVu Sans", "font.size": TEXT, "text.color": INK, "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED, "axes.labelsize": SMALL, "xtick.color": MUTED, "ytick.color": MUTED,
    "xtick.labelsize": SMALL, "ytick.labelsize": TEXT, "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.right": False, "grid.color": RULE, "grid.linewidth": 0.7, "hatch.linewidth": 0.6,
    "svg.hashsalt": "memprof", "svg.fonttype": "path", "text.parse_math": False, "axes.unicode_minus": False,
}  # fmt: skip
_OF_DRAWING = (
    "agg.", "axes.", "errorbar.", "figure.", "font.", "grid.", "hatch.", "legend.", "lines.", "mathtext.", "patch.",
    "path.", "savefig.", "scatter.", "svg.", "text.", "xaxis.", "xtick.", "yaxis.", "ytick.",
)  # fmt: skip


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib's own defaults and ours, whatever the reader's configuration says; undone afterwards."""
    defaults: Mapping[Any, Any] = matplotlib.rcParamsDefault
    settings: dict[Any, Any] = {key: value for key, value in defaults.items() if key.startswith(_OF_DRAWING)}
    settings |= _RC
    with matplotlib.rc_context(settings):
        yield


@dataclass(frozen=True, slots=True)
class Page:
    """A figure with one panel below the other under a heading."""

    figure: Figure
    panels: list[Axes]
    top: float
    """inches from the upper edge down to where the heading ends and a legend may stand"""


def page(
    title: str, subtitle: Sequence[str], heights: Sequence[float], *, left: float, right: float, legend: float = 0.0,
    below: float = BELOW,
) -> Page:  # fmt: skip
    """A page with a panel of each height (inches), margins `left` and `right`, and `legend` inches for a legend.

    `below` each panel is white for its axis and the next one's title.
    """
    lines = [line for text in subtitle for line in textwrap.wrap(text, 122)]
    head = EDGE + TOP_LINE + LINE * len(lines) + 0.12
    used = head + legend + (PANEL_TITLE if len(heights) > 1 else 0.05)
    height = used + sum(heights) + below * len(heights)
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    _heading(figure, title, lines, height)
    panels = []
    for panel in heights:
        bottom = height - used - panel
        box = (left / WIDTH, bottom / height, (WIDTH - left - right) / WIDTH, panel / height)
        panels.append(figure.add_axes(box))
        used += panel + below
    return Page(figure, panels, head)


def _heading(figure: Figure, title: str, lines: Sequence[str], height: float) -> None:
    left, top = EDGE / WIDTH, EDGE / height
    figure.text(left, 1 - top, title, size=TITLE, weight="bold", va="top")
    for index, line in enumerate(lines):
        down = EDGE + TOP_LINE + LINE * index
        figure.text(left, 1 - down / height, line, size=SMALL, color=MUTED, va="top")


def visible(stacks: Iterable[Mapping[str, int]]) -> set[str]:
    """The categories of which a chart of these stacks has something to show: half a point of its width."""
    stacks = list(stacks)
    least = max((sum(stack.values()) for stack in stacks), default=0) / 1000
    return {name for stack in stacks for name, nbytes in stack.items() if nbytes > least}


def legend(page: Page, used: Collection[str]) -> None:
    """The colours of the categories in use, below the heading."""
    height = page.figure.get_size_inches()[1]
    handles = [Patch(facecolor=colour, label=NAMES[name]) for name, colour in PALETTE.items() if name in used]
    tight = {"frameon": False, "borderaxespad": 0, "borderpad": 0, "handlelength": 1.2, "columnspacing": 1.6}
    page.figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(EDGE / WIDTH, 1 - page.top / height),
        ncols=max(len(handles), 1), fontsize=SMALL + 0.5, **tight,
    )  # fmt: skip


def size_axis(axes: Axes, unit: str) -> None:
    """A horizontal axis of bytes: a light grid, and the unit before its zero."""
    size_grid(axes, unit)
    size_unit(axes, unit)


def size_grid(axes: Axes, unit: str) -> None:
    axes.grid(axis="x")
    axes.ticklabel_format(axis="x", style="plain", useOffset=False)
    if unit in ("B", "KB", "KiB"):  # long numbers
        axes.locator_params(axis="x", nbins=4)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="x", length=0)


def size_unit(axes: Axes, unit: str) -> None:
    axes.annotate(
        unit, (0, 0), (-14, -3.5), "axes fraction", "offset points", va="top", ha="right", size=SMALL, color=MUTED
    )


def text_width(text: str, size: float = TEXT, weight: str = "normal") -> float:
    """Inches that the widest line of `text` takes."""
    font = FontProperties(family="DejaVu Sans", weight=weight)
    paths = [TextPath((0, 0), line, size=size, prop=font) for line in text.split("\n") if line.strip()]
    return max((float(path.get_extents().width) for path in paths), default=0.0) / 72


def trimmed(text: str, inches: float, size: float = SMALL) -> str:
    """As much of `text` as fits."""
    if text_width(text, size) <= inches:
        return text
    longest = next((end for end in range(len(text), 0, -1) if text_width(text[:end] + "...", size) <= inches), 0)
    return text[:longest] + "..."


def folded(label: str, width: int = 34) -> str:
    """A long name on several lines."""
    return "\n".join(textwrap.wrap(label, width)) or label


def save(figure: Figure, path: Path) -> None:
    """PNG or SVG by the path's ending; no date and no version inside."""
    dpi = min(150.0, MAX_PIXELS / max(figure.get_size_inches()))
    kind = path.suffix.removeprefix(".")
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with styled():
        figure.savefig(path, format=kind, dpi=dpi, metadata=metadata)
