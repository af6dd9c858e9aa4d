"""Charts that only some runs have, against the records they draw: areas, steps and points by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation, Text

from memprof.errors import NothingToDoError
from memprof.record import History, Record
from memprof.report import charts, files
from memprof.report.agreement_chart import agreement_figure
from memprof.report.page.bars import waterfalls
from memprof.report.page.points import sweep_charts
from memprof.report.palette import LINES
from memprof.report.rows import featured, make_rows
from memprof.report.series import Pair, corners, phases, steps, verdict
from memprof.report.style import INK
from memprof.report.sweep_chart import NAME_WIDTH, sweep_figure
from memprof.report.sweeps import lines
from memprof.report.timeline_chart import timeline_figure
from memprof.report.waterfall_chart import waterfall_figure
from memprof.store import OCCASIONAL, RENDERED

GIB = 2**30
Make = Callable[..., Record]
HEAVY, LIGHT = (2, 2, 4, 1, 1), (3, 0, 1, 1, 1)


def words(figure: Figure) -> str:
    return " | ".join(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text))


def ranked(record: Make, *ranks: int, **fields: Any) -> list[Record]:
    """GaLore at several ranks: its state grows by a byte with each."""
    settings = ({"hyperparameters": {"rank": rank, "lr": 0.1}} for rank in ranks)
    return [record("galore", (2, 2, rank, 1, 1), unit=1, **each, **fields) for rank, each in zip(ranks, settings)]  # noqa: B905, E501


def test_the_store_knows_every_chart_that_it_has_to_clear() -> None:
    assert {Path(name).stem for name in OCCASIONAL} == charts.OCCASIONAL.keys()
    assert {Path(name).stem for name in RENDERED} >= charts.CHARTS.keys()


@pytest.mark.parametrize("name", list(charts.OCCASIONAL))
def test_a_chart_with_nothing_to_show_says_what_would_change_that(record: Make, name: str) -> None:
    with pytest.raises(NothingToDoError, match=r"run it again|add --"):
        charts.OCCASIONAL[name]([record("lora")])
    with pytest.raises(NothingToDoError):
        charts.OCCASIONAL[name]([])


def test_a_timeline_stacks_the_bytes_of_each_instant(record: Make) -> None:
    figure = timeline_figure([record("adamw", HEAVY, timeline=True)])
    (axes,) = figure.axes
    tops = {}
    for area in axes.collections:
        assert isinstance(area, PolyCollection)
        colour = to_hex(np.asarray(area.get_facecolor())[0])
        corners = np.asarray(area.get_paths()[0].vertices)
        tops[colour] = float(max(corners[corners[:, 0] == 310][:, 1]))
    expected = np.cumsum(HEAVY).tolist()
    assert [tops[colour] for colour in charts.PALETTE.values()] == expected
    assert "peak 10.00" in words(figure) and axes.get_xlim() == (0, 1000)


def test_phases_are_the_stretches_between_their_borders(record: Make) -> None:
    trace = record(timeline=True).trace
    assert trace and trace.timeline
    assert phases(trace.timeline) == [("forward", 0, 300), ("backward", 300, 800), ("optimizer", 800, 1000)]


def test_a_drawing_leaves_out_only_what_nobody_would_see() -> None:
    """A ramp of 101 instants with one step of a per cent and one of a tenth of it: the ends and the step remain."""
    ramp = [10_000 + 100 * instant for instant in range(101)]
    extra = [200 if instant == 40 else 20 if instant == 70 else 0 for instant in range(101)]
    zero = (0,) * 101
    made = History(
        events=100, event=tuple(range(101)), phase=("forward",) * 101, param=tuple(ramp), grad=zero,
        optimizer_state=zero, activation=zero, extra=tuple(extra),
    )  # fmt: skip
    assert corners(made) == [0, 39, 40, 41, 100]
    total = np.interp(made.event, [made.event[at] for at in corners(made)], [made.total[at] for at in corners(made)])
    assert np.abs(total - made.total).max() <= 0.005 * max(made.total)


def test_of_many_methods_a_chart_shows_adamw_and_those_that_save_most(record: Make) -> None:
    others = [record(f"m{index}", (2, 2, index, 1, 1), timeline=True) for index in range(20)]
    records = [*others[:10], record("adamw", (2, 2, 40, 1, 1), timeline=True), *others[10:]]
    shown = [row.label for row in featured(make_rows(records))]
    assert shown == [*(f"m{index}" for index in range(7)), "adamw"]
    assert "AdamW and the lightest of 21 cells." in words(timeline_figure(records))


@pytest.mark.parametrize("by", [None, "trace", "formula"])
def test_a_waterfalls_bars_sum_to_the_difference_of_the_peaks(record: Make, by: str | None) -> None:
    records = [record("adamw", HEAVY, formula_off=12345), record("soap", (3, 2, 9, 0, 1), formula_off=7, unit=GIB - 1)]
    row = make_rows(records, by=by)[1]
    assert row.change is not None and row.baseline is not None and row.saving_by is not None
    theirs = getattr(row.baseline, row.saving_by).peak
    assert sum(row.change.values()) == sum(change for _, change in steps(row)) == (row.peak or 0) - theirs


def test_a_waterfall_goes_from_one_peak_to_the_other(record: Make) -> None:
    """By hand: 10 GiB, state -3, gradients -2, parameters +1, 6 GiB."""
    figure = waterfall_figure([record("adamw", HEAVY), record("lora", LIGHT)])
    boxes = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert [(box.get_x(), box.get_width()) for box in boxes] == [(0, 10), (7, 3), (5, 2), (5, 1), (0, 6)]
    assert all(text in words(figure) for text in ("10.00", "-3.00", "-2.00", "+1.00", "6.00", "optimizer state"))


def test_a_waterfall_of_those_that_save_most_begins_with_the_first(record: Make) -> None:
    """Nine methods at two batch sizes, of which there is room for seven; each below the AdamW of its own batch."""
    records = [record("adamw", (2, 2, 40, 1, 1), batch_size=batch) for batch in (1, 4)]
    records += [record(f"m{index}", (2, 2, 9 - index, 1, 1), batch_size=4) for index in range(9)]
    figure = waterfall_figure(records)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [f"m{index} batch_size=4" for index in (8, 7, 6, 5, 4, 3, 2)]
    assert figure.axes[0].get_yticklabels()[0].get_text() == "adamw batch_size=4"
    assert waterfalls(make_rows(records), "GiB")[0].bars[0].name == "adamw batch_size=4"


def test_the_drawn_peak_is_as_high_as_it_says(record: Make) -> None:
    """The temporaries of an instant have an edge, and the outline ends where the figure does."""
    (axes,) = timeline_figure([record("adamw", HEAVY, timeline=True)]).axes
    outline = max((np.asarray(line.get_xydata()) for line in axes.lines), key=len)
    assert outline[:, 1].max() == 10.0
    tops = [bar for bar in axes.patches if isinstance(bar, Rectangle) and bar.get_y() + bar.get_height() == 10.0]
    assert [to_hex(bar.get_facecolor()) for bar in tops] == [charts.PALETTE["extra"]] and tops[0].get_linewidth() > 0


def test_a_sweep_draws_each_methods_peak_by_value(record: Make) -> None:
    records = [*ranked(record, 64, 8, 16), record("adamw", (2, 2, 400, 1, 1), unit=1)]
    galore, adamw = lines(make_rows(records), "rank")
    assert galore.points == ((8, 14), (16, 22), (64, 70)) and galore.name == "galore"
    assert len(adamw.points) == 1
    assert "peak memory against rank" in words(sweep_figure(records, unit="B"))


def test_a_sweep_of_two_quantities_has_a_panel_for_each(record: Make) -> None:
    records = [*ranked(record, 8, 16), *ranked(record, 8, 16, batch_size=1)]
    figure = sweep_figure(records, unit="B")
    assert [axes.get_xlabel() for axes in figure.axes] == ["rank", "batch size"]
    names = {line.name for line in lines(make_rows(records), "batch_size")}
    assert names == {"galore rank=8", "galore rank=16"}


def swept(record: Make, models: tuple[str, ...] = ("1b",)) -> list[Record]:
    """Two methods by rank and batch size beside AdamW, which has no rank."""
    sizes, made = ((4, 2), (16, 8)), []
    for model, (batch, activation) in product(models, sizes):
        at: dict[str, Any] = {"model": model, "batch_size": batch}
        made.append(record("adamw", (2, 2, 90, activation, 1), unit=1, **at))
        pairs = product(("galore", "adamw-8bit"), (8, 16))
        made += [record(name, (2, len(name), rank, activation, 1), unit=1, hyperparameters={"rank": rank}, **at)
                 for name, rank in pairs]  # fmt: skip
    return made


def test_a_method_has_one_colour_in_every_panel(record: Make) -> None:
    """And a batch size one pattern; AdamW is dashed ink, its 8-bit form a method like others. The page does alike."""
    figure = sweep_figure(swept(record), unit="B")
    seen: dict[str, set[str]] = {}
    for axes in figure.axes:
        for text in (text for text in axes.texts if isinstance(text, Annotation)):
            assert text.arrow_patch is not None
            seen.setdefault(text.get_text().split()[0], set()).add(to_hex(text.arrow_patch.get_edgecolor()))
    assert seen == {"adamw": {INK}, "galore": {LINES[0]}, "adamw-8bit": {LINES[1]}}
    assert all(line.is_dashed() for axes in figure.axes for line in axes.lines if line.get_color() == INK)
    looks = {(curve.name.split()[0].strip(":"), curve.look.split()[0])
             for chart in sweep_charts(make_rows(swept(record)), "B") for curve in chart.curves}  # fmt: skip
    assert looks == {("adamw", "adamw"), ("galore", "line0"), ("adamw-8bit", "line1")}


def test_no_leader_strikes_through_a_name(record: Make) -> None:
    figure = sweep_figure(swept(record), unit="B")
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    figure.draw(renderer)
    for axes in figure.axes:
        named = [text for text in axes.texts if isinstance(text, Annotation) and text.arrow_patch]
        left = min(Text.get_window_extent(text, renderer).x0 for text in named)
        assert named and all(text.arrow_patch.get_window_extent(renderer).x1 <= left + 1 for text in named)  # type: ignore[union-attr]


def test_panels_of_one_model_say_in_what_they_differ(record: Make) -> None:
    figure = sweep_figure(swept(record, ("60m", "1b")), unit="B")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["60m, by rank", "60m, by batch size", "1b, by rank", "1b, by batch size"]
    assert [chart.title for chart in sweep_charts(make_rows(swept(record, ("60m", "1b"))), "B")] == titles


def test_settings_that_differ_make_two_lines(record: Make) -> None:
    """Else a line would zigzag between both."""
    gaps = [{"rank": rank, "update_gap": gap} for rank in (8, 16) for gap in (50, 200)]
    records = [record("galore", (2, each["update_gap"], 1, 1, 1), hyperparameters=each) for each in gaps]
    assert sorted(len(line.points) for line in lines(make_rows(records), "rank")) == [2, 2]


def test_names_of_many_settings_leave_the_panel_its_room(record: Make) -> None:
    """Lines that differ in everything: a name may take no more than its column, however long it is."""
    settings: dict[str, Any] = {"checkpointing": True, "loss_chunks": 8, "clip_grad_norm": 1.0, "dtype": "fp32"}
    records = [record(seq_len=length, **each) for length in (128, 256) for each in ({}, settings)]
    figure = sweep_figure(records)
    (panel,) = figure.axes
    assert panel.get_position().width > 0.4
    assert all(len(line) <= NAME_WIDTH for text in panel.texts for line in text.get_text().splitlines())
    assert any("clip_grad_norm=1.0" in text.get_text() and "dtype=fp32" in text.get_text() for text in panel.texts)


def test_agreement_counts_what_is_equal_to_the_byte() -> None:
    equal, off = Pair("lora", "grad", 10, 10), Pair("lora", "peak", 101, 100)
    assert verdict([equal]) == "1 of 1 figure equal to the byte."
    assert verdict([equal, off]) == "1 of 2 figures equal to the byte; furthest off: peak of lora, +1.00 %."
    tiny = Pair("lora", "peak", 10**9 - 12, 10**9)
    assert verdict([tiny, equal]).endswith("peak of lora, -12 bytes.")


def test_agreement_points_are_prediction_and_measurement(record: Make) -> None:
    (axes,) = agreement_figure([record(speed=2.0), record("lora")]).axes
    points = {tuple(np.asarray(line.get_xydata())[0].tolist()) for line in axes.lines if len(line.get_xydata()) == 1}  # type: ignore[arg-type]
    assert points == {(float(size), float(size)) for size in (2, 4, 1, 10)}
    assert all(math.isclose(*point) for line in axes.lines for point in np.asarray(line.get_xydata()))
    (axes,) = agreement_figure([record(speed=2.0, reserved=12 * GIB)]).axes
    assert (12.0, 12.0) in {tuple(np.asarray(line.get_xydata())[0].tolist()) for line in axes.lines}


def test_agreement_names_what_is_reserved() -> None:
    assert "furthest off: reserved of lora, +50.00 %" in verdict([Pair("lora", "reserved", 3, 2)])


def test_files_hold_the_charts_that_the_run_has_and_no_older_ones(record: Make, tmp_path: Path) -> None:
    records = [record("adamw", HEAVY, timeline=True), record("lora", LIGHT, timeline=True)]
    names = {path.name for path in files.write(tmp_path, records)}
    assert {"timeline.png", "waterfall.svg", "memory.png"} <= names and "sweep.png" not in names
    assert {path.name for path in files.write(tmp_path, [record("lora")])} == {path.name for path in tmp_path.iterdir()}
    assert not (tmp_path / "timeline.png").exists()
