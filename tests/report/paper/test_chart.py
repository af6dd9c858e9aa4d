"""The chart's dots, names and bars. Oracle: the results that they are drawn from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from memprof.papers.read import read_paper
from memprof.papers.result import Reproduction
from memprof.report.paper.chart import paper_figure
from memprof.reproduce.run import reproduce
from memprof.units import UNITS


def dots(axes: Axes) -> list[Line2D]:
    return [line for line in axes.get_lines() if line.get_marker() in ("o", "D", "^")]


def place_of(dot: Line2D) -> tuple[float, float]:
    return float(np.asarray(dot.get_xdata())[0]), float(np.asarray(dot.get_ydata())[0])


def named(axes: Axes) -> set[str]:
    return {text.get_text() for text in axes.texts} - {""}


def test_a_dot_for_each_witness_of_a_published_size(found: Reproduction) -> None:
    measured = replace(found.results[0], measured=40.0)
    (axes,) = paper_figure(replace(found, results=(measured, *found.results[1:]))).axes
    drawn = dots(axes)
    assert sorted(str(dot.get_marker()) for dot in drawn) == ["D", "D", "^", "o", "o"]
    filled = {str(dot.get_marker()) for dot in drawn if to_rgba(str(dot.get_markerfacecolor()))[3]}
    assert filled == {"o"}
    x, y = next(place_of(dot) for dot in drawn if dot.get_marker() == "^")
    assert (x, y) == pytest.approx((17.99 * UNITS["MB"] / UNITS["GiB"], 40 / 17.99))
    low, high = axes.get_ylim()
    assert all(low < place_of(dot)[1] < high for dot in drawn) and low < 1 < high


def test_limits_and_derived_cells_are_no_points(found: Reproduction) -> None:
    full, apart, _ = found.results
    left = (replace(full, published="< 24"), replace(apart, origin="derived"))
    figure = paper_figure(replace(found, results=left))
    assert not figure.axes
    assert "No size is printed or stated here." in [text.get_text() for text in figure.texts]


def test_far_points_are_named_by_column_or_by_a_single_row(found: Reproduction) -> None:
    full, apart, _ = found.results
    one = replace(found, results=(replace(full, stored=60.0), apart))
    assert named(paper_figure(one).axes[0]) == {"Full"}
    both = replace(found, results=(replace(full, stored=60.0), replace(apart, stored=60.0)))
    assert named(paper_figure(both).axes[0]) == {"Param"}
    assert named(paper_figure(found).axes[0]) == set()


def test_the_legend_lies_within_the_page(found: Reproduction) -> None:
    figure = paper_figure(replace(found, results=(replace(found.results[0], measured=40.0),)))
    figure.canvas.draw()
    (legend,) = figure.legends
    box, page = legend.get_window_extent(), figure.bbox
    assert page.x0 <= box.x0 and box.x1 <= page.x1
    assert box.y0 > figure.axes[0].get_window_extent().y1
    assert len(legend.get_texts()) == 4


def test_bars_stack_the_columns_that_a_table_names_and_say_by_which_witness() -> None:
    found = reproduce(read_paper("galore-mini"), ["figure-1"], tracing=False)
    axes = paper_figure(found).axes[-1]
    totals = [patch.get_x() + patch.get_width() for patch in axes.patches[4:] if isinstance(patch, Rectangle)]
    both = [each.ours for each in found.results if each.column == "Weights and OS"]
    assert totals == pytest.approx(both)
    assert axes.get_title(loc="left").endswith(", by formula")
    traced = replace(found, results=tuple(replace(each, stored=each.ours) for each in found.results))
    assert paper_figure(traced).axes[-1].get_title(loc="left").endswith(", by trace")
