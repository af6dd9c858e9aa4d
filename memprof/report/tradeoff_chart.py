"""What memory buys in speed, where speed was measured; else what each method saves against AdamW."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memprof.errors import NothingToDoError
from memprof.record import Interval, Record
from memprof.report import style
from memprof.report.captions import BARS, UNIT_MEANS, witness_line
from memprof.report.columns import percent, size
from memprof.report.describe import scenario_line
from memprof.report.place import Point, place
from memprof.report.rows import Row, make_rows, peak_memory, peak_name
from memprof.report.series import ends, front, settings
from memprof.report.style import EDGE, HEAVIER, INK, LIGHTER, RULE, SMALL, folded, text_width
from memprof.units import UNITS

SCATTER_INCHES, ROW_INCHES = 4.6, 0.3


def tradeoff_figure(records: Sequence[Record], *, by: str | None = None, unit: str = "GiB", note: str = "") -> Figure:
    """Peak against examples per second if anything was measured, else peaks ranked beside AdamW's."""
    rows = make_rows(records, by=by)
    if not rows:
        raise NothingToDoError("there are no records to draw")
    measured = [row for row in rows if row.examples_per_second and row.memory]
    with style.styled():
        return _scatter(rows, measured, unit, note) if measured else _ranking(rows, unit, note)


def _scatter(rows: Sequence[Row], measured: Sequence[Row], unit: str, note: str) -> Figure:
    facets = settings(measured)
    said = [*_said(rows, measured, unit, note), f"{BARS} Filled, joined by the line: no other method is both lighter "
            "and faster."]  # fmt: skip
    title = f"{_names(measured)}: {peak_memory(measured)} against throughput"
    page = style.page(title, said, [SCATTER_INCHES] * len(facets), left=0.95, right=0.5)
    for axes, (name, facet) in zip(page.panels, facets.items(), strict=True):
        _points(axes, facet, unit)
        _name_panel(axes, name)
    return page.figure


def _points(axes: Axes, rows: Sequence[Row], unit: str) -> None:
    speeds = [(row, row.examples_per_second) for row in rows]
    points = [_point(row, speed, unit) for row, speed in speeds if speed]
    best = front([(point.x, point.y) for point in points])
    for point, row, filled in zip(points, rows, best, strict=True):
        colour = HEAVIER if row.is_baseline else LIGHTER
        spread = [[point.y - point.low], [point.high - point.y]]
        axes.errorbar(
            [point.x], [point.y], yerr=spread, fmt="D" if row.is_baseline else "o", markersize=6.5, color=colour,
            markerfacecolor=colour if filled else "white", markeredgewidth=1.3, elinewidth=1.1, capsize=2.5,
            zorder=3.5 if filled else 3,
        )  # fmt: skip
    _front(axes, [point for point, filled in zip(points, best, strict=True) if filled])
    _limits(axes, points)
    _cross(axes, points)
    axes.grid()
    axes.tick_params(length=0, labelsize=SMALL)
    axes.set_xlabel(f"{peak_memory(rows)}, {unit}")
    axes.set_ylabel("examples per second")
    place(axes, points)


def _point(row: Row, speed: Interval, unit: str) -> Point:
    peak = (row.peak or 0) / UNITS[unit]
    return Point(peak, speed.median, row.label, speed.low, speed.high, bold=row.is_baseline)


def _front(axes: Axes, points: Sequence[Point]) -> None:
    """The Pareto front as a staircase: below and right of it something else is both lighter and faster."""
    ordered = sorted(points, key=lambda point: (point.x, point.y))
    across, up = [point.x for point in ordered], [point.y for point in ordered]
    axes.step(across, up, where="post", color=LIGHTER, linewidth=1.0, alpha=0.6, zorder=2)


def _limits(axes: Axes, points: Sequence[Point]) -> None:
    """White around the points in which their names find room."""
    left, right = min(point.x for point in points), max(point.x for point in points)
    low, high = min(point.low for point in points), max(point.high for point in points)
    across, up = (right - left) or right or 1, (high - low) or high or 1
    axes.set_xlim(max(0, left - 0.1 * across), right + 0.16 * across)
    axes.set_ylim(max(0, low - 0.12 * up), high + 0.12 * up)


def _cross(axes: Axes, points: Sequence[Point]) -> None:
    """Lines through AdamW: left of and above them is the better side."""
    for point in points:
        if point.bold:
            axes.axvline(point.x, color=HEAVIER, linewidth=0.8, linestyle=(0, (2, 3)), zorder=0)
            axes.axhline(point.y, color=HEAVIER, linewidth=0.8, linestyle=(0, (2, 3)), zorder=0)


def _ranking(rows: Sequence[Row], unit: str, note: str) -> Figure:
    seen = sorted((row for row in rows if row.memory), key=lambda row: (row.peak or 0, row.label))
    facets = {name: [row for row in seen if row in group] for name, group in settings(rows).items()}
    facets = {name: facet for name, facet in facets.items() if facet}
    said = [
        *_said(rows, seen, unit, note),
        f"Dashed: AdamW's {peak_name(seen)}{' in each panel' if len(facets) > 1 else ''}. Each line is what a method "
        "saves or adds.",
    ]
    has_baseline = any(row.saving is not None for row in seen)
    left = EDGE + max((text_width(folded(row.label)) for row in seen), default=1.0) + 0.15
    room = _room(seen, unit)
    right = EDGE + room + 0.2 + max((text_width(_verdict(row), SMALL) for row in seen), default=0.0)
    title = f"{_names(rows)}: {peak_memory(seen)}{' against AdamW' if has_baseline else ', ranked'}, {unit}"
    heights = [ROW_INCHES * max(sum(_lines(row) for row in facet), 2) for facet in facets.values()] or [1.0]
    page = style.page(title, said if has_baseline else said[:-1], heights, left=left, right=right)
    for axes, (name, facet) in zip(page.panels, facets.items(), strict=False):
        _dumbbells(axes, facet, unit, room)
        _name_panel(axes, name)
    return page.figure


def _dumbbells(axes: Axes, rows: Sequence[Row], unit: str, room: float) -> None:
    """A dot for each method and a line from AdamW's peak to it."""
    y, ticks = 0.0, []
    for row in rows:
        y += _lines(row) / 2
        ticks.append(y)
        _dumbbell(axes, row, y, unit, room)
        y += _lines(row) / 2
    for reference in {row.peak for row in rows if row.is_baseline and row.peak}:
        axes.axvline(reference / UNITS[unit], color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    axes.set_ylim(y, 0)
    axes.set_xlim(0, max(row.peak or 0 for row in rows) / UNITS[unit] * 1.03 or 1)
    axes.set_yticks(ticks, [folded(row.label) for row in rows])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row.is_baseline else "normal")
    axes.spines["left"].set_color(RULE)
    style.size_axis(axes, unit)


def _dumbbell(axes: Axes, row: Row, y: float, unit: str, room: float) -> None:
    peak = (row.peak or 0) / UNITS[unit]
    heavier = row.saving is not None and row.saving < 0
    colour = INK if row.is_baseline else HEAVIER if heavier else LIGHTER
    if row.saving is not None:
        axes.plot([ends(row)[0].peak / UNITS[unit], peak], [y, y], color=colour, linewidth=3, alpha=0.55, zorder=2,
                  solid_capstyle="butt")  # fmt: skip
    axes.plot([peak], [y], marker="D" if row.is_baseline else "o", markersize=7, color=colour, zorder=3)
    weight = "bold" if row.is_baseline else "normal"
    for text, shift, side in ((size(row.peak, unit), room * 72, "right"), (_verdict(row), room * 72 + 10, "left")):
        axes.annotate(
            text, (1, y), (shift, 0), axes.get_yaxis_transform(), "offset points", va="center_baseline", ha=side,
            size=SMALL, color=INK, weight=weight, annotation_clip=False,
        )  # fmt: skip


def _verdict(row: Row) -> str:
    if row.is_baseline or row.saving is None:
        return ""
    return f"{percent(abs(row.saving))} {'more' if row.saving < 0 else 'less'}"


def _room(rows: Sequence[Row], unit: str) -> float:
    """Inches for the peaks, written right of the axis and flush on their right."""
    return 0.15 + max((text_width(size(row.peak, unit), SMALL, "bold") for row in rows), default=0.0)


def _lines(row: Row) -> float:
    return max(1.0, 0.62 * len(folded(row.label).split("\n")))


def _name_panel(axes: Axes, name: str) -> None:
    if name:
        axes.set_title(name, loc="left", size=style.TEXT + 1, weight="bold", pad=5)


def _names(rows: Sequence[Row]) -> str:
    return ", ".join(dict.fromkeys(row.model for row in rows))


def _said(rows: Sequence[Row], shown: Sequence[Row], unit: str, note: str) -> list[str]:
    """Scenario, source, and who is missing."""
    means = f"{unit} = {UNIT_MEANS[unit]} bytes; " if unit in UNIT_MEANS else ""
    absent = [f"{row.label}{f' ({row.status})' if row.status else ''}" for row in rows if row not in shown]
    missing = f"Not shown: {', '.join(absent)}." if absent else ""
    source = f"{means}{witness_line(shown)}"
    return [text for text in (scenario_line([row.record for row in rows]), source, missing, note) if text]
