"""A difference as people read it: in the terminal, piped, and as Markdown that names cannot break."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from memprof.diff import Tolerance, diff
from memprof.difference import Difference, Run
from memprof.record import Record
from memprof.report.changes import caption, rows, signed
from memprof.report.diff import markdown, render

GIB, MIB = 2**30, 2**20
Make = Callable[..., Record]


def compared(before: list[Record], after: list[Record], tolerance: str = "0", **environment: Any) -> Difference:
    """Two runs called main and branch; `environment` is the branch's, main was made with torch 2.11."""
    main = Run(name="main", environment={"torch": "2.11"}, records=before)
    branch = Run(name="branch", environment={"torch": "2.11"} | environment, records=after)
    return diff(main, branch, tolerance=Tolerance.parse(tolerance))


def heavier(record: Record, extra: int) -> Record:
    """So many bytes more at the peak, made in the optimizer."""
    trace = record.trace
    assert trace is not None
    at_peak = trace.peak_by_category | {"extra": trace.extra + extra}
    changed = dataclasses.replace(
        trace, extra=trace.extra + extra, peak=trace.peak + extra, peak_by_category=at_peak, peak_phase="optimizer"
    )
    return dataclasses.replace(record, trace=changed)


def show(difference: Difference, width: int = 100, **options: Any) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(render(difference, **options))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_only_changes_are_shown_and_the_rest_is_counted(record: Make) -> None:
    text = show(compared([record(), record("lora")], [heavier(record(), 64 * MIB), record("lora")]))
    body = [cells(line) for line in text.splitlines() if line.startswith("adamw  ")]
    assert body == [
        ["adamw", "extra", "1.00", "1.06", "+64.00 MiB", "+6.25 %", "worse"],
        ["adamw", "peak", "10.00", "10.06", "+64.00 MiB", "+0.62 %", "worse"],
    ]
    assert not any(line.startswith("lora") for line in text.splitlines())
    assert "Figures: 2 worse, 12 same (not shown; --all shows it)." in text
    assert "not shown" not in show(compared([record()], [record()]), everything=True)


def test_a_paper_s_sum_is_no_peak_that_changed(record: Make) -> None:
    """Left alone, the traces speak, which no counting touches; by formula, the sums."""
    light, heavy = record(summed=(1, 0, 1, 0, 0)), record(summed=(1, 0, 2, 0, 0))
    runs = (Run(name=name, environment={}, records=[each]) for name, each in (("main", light), ("branch", heavy)))
    summed = diff(*runs, by="formula")
    assert [change.figure for change in rows(summed, "GiB")] == ["optimizer state", "sum", "between steps"]
    said = " ".join(caption(summed, "GiB"))
    assert "sum: in it optimizer state +1.00 GiB" in said and "instant" not in said
    assert "formula counted as paper:galore" in said
    assert [change.verdict for change in rows(compared([light], [heavy]), "GiB", everything=True)] == ["same"] * 7


def test_all_rows_on_request(record: Make) -> None:
    difference = compared([record()], [record()])
    assert "No figure changed." in show(difference)
    assert [change.verdict for change in rows(difference, "GiB", everything=True)] == ["same"] * 7


def test_the_caption_says_which_is_which_and_why(record: Make) -> None:
    text = " ".join(show(compared([record()], [heavier(record(), 3)], torch="2.12", gpu="H200")).split())
    assert text.startswith("main to branch: what changed, GiB")
    assert "Before is main, after is branch. 1b, 24 layers, batch 8, seq 256, bf16, cuda-flash kernels" in text
    assert "GiB = 2^30 bytes, by trace." in text
    assert "The environments differ: torch 2.11 before, 2.12 after; gpu not said before, H200 after." in text
    assert "adamw, peak: at that instant extra +3 B; now in optimizer, before in backward." in text


def test_a_tolerance_is_named(record: Make) -> None:
    difference = compared([record()], [heavier(record(), 3)], "1%")
    assert "Figures: 7 same, where up to 1% more or less is the same." in caption(difference, "GiB", everything=True)


def test_missing_new_and_failed_cells_have_a_row(record: Make) -> None:
    failed = record("lora", status="oom", reason="CUDA out of memory")
    text = show(compared([record(), record("lora"), record("galore")], [record(), failed, record("dora")]))
    assert ["galore", "peak", "10.00", "-", "-", "-", "missing"] in map(cells, text.splitlines())
    assert ["dora", "peak", "-", "10.00", "-", "-", "new"] in map(cells, text.splitlines())
    assert ["lora", "status", "ok", "oom", "-", "-", "worse"] in map(cells, text.splitlines())
    assert "lora, status: CUDA out of memory." in text


def test_ranks_that_differ_are_told_row_by_row_and_as_the_reason(record: Make) -> None:
    """The caption names what all rows share; a rank that only one side has is no such thing."""
    ranks = [record("galore", hyperparameters={"rank": rank}) for rank in (128, 64)]
    text = show(compared([record(), ranks[0]], [record(), ranks[1]]), width=300)
    assert "cuda-flash kernels, GiB" in text
    why = "the nearest scenario of the other run differs in rank (128 before, 64 after)."
    assert f"galore rank=128, peak: {why}" in text
    assert ", rank 128, GiB" in show(compared([ranks[0]], [ranks[0]]), width=300)


def test_speed_is_shown_with_its_interval(record: Make) -> None:
    text = show(compared([record(speed=2.0)], [record(speed=1.0)]), width=120)
    assert ["adamw", "examples/s", "2.000 (1.960-2.060)", "1.000 (0.980-1.030)", "-1/s", "-50.00 %", "worse"] in map(
        cells, text.splitlines()
    )
    assert "measured" in text


def test_scenarios_joined_loosely_and_mixed_witnesses_are_named(record: Make) -> None:
    before = [record(), record("lora", speed=2.0), record("dora")]
    after = [record(device="cuda"), record("lora", speed=2.0), record("dora")]
    text = show(compared(before, after), width=300)
    assert "adamw device=cuda: joined although their ids differ" in text
    assert "by trace, lora device=none measured." in text


def test_several_models_have_a_column(record: Make) -> None:
    both = [record(), record(model="60m")]
    text = show(compared(both, [heavier(each, GIB) for each in both]))
    assert cells(text.splitlines()[1])[0] == "Model" and ["60m", "adamw", "peak"] in [
        cells(line)[:3] for line in text.splitlines()
    ]


@pytest.mark.parametrize("width", [60, 80, 100])
def test_numbers_stay_whole_at_every_width(record: Make, width: int) -> None:
    name = "a_method_whose_name_goes_on_and_on"
    text = show(compared([record(name)], [heavier(record(name), 64 * MIB)]), width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "+64.00 MiB" in text and "worse" in text


@pytest.mark.parametrize(
    ("change", "unit", "text"),
    [(0, "GiB", "0 B"), (3, "GiB", "+3 B"), (-1024, "GiB", "-1.00 KiB"), (64 * MIB, "MiB", "+64.00 MiB"),
     (3 * 10**9, "GB", "+3.00 GB"), (-1500, "MB", "-1.50 KB"), (5 * GIB, "B", "+5.00 GiB")],
)  # fmt: skip
def test_a_change_has_the_unit_in_which_it_reads_best(change: int, unit: str, text: str) -> None:
    assert signed(change, unit) == text


def test_markdown_is_a_table_that_names_cannot_break(record: Make) -> None:
    name = "a|b<img>@you\x1b[31m"
    text = markdown(compared([record(name, model="[x](y)")], [heavier(record(name, model="[x](y)"), GIB)]))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table[0] == "| Method | Figure | Before | After | Change | Share | Verdict |"
    assert table[1] == "| --- | --- | ---: | ---: | ---: | ---: | --- |"
    assert table[2].startswith("| a\\|b&lt;img&gt;&#64;you | extra | 1.00 | 2.00 | +1.00 GiB | +100.00 % | worse |")
    assert "\\[x\\](y)" in text and "\x1b" not in text and "<img>" not in text


def test_the_same_difference_gives_the_same_bytes(record: Make) -> None:
    made = [compared([record()], [heavier(record(), GIB)]) for _ in range(2)]
    assert made[0].document() == made[1].document() and markdown(made[0]) == markdown(made[1])
