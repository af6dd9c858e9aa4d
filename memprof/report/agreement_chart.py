"""What was predicted against what was measured, with the line on which both are equal."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from memprof.errors import NothingToDoError
from memprof.record import Record
from memprof.report import style
from memprof.report.captions import UNIT_MEANS, witness_line
from memprof.report.describe import models, scenario_line
from memprof.report.palette import NAMES, PALETTE
from memprof.report.rows import make_rows
from memprof.report.series import KEYS, Pair, agreement, verdict
from memprof.report.style import INK, MUTED, RULE, SMALL
from memprof.units import UNITS

LOOKS = dict(zip(KEYS, "osD^*P", strict=True))
SIZES = dict(zip(KEYS, (10, 7, 6, 6, 9, 8), strict=True))  # points; parameters and gradients are often as large
SIDE_INCHES = 6.0


def agreement_figure(records: Sequence[Record], *, unit: str = "GiB", note: str = "", **_: object) -> Figure:
    """Every figure that both a trace and a measurement have, on logarithmic axes."""
    rows = [row for row in make_rows(records) if row.record.trace and row.record.measured]
    pairs = agreement(rows)
    if not pairs:
        raise NothingToDoError("nothing was both traced and measured; add --measure")
    means = f"{unit} = {UNIT_MEANS[unit]} bytes; " if unit in UNIT_MEANS else ""
    said = [scenario_line(records), f"{means}{witness_line(rows)}; predicted by trace", verdict(pairs), note]
    names = ", ".join(models(row.record for row in rows))
    with style.styled():
        title = f"{names}: predicted against measured"
        side = style.WIDTH - SIDE_INCHES - 0.9
        page = style.page(title, list(filter(None, said)), [SIDE_INCHES], left=0.9, right=side)
        _panel(page.panels[0], pairs, unit)
    return page.figure


def _panel(axes: Axes, pairs: Sequence[Pair], unit: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    sizes = [nbytes / UNITS[unit] for pair in pairs for nbytes in (pair.predicted, pair.measured)]
    low, high = min(sizes) / 1.6, max(sizes) * 1.6
    axes.plot([low, high], [low, high], color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    for pair in pairs:
        axes.plot(
            pair.predicted / UNITS[unit], pair.measured / UNITS[unit], LOOKS[pair.key], markersize=SIZES[pair.key],
            color=_colour(pair.key), markeredgecolor="white", markeredgewidth=0.6, zorder=3,
        )  # fmt: skip
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.grid(which="major")
    axes.tick_params(length=0, labelsize=SMALL)
    axes.tick_params(which="minor", length=0)
    axes.spines["left"].set_color(RULE)
    axes.set_xlabel(f"predicted, {unit}")
    axes.set_ylabel(f"measured, {unit}")
    _legend(axes, {pair.key for pair in pairs})


def _colour(key: str) -> str:
    return MUTED if key == "reserved" else PALETTE.get(key, INK)


def _legend(axes: Axes, keys: set[str]) -> None:
    named = [key for key in KEYS if key in keys]
    handles = [
        Line2D([], [], marker=LOOKS[key], color=_colour(key), linestyle="none", label=NAMES.get(key, key))
        for key in named
    ]
    handles.append(Line2D([], [], color=MUTED, linestyle=(0, (4, 3)), label="equal"))
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.03, 1), frameon=False, fontsize=SMALL + 0.5)
