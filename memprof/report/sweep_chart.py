"""Memory against what was swept: rank, batch size or sequence length."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memprof.errors import NothingToDoError
from memprof.record import Record
from memprof.report import style
from memprof.report.captions import UNIT_MEANS, witness_line
from memprof.report.describe import scenario_line
from memprof.report.palette import DASHES, LINES, MARKERS
from memprof.report.rows import make_rows, peak_memory
from memprof.report.style import INK, MUTED, SMALL
from memprof.report.sweeps import QUANTITIES, Line, Look, looks, panel_names, sweeps
from memprof.units import UNITS

PANEL_INCHES = 3.4
MOST_LINES = 12
NAME_WIDTH = 44
"""characters after which a line's name goes on below: a cell of many settings has a long one"""


def sweep_figure(records: Sequence[Record], *, by: str | None = None, unit: str = "GiB", note: str = "") -> Figure:
    """A panel for each model and each quantity that some method takes several values of."""
    rows = [row for row in make_rows(records, by=by) if row.peak]
    found = sweeps(rows)
    if not found:
        raise NothingToDoError("no method has several values of a rank, batch size or length; add --rank 32,64,128")
    swept = list(dict.fromkeys(QUANTITIES[key].partition(",")[0] for _, key in found))
    means = f"{unit} = {UNIT_MEANS[unit]} bytes; " if unit in UNIT_MEANS else ""
    said = [scenario_line(records), f"{means}{witness_line(rows)}", *_left_out(found.values()), note]
    names = list(dict.fromkeys(model for model, _ in found))
    with style.styled():
        title = f"{', '.join(names)}: {peak_memory(rows)} against {' and '.join(swept)}"
        names_drawn = (part for group in found.values() for line in group for part in _folded(line.name))
        right = 0.4 + max(style.text_width(part, SMALL) for part in names_drawn)
        page = style.page(title, list(filter(None, said)), [PANEL_INCHES] * len(found), left=0.85, right=right)
        drawn = looks(found)
        for axes, name, ((_, key), group) in zip(page.panels, panel_names(found), found.items(), strict=True):
            _panel(axes, [(line, drawn[key, line.name]) for line in group[:MOST_LINES]], key, unit)
            axes.set_ylabel(f"{peak_memory(rows)}, {unit}")
            if name:
                axes.set_title(name, loc="left", size=style.TEXT + 1, weight="bold", pad=5)
    return page.figure


def _folded(name: str) -> list[str]:
    return textwrap.wrap(name, NAME_WIDTH, break_on_hyphens=False)


def _left_out(groups: Iterable[Sequence[Line]]) -> list[str]:
    longest = max((len(group) for group in groups), default=0)
    return [f"The first {MOST_LINES} of {longest} lines."] if longest > MOST_LINES else []


def _panel(axes: Axes, group: Sequence[tuple[Line, Look]], key: str, unit: str) -> None:
    """A method's lines share colour and marker; AdamW is dashed ink. Of two upon each other the lower is broader."""
    values = sorted({value for line, _ in group if line.is_swept for value, _ in line.points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(values, [str(value) for value in values], minor=False)
    axes.set_xticks([], minor=True)
    axes.margins(x=0.02)
    ends: list[tuple[float, str, str]] = []
    last = max((look.colour or 0 for _, look in group), default=0) or 1
    for line, look in group:
        colour = INK if look.colour is None else LINES[look.colour % len(LINES)]
        dashes = (0, DASHES[look.dash] or (1, 0))
        broad = 0 if look.colour is None else 1 - look.colour / last
        peaks = [peak / UNITS[unit] for _, peak in line.points]
        if line.is_swept:
            marker = "D" if look.colour is None else MARKERS[look.colour % len(MARKERS)]
            axes.plot([value for value, _ in line.points], peaks, marker=marker, color=colour, linestyle=dashes,
                      linewidth=1.4 + 2.4 * broad, markersize=5 + 3.5 * broad)  # fmt: skip
        else:
            axes.axhline(peaks[0], color=colour, linestyle=dashes, linewidth=1.1)
        ends.append((peaks[-1], line.name, colour))
    axes.set_ylim(0, max(peak for line, _ in group for _, peak in line.points) / UNITS[unit] * 1.06)
    axes.grid()
    axes.tick_params(length=0, labelsize=SMALL)
    axes.set_xlabel(QUANTITIES[key], labelpad=2)
    _name(axes, ends)


def _name(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Each line's name at its right end, in the lines' order and none upon another."""
    _, most = axes.get_ylim()
    gap = most * 0.16 / PANEL_INCHES * max(len(_folded(name)) for _, name, _ in ends)
    ordered = sorted(ends)
    places = [end for end, _, _ in ordered]
    for index in range(1, len(places)):
        places[index] = max(places[index], places[index - 1] + gap)
    excess = max(0.0, (places[-1] if places else 0) - most)
    for index in reversed(range(len(places))):
        ceiling = places[index + 1] - gap if index + 1 < len(places) else places[index] - excess
        places[index] = min(places[index], ceiling)
    for place, (end, name, colour) in zip(places, ordered, strict=True):
        axes.annotate("\n".join(_folded(name)), (1, end), (1.025, place),
                      axes.get_yaxis_transform(), axes.get_yaxis_transform(),
                      va="center", ha="left", size=SMALL, color=INK, annotation_clip=False,
                      arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 2, "shrinkB": 0,
                                  "relpos": (0, 0.5)},
                      )  # fmt: skip
    axes.spines["left"].set_color(MUTED)
