"""Prediction against measurement as people read it: at three widths, as Markdown, and as CSV."""

from __future__ import annotations

import csv as comma
import dataclasses
import io
import re
from collections.abc import Callable

import pytest
from rich.console import Console

from memprof.prediction import PAIRS, predict
from memprof.record import Pool, Record
from memprof.report.prediction import PredictionPage, csv, markdown, render
from memprof.report.prediction_grids import NAMES

GIB = 2**30
WIDTHS = (80, 100, 160)
Make = Callable[..., Record]


def on_gpu(record: Record, add: int, reserved: int = 12 * GIB) -> Record:
    """Measured to be `add` bytes heavier than traced, with what only a GPU says."""
    trace, measured = record.trace, record.measured
    assert trace and measured
    pool = Pool(
        allocated=trace.peak, requested=trace.peak, reserved=reserved, fragmentation=0, cached=reserved - trace.peak,
        reserved_expandable=reserved,
    )  # fmt: skip
    heavier = measured.peak_by_category | {"extra": measured.extra + add}
    phases: dict[str, int | None] = {"forward": trace.peak, "backward": trace.peak, "optimizer": GIB, "refresh": None}
    seen = dataclasses.replace(
        measured, peak=measured.peak + add, extra=measured.extra + add, peak_by_category=heavier, reserved=12 * GIB,
        device=13 * GIB, phase_peaks=phases,
    )  # fmt: skip
    told = dataclasses.replace(trace, reserved=reserved, pool=pool, phase_peaks=phases)
    return dataclasses.replace(record, trace=told, measured=seen)


@pytest.fixture
def gpu(record: Make) -> list[Record]:
    """By hand: 10 GiB traced; 10 and 10.5 GiB measured, so 0 and -4.76 %."""
    lora = on_gpu(record("lora_of_some_length", speed=2.0, device="cuda"), GIB // 2, reserved=13 * GIB)
    return [on_gpu(record(speed=2.0, device="cuda"), 0), lora]


def show(page: PredictionPage, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(page)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(text: str, name: str) -> list[str]:
    """The first line that begins so, as its cells."""
    line = next(line for line in text.splitlines() if line.startswith(name))
    return [cell.strip() for cell in re.split(r"\s{2,}", line.strip())]


@pytest.mark.parametrize("width", WIDTHS)
def test_errors_and_verdicts_are_there_at_every_width(gpu: list[Record], width: int) -> None:
    text = show(render(predict(gpu)), width)
    assert all(len(line) <= width for line in text.splitlines()) and "…" not in text
    for said in ("-4.76 %", "+8.33 %", "exact", "NOT MET", "1 %, 3 %", "Targets missed: trace, reserved."):
        assert said in text
    assert ("No room at this width for: " in text) == (width < render(predict(gpu)).natural_width)


def test_the_table_by_hand(gpu: list[Record]) -> None:
    text = show(render(predict(gpu)), 160)
    assert row(text, "adamw") == (
        "adamw 10.00 10.00 exact 10.00 exact 10.00 exact 12.00 12.00 exact 13.00 exact".split()
    )
    lora = "lora_of_some_length;10.50;10.00;-4.76 %;10.00;-4.76 %;10.00;-4.76 %;12.00;13.00;+8.33 %;13.00;exact"
    assert row(text, "lora_of_some_length") == lora.split(";")
    ends = "allocated peak;2;2.38 %;-4.76 %;1;1 %, 3 %;NOT MET;lora_of_some_length"
    assert row(text, "trace peak") == ["trace peak", *ends.split(";")]
    assert row(text, "states") == "states;to the byte;2;2 exact;exact;-;exact;met;-".split(";")


def test_phases_have_a_table_of_their_own(gpu: list[Record]) -> None:
    text = show(render(predict(gpu), unit="MiB"), 160).partition("The peak of each phase")[2]
    assert row(text, "adamw") == "adamw 10240.00 10240.00 exact 10240.00 10240.00 exact 1024.00 1024.00 exact".split()
    assert "Refresh" not in text


def test_a_cpu_has_neither_reserved_nor_nvml(record: Make) -> None:
    text = show(render(predict([record(speed=2.0, device="cpu")])), 160)
    assert row(text, "adamw") == "adamw 10.00 10.00 exact 10.00 exact exact".split()
    assert not any(word in text for word in ("eserved", "NVML", "Sim.", "Replay", "phase, "))
    assert "Every target that could be tried is met." in text


def test_a_few_bytes_are_said_in_bytes(record: Make) -> None:
    assert row(show(render(predict([on_gpu(record(speed=2.0), 12)])), 160), "adamw")[3] == "-12 B"


def test_names_tell_models_apart_and_bring_no_markup(record: Make) -> None:
    records = [record("[red]\x1b[31mx", speed=1.0), record("adamw", model="60m|", speed=1.0)]
    text = show(render(predict(records)), 160)
    assert "1b [red]x" in text and "60m| adamw" in text and "\x1b" not in text
    assert "60m\\| adamw" in markdown(predict(records))


def test_markdown_has_whole_tables(gpu: list[Record]) -> None:
    text = markdown(predict(gpu))
    tables = [[line for line in block.splitlines() if line.startswith("|")] for block in text.split("### ")[1:]]
    assert [len(table) for table in tables] == [4, 4, 2 + 7 + 1]
    assert all(len({line.count(" | ") for line in table}) == 1 for table in tables)
    assert "| trace peak | allocated peak | 2 | 2.38 % | -4.76 % | 1 | 1 %, 3 % | NOT MET |" in text


def test_csv_has_the_same_columns_whatever_was_measured(gpu: list[Record], record: Make) -> None:
    read = list(comma.DictReader(io.StringIO(csv(predict(gpu)))))
    assert [each["cell"] for each in read] == ["adamw", "lora_of_some_length"]
    assert float(read[1]["trace_error"]) == pytest.approx(-0.5 / 10.5)
    assert (read[1]["reserved_predicted"], read[1]["device"]) == (str(13 * GIB), str(13 * GIB))
    assert read[0]["refresh_error"] == "" and read[0]["param_off"] == "0"
    alone = comma.DictReader(io.StringIO(csv(predict([record(speed=1.0)]))))
    assert alone.fieldnames and alone.fieldnames == list(read[0])


def test_csv_is_no_formula_of_a_spreadsheet(record: Make) -> None:
    assert next(comma.DictReader(io.StringIO(csv(predict([record("=1+1", speed=1.0)])))))["method"] == "'=1+1"


def test_every_pair_has_a_name() -> None:
    assert NAMES.keys() == {pair.key for pair in PAIRS}
