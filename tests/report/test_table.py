"""The terminal's table, read back as text at the widths that people have."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console
from rich.text import Text

from memprof.record import Interval, Record
from memprof.report.columns import percent, size, speed
from memprof.report.flags import MEANING
from memprof.report.table import Comparison, render

GIB = 2**30
Make = Callable[..., Record]
WIDTHS = (80, 100, 120)


def show(comparison: Comparison, width: int, terminal: bool = False) -> str:
    console = Console(
        width=width, file=io.StringIO(), force_terminal=terminal, color_system="truecolor" if terminal else None
    )
    console.print(comparison)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def rows_of(text: str) -> list[list[str]]:
    """The table's body, split at its gaps of two spaces."""
    body = text.split("\n\n")[0].splitlines()
    start = next(number for number, line in enumerate(body) if set(line.strip()) <= set("─-")) + 1
    return [[cell for cell in line.split("  ") if cell.strip()] for line in body[start:]]


@pytest.fixture
def wide(record: Make) -> list[Record]:
    """Every column has something to say, and the numbers are as long as they get."""
    adamw = record("adamw", (250, 250, 500, 100, 100), speed=1234.5, refresh=1300 * GIB, formula_off=GIB)
    galore = record("galore_of_some_length", (250, 250, 100, 100, 100), speed=21.25, refresh=900 * GIB)
    return [adamw, galore]


@pytest.mark.parametrize("width", WIDTHS)
def test_numbers_are_whole_at_every_width(wide: list[Record], width: int) -> None:
    comparison = render(wide, fits=2000 * GIB)
    text = show(comparison, width)
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    shown, dropped = comparison.fit(width)
    cells = {cell.strip() for row in rows_of(text) for cell in row}
    for column in shown:
        if not column.is_text:
            assert {column.cell(row) for row in comparison.rows} <= cells, column.header
    assert ("No room at this width for: " in text) == bool(dropped)
    assert all(column.header in text for column in dropped)


@pytest.mark.parametrize("width", [*WIDTHS, 40])
def test_peak_and_saving_outlive_the_other_columns(wide: list[Record], width: int) -> None:
    headers = [column.header for column in render(wide).fit(width)[0]]
    assert {"Method", "Peak", "vs AdamW"} <= set(headers)


def test_nothing_is_dropped_at_the_natural_width(wide: list[Record]) -> None:
    comparison = render(wide, fits=2000 * GIB)
    assert comparison.fit(comparison.natural_width)[1] == []
    assert "No room" not in show(comparison, comparison.natural_width)


def test_piped_output_has_no_escape_codes_and_says_the_same(wide: list[Record]) -> None:
    piped, coloured = show(render(wide), 120), show(render(wide), 120, terminal=True)
    assert "\x1b" not in piped and "\x1b[" in coloured


def test_a_terminal_with_room_to_spare_shows_bars(record: Make) -> None:
    """By hand: 10 and 5 GiB on a scale of at most 32 characters; a pipe and a narrow terminal get none."""
    comparison = render([record("adamw", (2, 2, 4, 1, 1)), record("lora", (2, 0, 0, 2, 1)), record("x", status="oom")])
    lines = show(comparison, 200, terminal=True).splitlines()
    drawn = {name: next(line for line in lines if name in line).count("█") for name in ("adamw", "lora")}
    assert drawn == {"adamw": 32, "lora": 16}
    assert "█" not in show(comparison, 200) and "█" not in show(comparison, 80, terminal=True)
    assert all(len(Text.from_ansi(line)) <= 110 for line in show(comparison, 110, terminal=True).splitlines())


def test_names_cannot_bring_markup_or_escape_codes(record: Make) -> None:
    text = show(render([record("[red]\x1b[31mx", model="[bold]m")]), 120)
    assert "[red]x" in text and "[bold]m" in text and "\x1b" not in text


def test_row_by_hand(record: Make) -> None:
    records = [record("adamw", (2, 2, 4, 1, 1)), record("lora", (2, 0, 0, 2, 1), formula_off=GIB // 100)]
    adamw, lora = rows_of(show(render(records), 120))
    assert [cell.strip() for cell in adamw][1:] == "2.00,2.00,4.00,1.00,1.00,10.00,baseline,9.00,exact".split(",")
    assert [cell.strip() for cell in lora][1:] == "2.00,0.00,0.00,2.00,1.00,5.00,50.0 %,4.00,+0.20 % Peak".split(",")


@pytest.mark.parametrize(
    ("rounds", "times"), [(2, "50 times in 100"), (3, "75 times in 100"), (5, "94 times in 100"), (6, None)]
)
def test_what_too_few_rounds_promise_is_said(record: Make, rounds: int, times: str | None) -> None:
    """Of n rounds all lie on one side of their median once in 2^(n - 1): 1 time in 2, 4, 16. Of 6 once in 32."""
    records = [record(speed=141.5, raced={"rounds": rounds}), record("galore", speed=136.5, raced={"rounds": 6})]
    text = " ".join(show(render(records), 200).split())
    if times is None:
        assert "fewer than 6 rounds" not in text
    else:
        said = f"The interval of fewer than 6 rounds is their whole range: of {rounds} it holds the true median {times}"
        assert f"{said} (adamw)." in text
    assert "fewer than" not in show(render([record()]), 200)


def test_caption_names_witness_scenario_and_unit(record: Make) -> None:
    text = show(render([record(speed=3.0, device="cuda"), record("lora", device="cuda")], unit="MiB"), 120)
    for said in (
        "1b: memory",
        "batch 8, seq 256, bf16, cuda-flash kernels",
        "MiB = 2^20 bytes, measured on cuda; lora by trace",
    ):
        assert said in text
    assert "2048.00" in text and "Examples/s" in text


def test_columns_appear_only_with_something_to_say(record: Make) -> None:
    headers = {column.header for column in render([record("lora", trace=False)]).columns}
    assert headers.isdisjoint({"Examples/s", "Refresh peak", "vs AdamW", "Formula - trace", "Status", "Model"})
    several = render([record(refresh=GIB), record(model="60m", status="oom")], fits=24 * GIB)
    assert {"Model", "Refresh peak", "Fits 24 GiB", "Status"} <= {column.header for column in several.columns}


def test_a_paper_s_sum_is_headed_as_one(record: Make) -> None:
    """By hand: 2 and 1 GiB are the sums, 10 and 5 GiB the peaks."""
    counted = [record(summed=(1, 0, 1, 0, 0)), record("lora", (2, 0, 0, 2, 1), summed=(1, 0, 0, 0, 0), refresh=GIB)]
    comparison = render(counted, fits=3 * GIB)
    headers = [column.header for column in comparison.columns]
    assert headers == ["Method", "Param", "Grad", "OS", "Act", "Extra", "Sum", "vs AdamW", "Fits 3 GiB"]
    adamw, lora = rows_of(show(comparison, 120))
    assert [cell.strip() for cell in adamw][-3:] == ["2.00", "baseline", "no"]
    assert [cell.strip() for cell in lora][-3:] == ["1.00", "50.0 %", "no"]
    said = " ".join(show(comparison, 120).split())
    for part in ("the share of AdamW's sum that is saved", "formula counted as paper:galore", "Fits is by trace"):
        assert part in said
    assert "Sum" in show(comparison, 200, terminal=True) and "Peak" not in show(comparison, 200, terminal=True)
    assert "Sum" in [column.header for column in comparison.fit(40)[0]]


def test_a_counting_beside_another_witness_is_said(record: Make) -> None:
    counted = [record(summed=(1, 0, 1, 0, 0)), record("lora", (2, 0, 0, 2, 1), summed=(1, 0, 0, 0, 0))]
    comparison = render(counted, by="trace")
    headers = {column.header for column in comparison.columns}
    assert {"Peak", "Paper total"} <= headers and "Formula - trace" not in headers
    assert "formula counted as paper:galore" in " ".join(show(comparison, 120).split())


def test_sums_and_peaks_in_one_table_are_told_apart(record: Make) -> None:
    mixed = render([record(), record("lora", summed=(1, 0, 0, 0, 0))])
    assert "Peak or sum" in [column.header for column in mixed.columns]
    text = " ".join(show(mixed, 120).split())
    assert "lora counting=paper:galore" in text and "is a sum over categories and no instant" in text


@pytest.mark.parametrize("width", WIDTHS)
def test_failed_rows_show_status_and_reason(record: Make, width: int) -> None:
    failed = record("dora", formula=False, trace=False, status="timeout", reason="no answer within 600 s")
    text = show(render([record(), failed]), width)
    assert rows_of(text)[1][-1].strip() == "timeout"
    assert "dora: timeout - no answer within 600 s" in text


def test_a_speed_stands_against_adamw_s_where_they_raced(record: Make) -> None:
    raced = {"ratio": Interval(median=0.98, low=0.97, high=0.99)}
    records = [record(speed=141.5, raced={}), record("galore", speed=136.5, raced=raced), record("lora")]
    text = show(render(records), 160)
    assert [row[-1].strip() for row in rows_of(text)] == ["baseline", "0.98x [0.97, 0.99]", "-"]
    assert " ".join(text.split()).count("no rank is claimed where that includes 1") == 1
    narrow = render(records).fit(80)[0]
    assert "Examples/s" in [column.header for column in narrow]
    assert "Speed vs AdamW" not in [column.header for column in narrow]
    assert "Speed" not in show(render([record(speed=3.0)]), 160)


def with_losses(made: Record, first: float | None, last: float | None) -> Record:
    assert made.measured is not None
    return replace(made, measured=replace(made.measured, loss_first=first, loss_last=last))


def test_two_losses_stand_side_by_side_where_there_is_room(record: Make) -> None:
    records = [
        with_losses(record(speed=3.0), 10.39524, 10.29781),
        with_losses(record("sgd", speed=3.0), 10.4, None),
        with_losses(record("lion", speed=3.0), None, None),
        record("lora"),
    ]
    text = show(render(records), 160)
    assert [row[-1].strip() for row in rows_of(text)] == ["10.395 -> 10.298", "10.400 -> not finite", "-", "-"]
    assert "Loss: of a step right after the warm-up and of the last one, on the same tokens." in " ".join(text.split())
    shown, dropped = render(records).fit(render(records).natural_width - 1)
    assert [column.header for column in dropped] == ["Loss"], "the first to go"
    assert "Loss" not in show(render([record(speed=3.0)]), 160)


def test_a_flag_is_shown_once_with_its_meaning_and_who_carries_it(record: Make) -> None:
    flagged = [record(speed=3.0, flags=("contaminated",)), record("lora", speed=3.0, flags=("contaminated", "odd"))]
    text = show(render(flagged), 160)
    assert [row[-1].strip() for row in rows_of(text)] == ["contaminated", "contaminated, odd"]
    said = " ".join(text.split())
    assert said.count("contaminated (adamw, lora): another process used the GPU meanwhile") == 1
    assert "odd (lora)" in said and "lora: contaminated" not in said


def test_every_flag_that_is_set_has_a_meaning() -> None:
    """In its own words: as the race, the runner and a diff name them."""
    from memprof.diff.speed import DISTURBED
    from memprof.learning import DIVERGED, FLAT, ROSE
    from memprof.runner import IN_PROCESS

    assert {*DISTURBED, IN_PROCESS, "host-bound", DIVERGED, FLAT, ROSE} <= MEANING.keys()


def test_a_failure_keeps_its_reason_beside_its_flags(record: Make) -> None:
    failed = record("dora", formula=False, trace=False, status="oom", reason="no room", flags=("in-process",))
    said = " ".join(show(render([record(), failed]), 160).split())
    assert "dora: oom, in-process - no room" in said and "in-process (dora): measured in the calling process" in said


def test_pending_methods_are_shown_as_running(record: Make) -> None:
    rows = rows_of(show(render([record()], pending=["galore"]), 80))
    assert [cell.strip() for cell in rows[1]] == ["galore", "..."]
    assert "galore" in show(render([], pending=["galore"]), 80)


def test_long_names_fold_and_stay_whole(record: Make) -> None:
    name = "a_method_whose_name_goes_on_and_on"
    body = rows_of(show(render([record(), record(name)], fits=GIB), 80))
    assert name in "".join(row[0].strip() for row in body[1:])


def test_ascii_terminals_get_ascii(record: Make) -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii") as file:
        Console(width=100, file=file).print(render([record(speed=2.0)], fits=GIB))
        file.flush()
        assert b"10.00" in raw.getvalue()


@pytest.mark.parametrize(
    ("nbytes", "unit", "text"),
    [(0, "GiB", "0.00"), (1, "GiB", "<0.01"), (3 * GIB // 2, "GiB", "1.50"), (10**9, "GB", "1.00"), (12, "B", "12")],
)
def test_sizes_never_round_something_to_nothing(nbytes: int, unit: str, text: str) -> None:
    assert size(nbytes, unit) == text


def test_small_numbers_are_written_honestly(record: Make) -> None:
    assert percent(-0.0001) == "0.0 %" and percent(-0.5) == "-50.0 %"
    assert speed(None) == "-"
    assert "<0.01 % Peak" in show(render([record(formula_off=1024)]), 120)


def test_importing_the_table_brings_no_heavy_library() -> None:
    code = "import sys, memprof.report.table; print({'pandas', 'matplotlib', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_without_adamw_the_way_to_savings_is_said(record: Make) -> None:
    """Else a column is missing without a word; not where AdamW is there, failed, or still to come."""
    said, galore = "add --method adamw for savings", record("galore")
    assert said in show(render([galore]), 120)
    failed = record(formula=False, trace=False, status="oom")
    for comparison in (
        render([galore, record()]),
        render([galore, failed]),
        render([galore], pending=["adamw rank=4"]),
    ):
        assert said not in show(comparison, 120)
