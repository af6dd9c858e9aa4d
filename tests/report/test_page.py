"""The page as text: what it holds, that nothing in it can become markup, and that its shapes are the records' bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from memprof.errors import NothingToDoError
from memprof.record import Record
from memprof.report import charts
from memprof.report.page import html
from memprof.report.page.bars import stacks, waterfalls
from memprof.report.page.points import agreement_chart, speed_charts, sweep_charts
from memprof.report.page.render import answer
from memprof.report.page.timeline import SIDE, plots, round_values
from memprof.report.rows import make_rows

GIB = 2**30
Make = Callable[..., Record]
HEAVY, LIGHT = (2, 2, 4, 1, 1), (3, 0, 1, 1, 1)
HOSTILE = "</script><script>alert(1)</script><img src=//evil.example/x onerror=alert(2)> & \"'"


class Reader(HTMLParser):
    """Elements with their attributes, and the text of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str | None, str] = {}
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.elements[-1] if self.elements else ("", {})
        if tag == "script":
            self.scripts[attributes.get("id")] = self.scripts.get(attributes.get("id"), "") + data
        self.text.append(data)


def read(records: list[Record], **options: Any) -> Reader:
    reader = Reader()
    reader.feed(html(records, environment={"torch": "2.13"}, **options))
    return reader


@pytest.fixture
def pair(record: Make) -> list[Record]:
    return [record("adamw", HEAVY, timeline=True, speed=2.0), record("lora", LIGHT, timeline=True, speed=3.0)]


def test_a_page_asks_for_nothing(pair: list[Record]) -> None:
    """No element has a source or a target outside, and the policy inside forbids what might be added."""
    page = read(pair)
    places = [value for _, attributes in page.elements for name, value in attributes.items() if name in ("src", "href")]
    assert all(place and place.startswith(("#", "data:")) for place in places), places
    policy = next(known["content"] for tag, known in page.elements if known.get("http-equiv"))
    assert policy and policy.startswith("default-src 'none'")
    whole = html(pair, environment={})
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", whole)


def test_names_are_text_wherever_they_stand(record: Make) -> None:
    failed = record(HOSTILE, formula=False, trace=False, status="oom", reason=HOSTILE, model=HOSTILE)
    records = [record(model=HOSTILE, timeline=True), record(HOSTILE, LIGHT, model=HOSTILE, timeline=True), failed]
    page = read(records, note=HOSTILE, commands=[HOSTILE])
    assert [known.get("id") for tag, known in page.elements if tag == "script"] == ["data", "records", None]
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert not [name for _, known in page.elements for name in known if name.startswith("on")]
    assert [each["scenario"]["method"] for each in json.loads(page.scripts["records"])] == ["adamw", HOSTILE, HOSTILE]


def test_the_data_are_the_records(pair: list[Record]) -> None:
    page = read(pair)
    kept = json.loads(page.scripts["records"])
    assert [Record.from_dict(each).trace.peak for each in kept] == [10 * GIB, 6 * GIB]  # type: ignore[union-attr]
    timelines = json.loads(page.scripts["data"])["timelines"]
    for record in pair:
        assert record.trace and record.trace.timeline
        assert timelines[record.id]["activation"] == list(record.trace.timeline.activation)


def test_a_paper_s_sum_is_not_told_as_a_peak(record: Make) -> None:
    counted = [record("lora", (2, 0, 0, 2, 1), summed=(1, 0, 0, 0, 0), speed=1.0, hyperparameters={"rank": rank})
               for rank in (4, 8)]  # fmt: skip
    page = html([record(summed=(1, 0, 1, 0, 0)), *counted], environment={})
    body = page.partition("<main>")[2].partition('<section id="agreement">')[0]
    assert "From AdamW&#39;s sum" in body or "From AdamW's sum" in body
    assert "1.00 GiB in sum, 50.0 % below AdamW" in page and "a sum over categories" in body
    assert "eak" not in body and "worst" not in body
    mixed = html([record(), *counted], environment={})
    assert "Lightest" not in mixed, "a sum is not set against a peak"


def test_cells_tell_their_bytes_and_sort_by_them(pair: list[Record]) -> None:
    page = read(pair)
    cells = [known for tag, known in page.elements if tag == "td"]
    peaks = [known for known in cells if known.get("data-tip") == f"{10 * GIB:,} bytes"]
    assert [known["data-order"] for known in peaks] == [str(10 * GIB)]
    assert {"none", None} & {known.get("data-order") for known in cells}


def test_what_is_read_first_stands_first(pair: list[Record]) -> None:
    page = html(pair, environment={}, fits=24 * GIB)
    headers = re.findall(r'<button type="button">([^<]+)<span class="arrow"', page)
    assert headers[:5] == ["Method", "Peak", "vs AdamW", "Fits 24 GiB", "Examples/s"]
    assert headers[5:9] == ["Param", "Grad", "OS", "Act"]
    assert "Lightest: lora, 6.00 GiB at its peak, 40.0 % below AdamW" in page


def test_each_batch_size_has_its_lightest(record: Make) -> None:
    """By hand: LoRA's 6 of 10 GiB at one, AdamW-8bit's 14 of 20 at the other."""
    four = [record("adamw", HEAVY, batch_size=4), record("lora", LIGHT, batch_size=4)]
    sixteen = [record("adamw", (4, 4, 8, 2, 2), batch_size=16), record("adamw-8bit", (4, 4, 2, 2, 2), batch_size=16)]
    records = [*four, *sixteen]
    assert answer(make_rows(records), "GiB") == (
        "Lightest at batch_size=4: lora, 6.00 GiB at its peak, 40.0 % below AdamW's. "
        "Lightest at batch_size=16: adamw-8bit, 14.00 GiB at its peak, 30.0 % below AdamW's."
    )
    timed = [record("adamw", HEAVY, batch_size=batch, speed=1.0) for batch in (4, 16)]
    assert [chart.title for chart in speed_charts(make_rows(timed), "GiB")] == ["batch_size=4", "batch_size=16"]


def test_what_no_rank_changes_has_a_point_at_none(record: Make) -> None:
    swept = [record("galore", (2, 2, 1, rank, 0), hyperparameters={"rank": rank}) for rank in (8, 16)]
    (chart,) = sweep_charts(make_rows([record("adamw", HEAVY), *swept]), "GiB")
    assert len(chart.dots) == 2 and not any("adamw" in dot.tip for dot in chart.dots)
    assert [curve.name for curve in chart.curves] == ["adamw: 10.00 GiB at any rank", "galore"]
    drawn = [
        known["class"]
        for tag, known in read([record(), *swept]).elements
        if tag == "path" and "curve" in (known.get("class") or "")
    ]  # noqa: E501
    assert drawn[:2] == drawn[2:] == [f"curve {curve.look}" for curve in chart.curves], "the legend looks alike"


def test_a_page_of_failures_alone_has_their_reasons(record: Make) -> None:
    failed = record(formula=False, trace=False, status="crashed", reason="no luck")
    page = html([failed], environment={})
    assert "crashed: no luck" in page and "Through one training step" not in page
    with pytest.raises(NothingToDoError):
        html([], environment={})


@pytest.mark.parametrize("rank", [0, -8, None, "x", 2**62, True])
def test_a_stored_scenario_may_say_anything(record: Make, rank: object) -> None:
    """A run may have been written by hand: what is no quantity is no point of a sweep, and no error."""
    ranks = ({"rank": each} for each in (8, 16, rank))
    records = [record("galore", LIGHT, hyperparameters=each, given=7, batch_size=[rank]) for each in ranks]
    assert "galore" in html(records, environment={})
    charts.OCCASIONAL["sweep"](records)


def test_two_shapes_of_one_name_are_no_sweep(record: Make) -> None:
    """Two config.json of one file name: the same method and rank with two peaks."""
    shapes = [{"hidden_size": size} for size in (64, 128)]
    records = [record("galore", (size, 2, 1, 1, 1), hyperparameters={"rank": 8}, shape=each, speed=0.0)
               for size, each in zip((1, 2), shapes, strict=True)]  # fmt: skip
    page = html(records, environment={})
    assert "Memory against what was swept" not in page and "Memory against speed" in page


def test_the_same_records_make_the_same_page(pair: list[Record]) -> None:
    assert html(pair, environment={"torch": "2"}) == html(pair, environment={"torch": "2"})


def test_bars_are_the_categories_shares_of_the_heaviest_peak(pair: list[Record]) -> None:
    heavy, light = stacks(make_rows(pair), "GiB")
    assert [(piece.look, piece.start, piece.width) for piece in heavy.pieces] == [
        ("param", 0, 20), ("grad", 20, 20), ("optimizer_state", 40, 40), ("activation", 80, 10), ("extra", 90, 10),
    ]  # fmt: skip
    assert sum(piece.width for piece in light.pieces) == pytest.approx(60)
    assert f"together {6 * GIB:,} bytes" in light.tip and light.text == "6.00"


def test_a_waterfall_starts_where_the_last_step_ended(pair: list[Record]) -> None:
    (fall,) = waterfalls(make_rows(pair), "GiB")
    spans = [(bar.pieces[0].start, bar.pieces[0].start + bar.pieces[0].width) for bar in fall.bars]
    assert spans == [(0, 100), (70, 100), (50, 70), (50, 60), (0, 60)]


def test_areas_stack_to_the_peak(pair: list[Record]) -> None:
    first, second = plots(make_rows(pair), "GiB")
    assert [area.look for area in first.areas] == ["extra", "activation", "optimizer_state", "grad", "param"]
    heights = [float(y) for _, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", first.areas[0].path)]
    assert min(heights) == pytest.approx(SIDE - SIDE / 1.12, abs=0.1), "the peak of the heaviest, below some headroom"
    assert first.peak.top == pytest.approx(100 - 100 / 1.12) and first.peak_at == 0.31
    assert "grad" not in [area.look for area in second.areas], "what is nowhere has no area"


def test_adamw_stands_above_another_method(record: Make) -> None:
    records = [record(name, timeline=True, batch_size=size) for size in (1, 2) for name in ("lora", "adamw")]
    names = [plot.name for plot in plots(make_rows(records), "GiB")]
    assert names == ["adamw batch_size=1", "lora batch_size=1", "lora batch_size=2", "adamw batch_size=2"]


@pytest.mark.parametrize(
    ("highest", "values"),
    [(12.3, [0, 5, 10]), (1.0, [0, 0.5, 1]), (0.17, [0, 0.05, 0.1, 0.15]), (0, [0]), (96, [0, 20, 40, 60, 80])],
)
def test_ticks_are_round_and_few(highest: float, values: list[float]) -> None:
    assert round_values(highest) == values


def test_points_lie_where_their_figures_say(pair: list[Record], record: Make) -> None:
    rows = make_rows(pair)
    (chart,) = speed_charts(rows, "GiB")
    assert [dot.x for dot in chart.dots] == pytest.approx([100 / 1.1, 60 / 1.1])
    assert [dot.y for dot in chart.dots] == pytest.approx([100 - 100 * speed / (3.0 * 1.03 * 1.08) for speed in (2, 3)])
    assert [dot.name for dot in chart.dots] == ["adamw", "lora"] and "hollow" in chart.dots[0].look
    found = agreement_chart(rows, "GiB")
    assert found and all(dot.x == pytest.approx(100 - dot.y) for dot in found.dots)
    swept = [record("galore", (2, 2, 4, rank, 0), hyperparameters={"rank": rank}) for rank in (8, 16, 32)]
    (sweep,) = sweep_charts(make_rows(swept), "GiB")
    assert [dot.x for dot in sweep.dots] == pytest.approx([4, 50, 96]), "ranks doubled lie equally far apart"
