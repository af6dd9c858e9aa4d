"""When a step's memory is alive: a panel for each method, stacked by category, with its phases and its peak."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETDOWN

from memprof.errors import NothingToDoError
from memprof.record import History, Record
from memprof.report import style
from memprof.report.captions import UNIT_MEANS
from memprof.report.columns import size
from memprof.report.describe import models, scenario_line
from memprof.report.palette import PALETTE
from memprof.report.rows import Row, featured, make_rows
from memprof.report.series import corners, phases
from memprof.report.style import INK, MUTED, RULE, SMALL
from memprof.timeline import EXTRA
from memprof.units import UNITS

PANEL_INCHES, BELOW = 1.0, 0.34
PEAK_WIDTH = 0.008  # of the axis: an instant is too narrow to be seen
HOW_READ = "Across: the step's allocations and frees in order, not time."


def timeline_figure(records: Sequence[Record], *, unit: str = "GiB", note: str = "", **_: object) -> Figure:
    """One ordinary step by trace, from one steady state to the next; of many methods, AdamW and the lightest."""
    rows = [row for row in make_rows(records, by="trace") if _history(row)]
    if not rows:
        raise NothingToDoError("no record keeps the timeline of its step; run it again with this memprof")
    shown = featured(rows)
    left_out = f"AdamW and the lightest of {len(rows)} cells." if len(shown) < len(rows) else ""
    means = f"{unit} = {UNIT_MEANS[unit]} bytes; by trace. " if unit in UNIT_MEANS else "By trace. "
    said = [scenario_line(records), means + HOW_READ, left_out, note]
    names = models(row.record for row in shown)
    with style.styled():
        title = f"{', '.join(names)}: memory through one training step, {unit}"
        heights = [PANEL_INCHES] * len(shown)
        page = style.page(title, list(filter(None, said)), heights, left=0.75, right=0.45, legend=0.32, below=BELOW)
        for axes, row in zip(page.panels, shown, strict=True):
            peers = [other for other in shown if other.model == row.model]
            name = f"{row.model} {row.label}" if len(names) > 1 else row.label
            axes.set_title(name, loc="left", size=style.TEXT, weight="bold", pad=5)
            _panel(axes, row, unit, max(other.peak or 0 for other in peers))
        style.legend(page, style.visible(_stacks(shown)))
    return page.figure


def _history(row: Row) -> History | None:
    return row.record.trace.timeline if row.record.trace else None


def _stacks(rows: Sequence[Row]) -> Iterator[dict[str, int]]:
    """Every instant that is drawn."""
    for row in rows:
        history = _history(row)
        columns = {name: getattr(history, name) for name in PALETTE}
        for instant in range(len(next(iter(columns.values())))):
            yield {name: column[instant] for name, column in columns.items()}


def _panel(axes: Axes, row: Row, unit: str, most: int) -> None:
    history = _history(row)
    assert history is not None
    drawn = corners(history)
    columns = [[getattr(history, name)[at] / UNITS[unit] for at in drawn] for name in PALETTE]
    across = [history.event[at] for at in drawn]
    axes.stackplot(across, *columns, colors=list(PALETTE.values()), linewidth=0)
    axes.plot(across, [history.total[at] / UNITS[unit] for at in drawn], color=MUTED, linewidth=0.6, zorder=2.3)
    axes.set_xlim(0, history.events or 1)
    axes.set_ylim(0, most / UNITS[unit] * 1.3 or 1)
    axes.locator_params(axis="y", nbins=4)
    axes.set_xticks([])
    axes.grid(axis="y")
    axes.tick_params(length=0, labelsize=SMALL, labelcolor=MUTED)
    axes.spines["left"].set_visible(False)
    _phases(axes, history)
    _peak(axes, history, unit)


def _phases(axes: Axes, history: History) -> None:
    """A line where a phase begins, and its name where there is room for it behind the panel's own."""
    events = history.events or 1
    inch = events / (axes.get_position().width * style.WIDTH)
    taken = (style.text_width(axes.get_title(loc="left"), style.TEXT, "bold") + 0.12) * inch
    for name, begin, end in phases(history):
        if begin:
            axes.axvline(begin, color=RULE, linewidth=0.9, zorder=2.2)
        free = max(begin, taken)
        if style.text_width(name, SMALL) * inch < end - free:
            place = ((free + end) / 2, 1)
            axes.annotate(name, place, (0, 2), axes.get_xaxis_transform(), "offset points", ha="center", va="bottom",
                          size=SMALL, color=MUTED)  # fmt: skip


def _peak(axes: Axes, history: History, unit: str) -> None:
    total = history.total
    worst = total.index(max(total))
    at = (history.event[worst], total[worst] / UNITS[unit])
    bottom = 0.0
    for name, colour in PALETTE.items():
        height = getattr(history, name)[worst] / UNITS[unit]
        axes.bar(at[0], height, history.events * PEAK_WIDTH, bottom, color=colour, edgecolor=MUTED,
                 linewidth=0.6 if name == EXTRA else 0, zorder=2.4)  # fmt: skip
        bottom += height
    axes.plot(*at, marker=CARETDOWN, markersize=6, color=INK, clip_on=False, zorder=4)
    side = "right" if history.event[worst] > 0.6 * history.events else "left"
    shift = (-6 if side == "right" else 6, 3)
    axes.annotate(f"peak {size(total[worst], unit)}", at, shift, textcoords="offset points", ha=side, va="bottom",
                  size=SMALL, weight="bold", color=INK)  # fmt: skip
