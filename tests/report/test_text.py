"""Markdown and CSV, read back by their own rules."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable

from memprof.record import Interval, Record
from memprof.report import text
from memprof.report.columns import choose
from memprof.report.rows import make_rows

GIB = 2**30
Make = Callable[..., Record]


def cells(line: str) -> list[str]:
    """A Markdown row's cells: bars part them unless escaped."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def table(markdown: str) -> list[list[str]]:
    return [cells(line) for line in markdown.splitlines() if line.startswith("|")]


def test_every_markdown_row_has_a_cell_for_every_column(record: Make) -> None:
    records = [record(), record("a|b <i>`x`", (2, 0, 0, 2, 1)), record("oom", formula=False, trace=False, status="oom")]
    lines = table(text.markdown(records, fits=24 * GIB))
    assert len({len(line) for line in lines}) == 1 and len(lines) == 2 + 3
    assert lines[0] == [column.header for column in choose(make_rows(records), "GiB", 24 * GIB)]


def test_markdown_shows_hostile_names_as_they_are(record: Make) -> None:
    lines = table(text.markdown([record("a|b\n<script>@me *x* [y](z)")]))
    assert lines[2][0] == r"a\|b &lt;script&gt;&#64;me \*x\* \[y\](z)"


def test_markdown_reads_neither_emphasis_nor_formulas_into_a_name() -> None:
    """GitHub takes `_b_` for emphasis and `$x$` for TeX; a span is what keeps a dollar sign one, by its own manual."""
    assert text.escape("a _b_ c, __d__") == r"a \_b\_ c, \_\_d\_\_"
    assert text.escape("optimizer_state") == "optimizer_state"
    assert text.escape("$x$") == "<span>$</span>x<span>$</span>"


def test_markdown_carries_scenario_witness_and_reasons(record: Make) -> None:
    failed = record("dora", formula=False, trace=False, status="oom", reason="a | b")
    document = text.markdown([record(), failed], note="torch 2.11")
    for said in ("### 1b", "batch 8, seq 256", "GiB = 2^30 bytes, by trace", r"dora: oom - a \| b", "torch 2.11"):
        assert said in document


def test_csv_holds_every_witness_in_whole_bytes(record: Make) -> None:
    records = [record(speed=2.5, formula_off=3), record("lora", trace=False)]
    first, second = csv.DictReader(io.StringIO(text.csv(records)))
    assert int(first["formula_peak"]) == 10 * GIB + 3
    assert int(first["trace_peak"]) == int(first["measured_peak"]) == 10 * GIB
    assert float(first["measured_examples_per_second_median"]) == 2.5
    assert first["hyperparameters_betas"] == "0.9/0.999" and first["batch_size"] == "8"
    assert (second["trace_peak"], second["measured_residual"]) == ("", "")
    assert int(second["formula_peak_by_category_optimizer_state"]) == 4 * GIB


def test_csv_says_how_a_speed_was_come_by(record: Make) -> None:
    raced = {"ratio": Interval(median=0.98, low=0.97, high=0.99), "refresh_seconds": None}
    first, second = csv.DictReader(io.StringIO(text.csv([record(speed=2.0, raced=raced), record("lora", speed=2.0)])))
    assert (first["measured_speed_rounds"], first["measured_speed_steady"]) == ("16", "True")
    assert [first[f"measured_speed_ratio_{key}"] for key in ("median", "low", "high")] == ["0.98", "0.97", "0.99"]
    assert (
        first["measured_speed_floor_optimizer_bytes"] == "4100000000" and first["measured_speed_floor_ratio"] == "1.5"
    )
    assert first["measured_speed_refresh_seconds_median"] == "" and second["measured_speed_mfu"] == ""
    assert {"measured_speed", "measured_speed_floor", "measured_speed_refresh_seconds"}.isdisjoint(first)


def test_frame_keeps_bytes_as_integers_beside_missing_ones(record: Make) -> None:
    frame = text.to_frame([record(), record("lora", trace=False)])
    assert list(frame["method"]) == ["adamw", "lora"]
    assert str(frame["trace_peak"].dtype) == "Int64" and frame["trace_peak"].isna().tolist() == [False, True]


def test_columns_do_not_depend_on_what_ran(record: Make) -> None:
    bare = record(formula=False, trace=False, status="crashed")
    full = record(speed=1.0, refresh=GIB, reserved=GIB, raced={})
    assert list(text.to_frame([bare]).columns) == list(text.to_frame([full]).columns)


def test_same_records_give_the_same_text(record: Make) -> None:
    records = [record(speed=2.5), record("lora", trace=False)]
    assert text.csv(records) == text.csv(records)
    assert text.markdown(records) == text.markdown(records)


def test_no_records_give_an_empty_table(record: Make) -> None:
    assert len(text.to_frame([])) == 0 and text.csv([]).startswith("id,model,method")
