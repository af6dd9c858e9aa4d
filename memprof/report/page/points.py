"""Points and lines of the page's other charts, in per cent of their frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from memprof.report.columns import SHORT, size, speed
from memprof.report.page.bars import exact
from memprof.report.page.timeline import Mark, round_values
from memprof.report.palette import NAMES
from memprof.report.rows import PEAK, SUM, Row, peak_memory, peak_name
from memprof.report.series import QUANTITIES, Line, Pair, agreement, front, sweeps, verdict
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
    """Peak against examples per second, a chart for each model."""
    measured = [row for row in rows if row.examples_per_second and row.peak]
    return [
        _speed_chart(model, [row for row in measured if row.model == model], unit)
        for model in dict.fromkeys(row.model for row in measured)
    ]


def _speed_chart(model: str, rows: Sequence[Row], unit: str) -> Chart:
    heaviest = max(row.peak or 0 for row in rows) * 1.1
    fastest = max(row.examples_per_second.high for row in rows if row.examples_per_second) * 1.08 or 1.0
    best = front([(row.peak or 0, row.examples_per_second.median) for row in rows if row.examples_per_second])
    dots = [_speed_dot(row, filled, heaviest, fastest) for row, filled in zip(rows, best, strict=True)]
    stairs = sorted((dot for dot, filled in zip(dots, best, strict=True) if filled), key=lambda dot: dot.x)
    path = "".join(
        f"{'H' if index else 'M'}{dot.x:.2f}{'V' if index else ' '}{dot.y:.2f}" for index, dot in enumerate(stairs)
    )
    said = "Filled, joined by the line: no other method is both lighter and faster. Vertical bars: 95 % intervals."
    return Chart(model, said, f"{peak_memory(rows)}, {unit}", "examples per second", _linear(heaviest / UNITS[unit]),
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
    found = sweeps(rows).items()
    return [_sweep_chart(model, key, group, unit, peak_name(rows), peak_memory(rows)) for (model, key), group in found]


def _sweep_chart(model: str, key: str, group: Sequence[Line], unit: str, peak: str, axis: str) -> Chart:
    values = sorted({value for line in group if line.is_swept for value, _ in line.points})
    left, width = math.log(values[0]), math.log(values[-1] / values[0])
    highest = max(nbytes for line in group for _, nbytes in line.points) * 1.08
    dots, curves = [], []
    for number, line in enumerate(group):
        look = f"line{number % 8}"
        places = [
            (4 + 92 * (math.log(value) - left) / width if line.is_swept else 50.0, 100 - 100 * nbytes / highest)
            for value, nbytes in line.points
        ]
        path = "L".join(f"{x:.2f} {y:.2f}" for x, y in places)
        curves.append(Curve(look, f"M{path}" if line.is_swept else f"M0 {places[0][1]:.2f}H100", line.name))
        for (value, nbytes), (x, y) in zip(line.points, places, strict=True):
            at = f" at {QUANTITIES[key].partition(',')[0]} {value}" if line.is_swept else ""
            dots.append(Dot(x, y, look, f"{line.name}{at}\n{peak} {size(nbytes, unit)} {unit}, {exact(nbytes)}"))
    across = tuple(Mark(str(value), 4 + 92 * (math.log(value) - left) / width) for value in values)
    return Chart(model, "", QUANTITIES[key], f"{axis}, {unit}", across, _upward(highest / UNITS[unit]),
                 tuple(dots), tuple(curves))  # fmt: skip


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
    name = NAMES.get(pair.key, SHORT[pair.key].lower())
    tip = f"{pair.label}, {name}\npredicted {exact(pair.predicted)}\nmeasured {exact(pair.measured)}"
    return Dot(x, 100 - y, pair.key if pair.key in NAMES else "ink", tip)


def _linear(highest: float) -> tuple[Mark, ...]:
    return tuple(Mark(f"{value:g}", 100 * value / highest) for value in round_values(highest))


def _upward(highest: float) -> tuple[Mark, ...]:
    return tuple(Mark(f"{value:g}", 100 - 100 * value / highest) for value in round_values(highest))
