"""Points and lines of the page's other charts, in per cent of their frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from memprof.report.captions import BARS
from memprof.report.columns import size, speed
from memprof.report.page.bars import exact
from memprof.report.page.timeline import Mark, round_values
from memprof.report.palette import LINES, NAMES
from memprof.report.rows import PEAK, SUM, Row, peak_memory, peak_name
from memprof.report.series import Pair, agreement, front, settings, verdict
from memprof.report.sweeps import QUANTITIES, Line, Look, looks, panel_names, sweeps
from memprof.units import UNITS


@dataclass(frozen=True, slots=True)
class Dot:
    """A point at `x` and `y` per cent from the left and from above; named on the chart where `name` is not empty."""

    x: float
    y: float
    look: str
    tip: str
    name: str = ""
    low: float = 0.0
    high: float = 0.0
    """the interval's ends, from above; equal where there is none"""


@dataclass(frozen=True, slots=True)
class Curve:
    """A line through points, as an SVG path in a square of 100."""

    look: str
    path: str
    name: str = ""
    dotted: bool = False
    """whether it has points, in the legend too"""


@dataclass(frozen=True, slots=True)
class Chart:
    """A frame with ticks. `across` ticks count from the left."""

    title: str
    said: str
    x_label: str
    y_label: str
    across: tuple[Mark, ...]
    up: tuple[Mark, ...]
    dots: tuple[Dot, ...]
    curves: tuple[Curve, ...]


def speed_charts(rows: Sequence[Row], unit: str) -> list[Chart]:
    """Peak against examples per second, a chart for each model and whatever else surrounds a method."""
    measured = settings([row for row in rows if row.examples_per_second and row.peak])
    return [_speed_chart(name, facet, unit) for name, facet in measured.items()]


def _speed_chart(title: str, rows: Sequence[Row], unit: str) -> Chart:
    heaviest = max(row.peak or 0 for row in rows) * 1.1
    fastest = max(row.examples_per_second.high for row in rows if row.examples_per_second) * 1.08 or 1.0
    best = front([(row.peak or 0, row.examples_per_second.median) for row in rows if row.examples_per_second])
    dots = [_speed_dot(row, filled, heaviest, fastest) for row, filled in zip(rows, best, strict=True)]
    stairs = sorted((dot for dot, filled in zip(dots, best, strict=True) if filled), key=lambda dot: dot.x)
    path = "".join(
        f"{'H' if index else 'M'}{dot.x:.2f}{'V' if index else ' '}{dot.y:.2f}" for index, dot in enumerate(stairs)
    )
    said = f"Filled, joined by the line: no other method is both lighter and faster. {BARS}"
    return Chart(title, said, f"{peak_memory(rows)}, {unit}", "examples per second", _linear(heaviest / UNITS[unit]),
                 _upward(fastest), tuple(dots), (Curve("front", path),))  # fmt: skip


def _speed_dot(row: Row, filled: bool, heaviest: float, fastest: float) -> Dot:
    rate = row.examples_per_second
    assert rate is not None
    tip = f"{row.label}\n{SUM if row.is_sum else PEAK} {exact(row.peak or 0)}\n{speed(rate)} examples per second"
    down = (100 - 100 * value / fastest for value in (rate.median, rate.low, rate.high))
    middle, low, high = down
    look = f"{'base' if row.is_baseline else 'other'} {'filled' if filled else 'hollow'}"
    named = _short(row.label) if filled or row.is_baseline else ""
    return Dot(100 * (row.peak or 0) / heaviest, middle, look, tip, named, low, high)


def _short(label: str) -> str:
    """As much of a name as a phone has room for; the tip has all of it."""
    return label if len(label) <= 24 else f"{label[:22]}..."


def sweep_charts(rows: Sequence[Row], unit: str) -> list[Chart]:
    """Peak against what was swept."""
    found = sweeps(rows)
    drawn, named = looks(found), zip(panel_names(found), found.items(), strict=True)
    return [
        _sweep_chart(name, key, [(line, drawn[key, line.name]) for line in group], unit, rows)
        for name, ((_, key), group) in named
    ]


def _sweep_chart(title: str, key: str, group: Sequence[tuple[Line, Look]], unit: str, rows: Sequence[Row]) -> Chart:
    """A line that nothing is swept of is flat: it says its peak in the legend and has a point at no value."""
    values = sorted({value for line, _ in group if line.is_swept for value, _ in line.points})
    left, width = math.log(values[0]), math.log(values[-1] / values[0])
    highest = max(nbytes for line, _ in group for _, nbytes in line.points) * 1.08
    quantity = QUANTITIES[key].partition(",")[0]
    dots, curves = [], []
    for line, told in group:
        look, height = _look(told), 100 - 100 * line.points[0][1] / highest
        if not line.is_swept:
            name = f"{line.name}: {size(line.points[0][1], unit)} {unit} at any {quantity}"
            curves.append(Curve(look, f"M0 {height:.2f}H100", name))
            continue
        places = [(4 + 92 * (math.log(value) - left) / width, 100 - 100 * nbytes / highest)
                  for value, nbytes in line.points]  # fmt: skip
        curves.append(Curve(look, f"M{'L'.join(f'{x:.2f} {y:.2f}' for x, y in places)}", line.name, dotted=True))
        for (value, nbytes), (x, y) in zip(line.points, places, strict=True):
            tip = f"{line.name} at {quantity} {value}\n{peak_name(rows)} {size(nbytes, unit)} {unit}, {exact(nbytes)}"
            dots.append(Dot(x, y, look, tip))
    across = tuple(Mark(str(value), 4 + 92 * (math.log(value) - left) / width) for value in values)
    return Chart(title, "", QUANTITIES[key], f"{peak_memory(rows)}, {unit}", across, _upward(highest / UNITS[unit]),
                 tuple(dots), tuple(curves))  # fmt: skip


def _look(told: Look) -> str:
    """The page's classes."""
    colour = "adamw" if told.colour is None else f"line{told.colour % len(LINES)}"
    return f"{colour} dash{told.dash}"


def agreement_chart(rows: Sequence[Row], unit: str) -> Chart | None:
    """Predicted against measured on logarithmic axes; None where nothing is both."""
    pairs = agreement(rows)
    if not pairs:
        return None
    sizes = [nbytes for pair in pairs for nbytes in (pair.predicted, pair.measured)]
    low, high = math.log10(min(sizes) / 1.6), math.log10(max(sizes) * 1.6)
    dots = [_pair_dot(pair, low, high) for pair in pairs]
    powers = range(math.ceil(low - math.log10(UNITS[unit])), math.floor(high - math.log10(UNITS[unit])) + 1)
    places = [(f"{10.0**power:g}", 100 * (power + math.log10(UNITS[unit]) - low) / (high - low)) for power in powers]
    across, up = (tuple(Mark(text, at) for text, at in places), tuple(Mark(text, 100 - at) for text, at in places))
    said = f"{verdict(pairs)} On the dashed line both are equal."
    return Chart("", said, f"predicted by trace, {unit}", f"measured, {unit}", across, up, tuple(dots),
                 (Curve("equal", "M0 100L100 0"),))  # fmt: skip


def _pair_dot(pair: Pair, low: float, high: float) -> Dot:
    x, y = (100 * (math.log10(value) - low) / (high - low) for value in (pair.predicted, pair.measured))
    name = NAMES.get(pair.key, pair.key)
    tip = f"{pair.label}, {name}\npredicted {exact(pair.predicted)}\nmeasured {exact(pair.measured)}"
    return Dot(x, 100 - y, pair.key if pair.key in NAMES else "ink", tip)


def _linear(highest: float) -> tuple[Mark, ...]:
    return tuple(Mark(f"{value:g}", 100 * value / highest) for value in round_values(highest))


def _upward(highest: float) -> tuple[Mark, ...]:
    return tuple(Mark(f"{value:g}", 100 - 100 * value / highest) for value in round_values(highest))
