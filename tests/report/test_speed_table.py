"""How speeds were come by, read back as text. Oracle: figures by hand, of made-up races."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from memprof.record import Floor, Interval, Record
from memprof.report.columns import ratio
from memprof.report.speed_table import SpeedTables, plain_number, seconds, speed_tables

Make = Callable[..., Record]
WIDTHS = (80, 100, 160)


def interval(median: float, low: float, high: float) -> Interval:
    return Interval(median=median, low=low, high=high)


def shown(records: list[Record], width: int = 100, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding) as file:
        Console(width=width, file=file).print(tables(records))
        file.flush()
        return raw.getvalue().decode(encoding)


def tables(records: list[Record]) -> SpeedTables:
    found = speed_tables(records)
    assert found is not None
    return found


def rows(text: str, method: str) -> list[list[str]]:
    """A method's row of each table, split at gaps of two spaces."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()]
            for line in text.splitlines() if line.startswith(f"{method} ")]  # fmt: skip


@pytest.fixture
def raced(record: Make) -> list[Record]:
    adamw = record(speed=141.5, raced={"ratio": interval(1, 1, 1)}, device="cuda")
    refresh: dict[str, Any] = {"refresh_seconds": interval(2.4, 2.3, 2.5), "refresh_matrices": 168}
    galore = record("galore", speed=136.5, device="cuda", raced={"ratio": interval(0.965, 0.961, 0.969), **refresh})
    slow = {"rounds": 14, "rounds_dropped": 2, "steady": False, "host_wait": 0.004, "mfu_reason": "MFU: 4 F + 6 N"}
    return [adamw, galore, record("lora", speed=152.0, device="cuda", raced=slow)]


def test_every_figure_by_hand(raced: list[Record]) -> None:
    text = shown(raced)
    assert rows(text, "galore") == [
        ["galore", "136.5 (133.8-140.6)", "143.3", "204.8", "0.965x [0.961, 0.969]"],
        ["galore", "16", "48", "yes", "160 ms", "2.40 s", "14.3 ms", "31.0 %"],
        ["galore", "34,944", "655", "12.3", "41.2 %", "1.50x", "1.25x"],
    ]
    assert rows(text, "adamw")[0][-1] == "baseline"
    assert rows(text, "lora")[1][1:4] == ["14 of 16", "48", "no"] and rows(text, "lora")[1][-1] == "0.4 %"


def test_what_is_faster_than_its_floor_says_how_that_can_be(raced: list[Record]) -> None:
    """No device exceeds what it can do, but a cache may spare it some of the bytes; said of whom it is true."""
    said = "Below its floor: caches held some of what the floor takes from memory,"
    assert said not in " ".join(shown(raced).split())
    measured = raced[1].measured
    assert measured is not None and measured.speed is not None and measured.speed.floor is not None
    floor = dataclasses.replace(measured.speed.floor, optimizer_ratio=0.97)
    speed = dataclasses.replace(measured.speed, floor=floor)
    raced[1] = dataclasses.replace(raced[1], measured=dataclasses.replace(measured, speed=speed))
    text = " ".join(shown(raced, 200).split())
    assert said in text and "measured in a slow moment (galore)." in text and "0.97x" in text


@pytest.mark.parametrize("width", WIDTHS)
def test_numbers_are_whole_and_nothing_is_wider_than_the_terminal(raced: list[Record], width: int) -> None:
    text = shown(raced, width)
    assert all(len(line) <= width for line in text.splitlines()) and "…" not in text
    assert rows(text, "galore") == rows(shown(raced, 160), "galore")


def test_a_long_name_folds_before_a_number_does(record: Make) -> None:
    name = "a_method_whose_name_goes_on_and_on"
    text = shown(
        [record(speed=141.5, raced={}), record(name, speed=1234.5, raced={"ratio": interval(1.1, 1.05, 1.2)})], 80
    )
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "1234 (1210-1272)" in text and "1.10x [1.05, 1.20]" in text


def test_the_caption_says_how_to_read_it_and_whose_ceilings(raced: list[Record]) -> None:
    said = " ".join(shown(raced).split())
    for part in (
        "Papers' clock: stopped after launching the optimizer",
        "no rank is claimed where that includes 1",
        "AdamW against itself in the same rounds: 1.000x [0.995, 1.004].",
        "over 712 TFLOP/s and the optimizer's bytes over 4.10 TB/s",
        "over 989.5 TFLOP/s (adamw, galore). MFU: 4 F + 6 N (lora).",
        "No ratio without AdamW in the same rounds (lora).",
    ):
        assert part in said, part


def test_what_is_missing_is_a_dash_with_its_reason(record: Make) -> None:
    nothing = dict.fromkeys(
        ("papers_examples_per_second", "spread", "host_wait", "watts", "joules_per_example", "mfu", "floor")
    )
    why = {"mfu_reason": "No MFU: a CPU has no data-sheet peak here"}
    text = shown([record(speed=2.0, raced=nothing | why, device="cpu")])
    assert [row.count("-") for row in rows(text, "adamw")] == [1, 3, 5]
    assert "No MFU: a CPU has no data-sheet peak here." in text
    assert "A CPU has done what it has launched: no papers' clock and no host wait." in text
    assert "Floor:" not in text and "against itself" not in text and "None" not in text


def test_an_update_inside_backward_says_why_it_has_no_ratio(record: Make) -> None:
    made = record("galore", speed=2.0, raced={})
    assert made.measured is not None and made.measured.speed is not None and made.measured.speed.floor is not None
    floor: Floor = dataclasses.replace(made.measured.speed.floor, optimizer_ratio=None)
    text = shown([record("galore", speed=2.0, raced={"floor": floor})])
    assert rows(text, "galore")[2][-1] == "-" and "Updated inside backward, no phase to time." in text


def test_only_speeds_that_say_how_have_a_row(record: Make) -> None:
    assert speed_tables([record(), record("lora", speed=3.0)]) is None
    text = shown([record(speed=3.0), record("lora", speed=3.0, raced={})])
    assert rows(text, "lora") and not rows(text, "adamw")


def test_models_are_told_apart(record: Make) -> None:
    text = shown([record(speed=3.0, raced={}), record(model="60m", speed=30.0, raced={})])
    assert "1b adamw" in text and "60m adamw" in text


def test_its_natural_width_is_what_it_takes(raced: list[Record]) -> None:
    table = tables(raced)
    widest = max(len(line.rstrip()) for line in shown(raced, 300).splitlines() if line.startswith(("galore", "lora")))
    assert widest <= table.natural_width <= 80


def test_names_bring_no_markup(record: Make) -> None:
    text = shown([record("[red]\x1b[31mx", speed=3.0, raced={})])
    assert "[red]x" in text and "\x1b" not in text


def test_it_can_be_printed_in_ascii(raced: list[Record]) -> None:
    assert "galore" in shown(raced, encoding="ascii")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (2.4, "2.40 s"), (0.16, "160 ms"), (0.0143, "14.3 ms"), (4.2e-5, "42.0 us"), (417.0, "417 s")],
)
def test_seconds_have_three_digits(value: float | None, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.0, "0.00"), (12.34, "12.3"), (36224.0, "36,224")])
def test_numbers_have_three_digits_or_all_before_the_point(value: float | None, text: str) -> None:
    assert plain_number(value) == text


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((0.98, 0.97, 0.99), "0.98x [0.97, 0.99]"),
        ((1.074, 1.07, 1.079), "1.074x [1.070, 1.079]"),
        ((1.02, 1.002, 1.04), "1.020x [1.002, 1.040]"),
        ((0.998, 0.99, 0.9998), "0.9980x [0.9900, 0.9998]"),
        ((1.0, 1.0, 1.0), "1.000x [1.000, 1.000]"),
    ],
)
def test_a_ratio_s_end_is_never_rounded_onto_one(ends: tuple[float, float, float], text: str) -> None:
    assert ratio(interval(*ends)) == text
