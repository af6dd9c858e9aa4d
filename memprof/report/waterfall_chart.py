"""Why a method's peak is not AdamW's: from one to the other, category by category."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memprof.errors import NothingToDoError
from memprof.record import Record
from memprof.report import style
from memprof.report.captions import SPOKEN, UNIT_MEANS
from memprof.report.columns import size
from memprof.report.describe import models, scenario_line
from memprof.report.palette import NAMES, PALETTE
from memprof.report.rows import Row, featured, make_rows, peak_name
from memprof.report.series import baseline_label, ends, signed, steps
from memprof.report.style import EDGE, INK, MUTED, SMALL, text_width
from memprof.units import UNITS

BAR_INCHES, BELOW = 0.21, 0.34
MOST_PANELS = 7


def waterfall_figure(records: Sequence[Record], *, by: str | None = None, unit: str = "GiB", note: str = "") -> Figure:
    """A panel for each method beside AdamW: its bars sum to the difference of the peaks, to the byte."""
    every = make_rows(records, by=by)
    rows = [row for row in every if row.change and not row.is_baseline]
    if not rows:
        raise NothingToDoError("no method stands beside AdamW in the same scenario; add --method adamw")
    shown = featured(rows, MOST_PANELS)
    if len(shown) < len(rows):
        shown = sorted(shown, key=lambda row: -(row.saving or 0.0))
    left_out = f"The {len(shown)} of {len(rows)} cells that save most." if len(shown) < len(rows) else ""
    witnesses = sorted({SPOKEN[row.saving_by] for row in shown if row.saving_by})
    means = f"{unit} = {UNIT_MEANS[unit]} bytes; " if unit in UNIT_MEANS else ""
    said = [scenario_line(records), f"{means}{', '.join(witnesses)}", left_out, note]
    names = models(row.record for row in shown)
    with style.styled():
        heights = [BAR_INCHES * (len(steps(row)) + 2) for row in shown]
        left = EDGE + max(text_width(text, SMALL) for row in shown for text in _names(row, every)) + 0.1
        title = f"{', '.join(names)}: from AdamW's {peak_name(shown)} to each method's, {unit}"
        page = style.page(title, list(filter(None, said)), heights, left=left, right=1.0, below=BELOW)
        for axes, row in zip(page.panels, shown, strict=True):
            _panel(axes, row, _names(row, every), unit, max(_most(each) for each in shown if each.model == row.model))
            name = f"{row.model} {row.label}" if len(names) > 1 else row.label
            axes.set_title(name, loc="left", size=style.TEXT, weight="bold", pad=4)
            axes.tick_params(axis="x", labelbottom=axes is page.panels[-1])
        style.size_unit(page.panels[-1], unit)
    return page.figure


def _most(row: Row) -> int:
    return max(memory.peak for memory in ends(row))


def _names(row: Row, every: Sequence[Row]) -> list[str]:
    return [baseline_label(row, every), *(NAMES[name] for name, _ in steps(row)), row.label]


def _panel(axes: Axes, row: Row, names: Sequence[str], unit: str, most: int) -> None:
    before, after = ends(row)
    reached = before.peak
    _bar(axes, 0, 0, before.peak, unit, MUTED, size(before.peak, unit))
    for place, (category, change) in enumerate(steps(row), 1):
        text = signed(change, unit)
        _bar(axes, place, min(reached, reached + change), abs(change), unit, PALETTE[category], text)
        axes.plot([reached / UNITS[unit]] * 2, [place - 1.36, place + 0.36], color=INK, linewidth=0.7, zorder=3)
        reached += change
    last = len(steps(row)) + 1
    axes.plot([reached / UNITS[unit]] * 2, [last - 1.36, last + 0.36], color=INK, linewidth=0.7, zorder=3)
    _bar(axes, last, 0, after.peak, unit, INK, size(after.peak, unit))
    axes.set_ylim(last + 0.5, -0.5)
    axes.set_xlim(0, most / UNITS[unit] * 1.1 or 1)
    axes.set_yticks(range(last + 1), names)
    axes.tick_params(axis="y", length=0, labelsize=SMALL, labelcolor=INK)
    style.size_grid(axes, unit)


def _bar(axes: Axes, place: float, start: int, nbytes: int, unit: str, colour: str, text: str) -> None:
    axes.barh(place, nbytes / UNITS[unit], 0.72, start / UNITS[unit], color=colour, edgecolor=INK, linewidth=0.3)
    axes.annotate(text, ((start + nbytes) / UNITS[unit], place), (5, 0), textcoords="offset points", size=SMALL,
                  va="center_baseline", color=INK, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
                  annotation_clip=False)  # fmt: skip
