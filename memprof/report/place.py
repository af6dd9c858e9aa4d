"""Names beside the points of a scatter plot, none upon another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memprof.report.style import INK, MUTED, SMALL

DOT = 5.0  # points around a marker that a name must not enter
RADII = (9, 15, 22, 30, 40, 52, 66, 82, 100, 120, 145, 175, 210, 250)  # points
DIRECTIONS = 16
CROWD = 18  # points: where another marker is nearer than this, a line says whose name it is


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in points, from the lower left corner of the figure."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: Box) -> bool:
        apart = self.right <= other.left or other.right <= self.left
        return not (apart or self.top <= other.bottom or other.top <= self.bottom)

    def within(self, other: Box) -> bool:
        inside = other.left <= self.left and self.right <= other.right
        return inside and other.bottom <= self.bottom and self.top <= other.top


@dataclass(frozen=True, slots=True)
class Point:
    """A place in data units; a name that must stand out is `bold`."""

    x: float
    y: float
    name: str
    low: float
    high: float
    bold: bool = False


def place(axes: Axes, points: Sequence[Point], nameless: Sequence[Point] = ()) -> list[Box]:
    """Write each name at the nearest free place, with a line to its point where that is not beside it."""
    taken = [_marker(axes, point) for point in [*points, *nameless]]
    frame, placed = _frame(axes), []
    for point in sorted(points, key=lambda point: (not point.bold, point.x, point.y, point.name)):
        x, y = _in_points(axes, point.x, point.y)
        width, height = _extent(axes, point)
        box = next(
            (box for box in _candidates(x, y, width, height) if box.within(frame) and not any(map(box.meets, taken))),
            Box(x + DOT, y + DOT, x + DOT + width, y + DOT + height),
        )
        others = (_in_points(axes, other.x, other.y) for other in points if other != point)
        crowded = any(math.dist((x, y), there) < CROWD for there in others)
        _write(axes, point, box, crowded)
        taken.append(box)
        placed.append(box)
    return placed


def _candidates(x: float, y: float, width: float, height: float) -> Iterator[Box]:
    """Boxes around a point, the nearest first; to its right before anywhere else."""
    for radius in RADII:
        for step in range(DIRECTIONS):
            # 0, +1, -1, +2, -2, ... sixteenths of a turn
            turn = (step + 1) // 2 * (1 if step % 2 else -1) * math.tau / DIRECTIONS
            across, up = math.cos(turn), math.sin(turn)
            centre_x = x + across * radius + width / 2 * _clamp(across * 1.5)
            centre_y = y + up * radius + height / 2 * _clamp(up * 1.5)
            left, bottom = centre_x - width / 2, centre_y - height / 2
            yield Box(left, bottom, left + width, bottom + height)


def _clamp(value: float) -> float:
    return max(-1.0, min(1.0, value))


def _write(axes: Axes, point: Point, box: Box, crowded: bool) -> None:
    x, y = _in_points(axes, point.x, point.y)
    nearest = (max(box.left, min(x, box.right)), max(box.bottom, min(y, box.top)))
    if crowded or math.dist(nearest, (x, y)) > RADII[0] + 3:
        offset = (nearest[0] - x, nearest[1] - y)
        line = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
        axes.annotate("", (point.x, point.y), offset, textcoords="offset points", arrowprops=line, zorder=2.5)
    shift = ((box.left + box.right) / 2 - x, (box.bottom + box.top) / 2 - y)
    axes.annotate(
        point.name, (point.x, point.y), shift, textcoords="offset points", ha="center", va="center", size=SMALL,
        color=INK, weight="bold" if point.bold else "normal",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.85},
    )  # fmt: skip


def _in_points(axes: Axes, x: float, y: float) -> tuple[float, float]:
    across, up = axes.transData.transform((x, y))
    return float(across) * 72 / _dpi(axes), float(up) * 72 / _dpi(axes)


def _marker(axes: Axes, point: Point) -> Box:
    """The point with its interval."""
    x, low = _in_points(axes, point.x, point.low)
    _, high = _in_points(axes, point.x, point.high)
    return Box(x - DOT, low - DOT, x + DOT, high + DOT)


def _frame(axes: Axes) -> Box:
    left, bottom, right, top = (float(edge) * 72 / _dpi(axes) for edge in axes.get_window_extent().extents)
    return Box(left, bottom, right, top)


def _extent(axes: Axes, point: Point) -> tuple[float, float]:
    """Width and height of the name, with a little air."""
    figure = _figure(axes)
    probe = figure.text(0, 0, point.name, size=SMALL, weight="bold" if point.bold else "normal")
    box = probe.get_window_extent()
    probe.remove()
    return float(box.width) * 72 / figure.dpi + 3, float(box.height) * 72 / figure.dpi + 2


def _figure(axes: Axes) -> Figure:
    figure = axes.figure
    assert isinstance(figure, Figure)
    return figure


def _dpi(axes: Axes) -> float:
    return _figure(axes).dpi
