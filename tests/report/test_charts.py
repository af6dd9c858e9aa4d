"""Charts against the records they draw: lengths against bytes, names against each other, files against themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from memprof.errors import NothingToDoError
from memprof.record import Record
from memprof.report import charts
from memprof.report.palette import DARK
from memprof.report.place import Box, Point, place
from memprof.report.sweep_chart import sweep_figure
from memprof.report.waterfall_chart import waterfall_figure
from memprof.timeline import CATEGORIES

GIB = 2**30
MIB = 2**20
Make = Callable[..., Record]


def bars(axes: Axes) -> list[dict[str, float]]:
    """Every stack from the top down: category to length."""
    stacks: dict[float, dict[str, float]] = {}
    names = {colour: category for category, colour in charts.PALETTE.items()}
    for patch in axes.patches:
        assert isinstance(patch, Rectangle)
        category = names[to_hex(patch.get_facecolor())]
        stacks.setdefault(patch.get_y(), {})[category] = patch.get_width()
    return [stacks[y] for y in sorted(stacks)]


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text) and text.get_visible()]


def paint(figure: Figure) -> FigureCanvasAgg:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return canvas


def drawn(figure: Figure) -> Iterator[tuple[str, Box]]:
    """Visible texts with the room they take, in pixels."""
    renderer = paint(figure).get_renderer()  # type: ignore[no-untyped-call]
    beyond = [label for axes in figure.axes for label in ticks_beyond(axes)]
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if text.get_text().strip() and text.get_visible() and text not in beyond:
            box = text.get_window_extent(renderer)
            yield text.get_text(), Box(box.x0 + 1, box.y0 + 1, box.x1 - 1, box.y1 - 1)


def ticks_beyond(axes: Axes) -> list[Text]:
    """Labels of ticks outside the axis: matplotlib keeps them and never paints them."""
    pairs = [(tick, axis) for axis in (axes.xaxis, axes.yaxis) for tick in axis.get_major_ticks()]
    return [tick.label1 for tick, axis in pairs if not _inside(tick.get_loc(), *sorted(axis.get_view_interval()))]


def _inside(value: float, low: float, high: float) -> bool:
    return low <= value <= high


def many(record: Make, measured: bool) -> list[Record]:
    """Thirty methods, many of them nearly alike, one with a long name."""
    names = ["adamw", *(f"method_{number}" for number in range(28)), "a_method_with_a_very_long_name rank=1024"]
    sizes = [(2560, 2560, 5120 >> number % 4, 2900, 640 + number) for number in range(30)]
    speeds = [20.0 + number % 3 * 3 + number / 50 if measured else None for number in range(30)]
    same = {"hyperparameters": {"lr": 0.1}, "timeline": True}
    pairs = zip(names, sizes, speeds, strict=True)
    return [record(name, size, unit=MIB, speed=speed, **same) for name, size, speed in pairs]


def test_bar_lengths_are_the_records_bytes(record: Make) -> None:
    records = [record("adamw", (2, 3, 4, 1, 1), formula_off=GIB), record("lora", (2, 0, 0, 2, 1), trace=False)]
    figure = charts.memory_figure(records)
    witnesses = [records[0].formula, records[0].trace, records[1].formula]
    expected = [memory.peak_by_category for memory in witnesses if memory]
    stacks = bars(figure.axes[0])
    assert [{name: round(length * GIB) for name, length in stack.items()} for stack in stacks] == expected


def test_totals_are_written_beside_the_bars(record: Make) -> None:
    said = words(charts.memory_figure([record("adamw", (2, 3, 4, 1, 1), formula_off=GIB)], unit="MiB"))
    assert "11264.00" in said and "12288.00" in said
    assert [said.count(name) for name in ("formula", "trace", "measured")] == [1, 1, 0]


def test_witnesses_that_agree_to_the_byte_share_a_bar(record: Make) -> None:
    same, apart = record("adamw"), record("lora", (2, 0, 0, 2, 1), formula_off=GIB)
    said = words(charts.memory_figure([same]))
    assert len(bars(charts.memory_figure([same]).axes[0])) == 1 and "trace" not in said
    assert any(text.endswith("formula and trace agree to the byte in every bar") for text in said)
    figure = charts.memory_figure([same, apart])
    assert len(bars(figure.axes[0])) == 3
    assert [label.get_text() for label in figure.axes[0].get_yticklabels(minor=True)] == [
        "formula = trace",
        "formula",
        "trace",
    ]


def test_the_legend_names_what_is_to_be_seen(record: Make) -> None:
    """No gradients at the peak, four bytes of activations: neither has a colour that anybody could find."""
    sizes = (2 * GIB, 0, 4 * GIB, 4, GIB)
    (legend,) = charts.memory_figure([record("adamw", sizes, unit=1)]).legends
    assert [text.get_text() for text in legend.get_texts()] == ["parameters", "optimizer state", "extra (temporaries)"]


def test_one_witness_is_drawn_when_one_is_asked_for(record: Make) -> None:
    figure = charts.memory_figure([record(speed=1.0), record("lora")], by="trace")
    assert len(bars(figure.axes[0])) == 2
    assert any(text.endswith("by trace") for text in words(figure))


def test_a_paper_s_sum_is_no_instant_in_any_chart(record: Make) -> None:
    """By hand: sums of 2 and 1 GiB; the traced 10 and 5 GiB stay away unless asked for."""
    first, second = {"rank": 4}, {"rank": 8}
    records = [record(summed=(1, 0, 1, 0, 0)), *(record("lora", (2, 0, 0, 2, 1), summed=(1, 0, 0, 0, 0), speed=1.0,
               hyperparameters=each) for each in (first, second))]  # fmt: skip
    figures = [draw(records) for draw in (charts.memory_figure, charts.tradeoff_figure, waterfall_figure, sweep_figure)]
    said = [" ".join(words(figure)) for figure in (*figures, charts.tradeoff_figure(records[:1]))]
    assert all("instant" not in text and "eak" not in text for text in said), said
    assert "2.00" in said[0] and "10.00" not in said[0]
    assert "10.00" in words(charts.memory_figure(records, by="trace"))


def test_a_chart_carries_its_scenario(record: Make) -> None:
    for draw in charts.CHARTS.values():
        said = " ".join(words(draw([record(speed=1.0), record("lora", speed=2.0)], note="on an H200")))
        for part in ("1b", "batch 8, seq 256, bf16, cuda-flash kernels", "GiB", "on an H200", "adamw", "lora"):
            assert part in said


def test_failed_cells_are_named_with_their_reason(record: Make) -> None:
    failed = record("dora", formula=False, trace=False, status="oom", reason="tried to get $2 and $3")
    assert "oom: tried to get $2 and $3" in words(charts.memory_figure([record(), failed]))
    assert "Not shown: dora (oom)." in words(charts.tradeoff_figure([record(), failed]))


def test_palette_covers_the_categories_and_lightens_in_order() -> None:
    """Neighbours differ by at least 10 points of relative lightness (CIE L*), so a grey print can be read."""
    assert tuple(charts.PALETTE) == CATEGORIES
    for colours in (charts.PALETTE, DARK):
        lightness = [_lightness(colour) for colour in colours.values()]
        assert all(after - before >= 10 for before, after in pairwise(lightness)), lightness


def _lightness(colour: str) -> float:
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return float(116 * luminance ** (1 / 3) - 16)


def test_tradeoff_points_are_peak_and_throughput(record: Make) -> None:
    records = [record("adamw", (2, 2, 4, 1, 1), speed=20.0), record("lora", (2, 0, 0, 2, 1), speed=30.0)]
    axes = charts.tradeoff_figure(records).axes[0]
    marks = [np.asarray(line.get_xydata()) for line in axes.lines if str(line.get_marker()) in "Do"]
    points = {(float(mark[0][0]), float(mark[0][1])) for mark in marks}
    assert points == {(10.0, 20.0), (5.0, 30.0)}


def test_the_front_joins_what_nothing_else_beats(record: Make) -> None:
    """By hand: of (5, 20), (6, 30), (7, 25), (9, 40) GiB and examples/s only the third is beaten."""
    sizes = ((1, 1, 1, 1, 1), (2, 1, 1, 1, 1), (3, 1, 1, 1, 1), (5, 1, 1, 1, 1))
    speeds = (20.0, 30.0, 25.0, 40.0)
    records = [record(f"m{index}", sizes[index], speed=speeds[index]) for index in range(4)]
    stairs = [line for line in charts.tradeoff_figure(records).axes[0].lines if line.get_drawstyle() == "steps-post"]
    assert [np.asarray(line.get_xydata()).tolist() for line in stairs] == [[[5.0, 20.0], [6.0, 30.0], [9.0, 40.0]]]


def test_nothing_measured_gives_savings_ranked(record: Make) -> None:
    records = [record("adamw", (2, 2, 4, 1, 1)), record("soap", (2, 2, 8, 1, 2)), record("lora", (2, 0, 0, 2, 1))]
    figure = charts.tradeoff_figure(records)
    said = words(figure)
    assert "50.0 % less" in said and "50.0 % more" in said
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["lora", "adamw", "soap"]


def test_every_model_has_a_panel_of_its_own(record: Make) -> None:
    records = [record(model="60m"), record("lora", model="60m"), record(), record("lora")]
    for draw in charts.CHARTS.values():
        assert [axes.get_title(loc="left") for axes in draw(records).axes] == ["60m", "1b"]


@pytest.mark.parametrize("measured", [True, False])
def test_every_batch_size_has_its_own_adamw(record: Make, measured: bool) -> None:
    """AdamW needs 10 GiB at a batch of 4 and 20 at one of 16: LoRA's 16 there are less, not more."""
    sizes = {4: ((2, 2, 4, 1, 1), (2, 0, 0, 2, 1)), 16: ((2, 2, 4, 11, 1), (2, 0, 0, 13, 1))}
    records = [
        record(name, size, batch_size=batch, speed=1.0 + batch if measured else None)
        for batch, pair in sizes.items()
        for name, size in zip(("adamw", "lora"), pair, strict=True)
    ]
    panels = charts.tradeoff_figure(records).axes
    assert [axes.get_title(loc="left") for axes in panels] == ["batch_size=4", "batch_size=16"]
    ends = [[np.asarray(line.get_xydata()).tolist() for line in axes.lines] for axes in panels]
    upright = [
        {each[0][0] for each in lines if len(each) == 2 and each[0][1] == 0 and each[1][1] == 1} for lines in ends
    ]
    assert upright == [{10.0}, {20.0}]


DRAWN = charts.CHARTS | charts.OCCASIONAL


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("name", [name for name in DRAWN if name != "sweep"])
def test_no_text_covers_another_or_leaves_the_page(record: Make, name: str, measured: bool) -> None:
    records = many(record, measured or name == "agreement")
    figure = DRAWN[name](records)
    texts = list(drawn(figure))
    width, height = figure.get_size_inches() * figure.dpi
    page = Box(0, 0, width, height)
    assert not [text for text, box in texts if not box.within(page)]
    assert not [(one, other) for (one, a), (other, b) in combinations(texts, 2) if a.meets(b)]


def test_a_long_name_stands_beside_its_phases(record: Make) -> None:
    named = {"hyperparameters": {"inner": "adamw-8bit", "per_layer": True}, "given": ["inner", "per_layer"]}
    figure = DRAWN["timeline"](
        [record("adamw", timeline=True), record("galore", (2, 2, 1, 1, 1), timeline=True, **named)]
    )
    texts = list(drawn(figure))
    assert [text for text, _ in texts].count("backward") == 2
    assert not [(one, other) for (one, a), (other, b) in combinations(texts, 2) if a.meets(b)]


def test_names_stay_off_markers_and_each_other() -> None:
    axes = Figure(figsize=(8, 5)).add_subplot()
    points = [Point(1 + number / 1000, 1, f"method_{number}", 0.99, 1.01) for number in range(12)]
    boxes = place(axes, points)
    assert not any(one.meets(other) for one, other in combinations(boxes, 2))


def test_no_name_of_a_sweep_covers_another(record: Make) -> None:
    settings = [{"rank": rank} for rank in (8, 512)]
    sizes = [(2, 2, 2, 1, 1 + number // 5) for number in range(12)]
    named = [(f"method_{number}", size, each) for number, size in enumerate(sizes) for each in settings]
    texts = list(drawn(DRAWN["sweep"]([record(name, size, hyperparameters=each) for name, size, each in named])))
    assert not [(one, other) for (one, a), (other, b) in combinations(texts, 2) if a.meets(b)]


@pytest.mark.parametrize("ending", ["svg", "png"])
@pytest.mark.parametrize("name", [name for name in DRAWN if name != "sweep"])
def test_same_records_give_the_same_bytes(record: Make, tmp_path: Path, name: str, ending: str) -> None:
    records = [record(speed=2.0, timeline=True), record("lora", (2, 0, 0, 2, 1), speed=3.0, timeline=True)]
    first, second = (tmp_path / f"{turn}.{ending}" for turn in "ab")
    charts.save(DRAWN[name](records), first)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 10}):
        charts.save(DRAWN[name](records), second)
    assert first.read_bytes() == second.read_bytes()


def test_drawing_leaves_the_readers_settings_alone(record: Make) -> None:
    before = dict(matplotlib.rcParams)
    charts.memory_figure([record()])
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", list(charts.CHARTS))
def test_charts_of_next_to_nothing(record: Make, name: str) -> None:
    with pytest.raises(NothingToDoError):
        charts.CHARTS[name]([])
    failed = record(formula=False, trace=False, status="crashed")
    paint(charts.CHARTS[name]([failed]))
    paint(charts.CHARTS[name]([record(sizes=(0, 0, 0, 0, 0))]))
