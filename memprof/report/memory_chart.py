"""Where each method's memory is at its worst instant, by category; a bar for each witness that saw it otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memprof.errors import NothingToDoError
from memprof.record import Memory, Record
from memprof.report import style
from memprof.report.captions import SPOKEN, UNIT_MEANS
from memprof.report.columns import size
from memprof.report.describe import models, scenario_line
from memprof.report.palette import PALETTE
from memprof.report.rows import PEAK, Row, make_rows, peak_name
from memprof.report.style import EDGE, SMALL, folded, text_width
from memprof.units import UNITS

ORDER = ("formula", "trace", "measured")
BAR, GROUP_GAP = 0.84, 0.7  # in bars: the thickness of one, the white between two methods
BAR_INCHES = 0.19  # from one bar to the next


@dataclass(frozen=True, slots=True)
class Bar:
    """One view of one method, at height `y`; witnesses that agree to the byte share it."""

    y: float
    witnesses: tuple[str, ...]
    memory: Memory

    @property
    def name(self) -> str:
        return " = ".join(self.witnesses)


def memory_figure(records: Sequence[Record], *, by: str | None = None, unit: str = "GiB", note: str = "") -> Figure:
    """Stacked bars, a group for each method; all witnesses that ran and differ, or only `by`, or a paper's sum."""
    rows = make_rows(records, by=by)
    if not rows:
        raise NothingToDoError("there are no records to draw")
    witnesses = [name for name in ORDER if by in (None, name) and any(getattr(row.record, name) for row in rows)]
    facets = [[row for row in rows if row.model == model] for model in models(records)]
    with style.styled():
        bars = [bar for row in rows for bar in _bars(row, witnesses, 0)]
        apart = len({bar.witnesses for bar in bars}) > 1
        left, inner = _margin(rows, bars if apart else [])
        heights = [sum(_space(row, witnesses) for row in facet) * BAR_INCHES for facet in facets]
        said = [text for text in (scenario_line(records), _source(bars, apart, unit), note) if text]
        page = style.page(_title(rows, unit), said, heights, left=left, right=_right(rows, unit), legend=0.3)
        for axes, facet in zip(page.panels, facets, strict=True):
            _panel(axes, facet, witnesses, unit, inner)
            if len(facets) > 1:
                axes.set_title(facet[0].model, loc="left", size=style.TEXT + 1, weight="bold", pad=5)
        style.legend(page, style.visible([bar.memory.peak_by_category for bar in bars]))
    return page.figure


def _margin(rows: Sequence[Row], named: Sequence[Bar]) -> tuple[float, float]:
    """Inches left of the bars, and how much of it is for the names of the witnesses where bars bear them."""
    inner = max((text_width(bar.name, SMALL) + 0.2 for bar in named), default=0.0)
    return EDGE + max(text_width(folded(row.label)) for row in rows) + inner + 0.1, inner


def _right(rows: Sequence[Row], unit: str) -> float:
    """Inches right of the longest bar: its total, and what went wrong."""
    totals = max(text_width(size(row.peak, unit), SMALL) for row in rows)
    failed = max((text_width(row.status, SMALL) + 0.2 for row in rows if row.status and row.memory), default=0.0)
    return EDGE + 0.2 + totals + failed


def _title(rows: Sequence[Row], unit: str) -> str:
    when = "at the worst instant of a training step" if peak_name(rows) == PEAK else "of a training step"
    return f"{', '.join(models(row.record for row in rows))}: memory {when}, {unit}"


def _source(bars: Sequence[Bar], apart: bool, unit: str) -> str:
    """The unit, and whose bars these are."""
    means = f"{unit} = {UNIT_MEANS[unit]} bytes; " if unit in UNIT_MEANS else ""
    if apart:
        agreed = " (= where they agree to the byte)" if any(len(bar.witnesses) > 1 for bar in bars) else ""
        heard = [name for name in ORDER if any(name in bar.witnesses for bar in bars)]
        return f"{means}bars: {', '.join(heard)}{agreed}"
    names = bars[0].witnesses if bars else ()
    if len(names) > 1:
        return f"{means}{' and '.join(names)} agree to the byte in every bar"
    return f"{means}{SPOKEN.get(''.join(names), 'no witness ran')}"


def _bars(row: Row, witnesses: Sequence[str], top: float) -> list[Bar]:
    """A sum stands alone: beside it, a peak would seem to be another view of the same."""
    views: dict[tuple[tuple[str, int], ...], list[str]] = {}
    for name in [row.witness] if row.is_sum and row.witness else witnesses:
        memory = getattr(row.record, name)
        if memory is not None:
            views.setdefault(tuple(sorted(memory.peak_by_category.items())), []).append(name)
    groups = enumerate(tuple(names) for names in views.values())
    return [Bar(top + index + 0.5, names, getattr(row.record, names[0])) for index, names in groups]


def _space(row: Row, witnesses: Sequence[str]) -> float:
    """Bars' worth of height: at least what the name takes."""
    bars = len(_bars(row, witnesses, 0))
    return max(bars, 0.85 * len(folded(row.label).split("\n")), 1) + GROUP_GAP


def _panel(axes: Axes, rows: Sequence[Row], witnesses: Sequence[str], unit: str, inner: float) -> None:
    """Groups from the top down, in the order of the records."""
    top, centres, bars = 0.0, [], []
    for row in rows:
        space, group = _space(row, witnesses), _bars(row, witnesses, 0)
        start = top + (space - max(len(group), 1)) / 2
        group = _bars(row, witnesses, start)
        centres.append(top + space / 2)
        bars += group
        if row.status:
            _failure(axes, row, group, centres[-1], unit)
        top += space
    axes.set_ylim(top, 0)
    most = max((bar.memory.peak for bar in bars), default=0) / UNITS[unit]
    axes.set_xlim(0, most * 1.02 or 1)
    for bar in bars:
        _stack(axes, bar, unit)
    _axis(axes, rows, centres, bars if inner else [], unit, inner)


def _stack(axes: Axes, bar: Bar, unit: str) -> None:
    left = 0.0
    for category, colour in PALETTE.items():
        width = bar.memory.peak_by_category.get(category, 0) / UNITS[unit]
        axes.barh(bar.y, width, BAR, left, color=colour, edgecolor="white", linewidth=0.4, label=category)
        left += width
    _beside(axes, size(bar.memory.peak, unit), (left, bar.y), 4, color=style.INK)


def _failure(axes: Axes, row: Row, bars: Sequence[Bar], y: float, unit: str) -> None:
    """In words where a bar would be, or behind the total of the last one."""
    colour = PALETTE["grad"]
    if bars:
        end, total = bars[-1].memory.peak, size(bars[-1].memory.peak, unit)
        shift = 14 + text_width(total, SMALL) * 72
        _beside(axes, row.status, (end / UNITS[unit], bars[-1].y), shift, color=colour, style="italic")
        return
    room = style.WIDTH * axes.get_position().width
    text = style.trimmed(f"{row.status}: {row.reason}" if row.reason else row.status, room)
    _beside(axes, text, (0, y), 4, color=colour, style="italic")


def _beside(axes: Axes, text: str, at: tuple[float, float], shift: float, **looks: Any) -> None:
    """Small text `shift` points to the right of a place, on white so that no grid line strikes it through."""
    axes.annotate(
        text, at, (shift, 0), textcoords="offset points", va="center_baseline", size=SMALL, annotation_clip=False,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8}, **looks,
    )  # fmt: skip


def _axis(axes: Axes, rows: Sequence[Row], centres: list[float], bars: Sequence[Bar], unit: str, inner: float) -> None:
    axes.yaxis.remove_overlapping_locs = False  # the middle bar of three stands where its method's name does
    axes.set_yticks(centres, [folded(row.label) for row in rows])
    axes.tick_params(axis="y", which="major", length=0, pad=4 + inner * 72, labelcolor=style.INK)
    axes.set_yticks([bar.y for bar in bars], [bar.name for bar in bars], minor=True)
    axes.tick_params(axis="y", which="minor", length=0, labelsize=SMALL, labelcolor=style.MUTED)
    style.size_axis(axes, unit)
