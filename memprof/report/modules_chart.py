"""Which pieces of the model hold a method's memory, by category."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from memprof.explanation import Explanation, Part
from memprof.report import style
from memprof.report.captions import UNIT_MEANS
from memprof.report.columns import size
from memprof.report.describe import labels, plain, scenario_line
from memprof.report.palette import PALETTE
from memprof.report.style import EDGE, INK, SMALL, text_width
from memprof.timeline import ACTIVATION, GRAD, OPTIMIZER_STATE, PARAM
from memprof.units import UNITS, counted

BAR_INCHES = 0.3
MOST_BARS = 14
HELD = (PARAM, GRAD, OPTIMIZER_STATE, ACTIVATION)
HOW_READ = "Each category as it stands when its phase ends: together no instant of the step."


def modules_figure(explanation: Explanation, *, unit: str = "GiB", note: str = "") -> Figure:
    """A bar for each piece, largest first; what is below the others in one bar, so that nothing is left out."""
    parts = [part for part in explanation.parts if part.total]
    shown, rest = parts[:MOST_BARS], parts[MOST_BARS:]
    bars = [(_name(part), _held([part])) for part in shown]
    if rest:
        bars.append((counted(len(rest), "other piece"), _held(rest)))
    means = f"{unit} = {UNIT_MEANS[unit]} bytes; by trace. " if unit in UNIT_MEANS else "By trace. "
    said = [scenario_line([explanation.record]), means + HOW_READ, note]
    with style.styled():
        left = EDGE + max((text_width(name) for name, _ in bars), default=1.0) + 0.1
        title = f"{plain(explanation.record.model)}, {labels([explanation.record])[0]}: memory by module, {unit}"
        heights = [BAR_INCHES * max(len(bars), 1)]
        page = style.page(title, list(filter(None, said)), heights, left=left, right=0.95, legend=0.3)
        _draw(page, bars, unit)
        style.legend(page, style.visible(held for _, held in bars))
    return page.figure


def _name(part: Part) -> str:
    """With how many of the model's modules go by it, where a name stands for several."""
    return f"{part.name}  x{part.modules}" if part.modules > 1 else part.name


def _held(parts: Sequence[Part]) -> dict[str, int]:
    return {name: sum(getattr(part, name) for part in parts) for name in HELD}


def _draw(page: style.Page, bars: Sequence[tuple[str, dict[str, int]]], unit: str) -> None:
    (axes,) = page.panels
    for place, (_, held) in enumerate(bars):
        start = 0.0
        for category, nbytes in held.items():
            width = nbytes / UNITS[unit]
            axes.barh(place, width, 0.78, start, color=PALETTE[category], edgecolor="white", linewidth=0.4)
            start += width
        axes.annotate(size(sum(held.values()), unit), (start, place), (4, 0), textcoords="offset points", size=SMALL,
                      va="center_baseline", color=INK)  # fmt: skip
    axes.set_ylim(max(len(bars), 1) - 0.5, -0.5)
    axes.set_xlim(0, max((sum(held.values()) for _, held in bars), default=0) / UNITS[unit] * 1.02 or 1)
    axes.set_yticks(range(len(bars)), [name for name, _ in bars])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    style.size_axis(axes, unit)
