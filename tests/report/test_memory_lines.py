"""Where memory went, read back as text. Oracle: sums by hand, of made-up measurements."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from itertools import takewhile
from typing import Any

import pytest
from rich.console import Console

from memprof.record import Closure, Record
from memprof.report.memory_lines import GPU, INDENT, MemoryLines, memory_lines, size

Make = Callable[..., Record]
GIB = 2**30
FLASH = "ScaledDotProductFlashAttentionBackward0"
CLOSED = Closure(
    device=16 * GIB,
    context=GIB,
    reserved=15 * GIB,
    cached=2 * GIB,
    fragmentation=GIB,
    allocated=12 * GIB,
    param=2 * GIB,
    grad=2 * GIB,
    optimizer_state=4 * GIB,
    activation=GIB,
    temporaries=GIB,
    workspaces=GIB,
    rounding=GIB - 512,
    unattributed=512,
    replayed_reserved=14 * GIB,
    events=1000,
)


def closed(record: Make, method: str = "adamw", **changes: Any) -> Record:
    """A GPU's record; `changes` are of its measurement."""
    made = record(method, speed=10.0, reserved=15 * GIB, device="cuda")
    facts: dict[str, Any] = {
        "closure": CLOSED,
        "phase_peaks": {"forward": 8 * GIB, "backward": 12 * GIB, "optimizer": 9 * GIB, "refresh": None},
        "others": 0,
        "recording_overhead": 0.034,
        "attention": FLASH,
    }
    return dataclasses.replace(made, measured=dataclasses.replace(made.measured, **facts | changes))  # type: ignore[type-var]


def only(records: list[Record], unit: str = "GiB") -> MemoryLines:
    (found,) = memory_lines(records, unit)
    return found


def shown(records: list[Record], width: int = 100) -> str:
    file = io.StringIO()
    Console(width=width, file=file).print(only(records))
    return file.getvalue()


def parts_of(lines: list[tuple[int, str]], place: int) -> list[str]:
    """The lines one further in below a line, up to the next that is as far out."""
    depth = lines[place][0]
    below = takewhile(lambda line: line[0] > depth, lines[place + 1 :])
    return [name for inner, name in below if inner == depth + 1]


def test_a_gpus_lines_sum_to_the_one_above_them(record: Make) -> None:
    """By the indents that a reader sees."""
    made = closed(record)
    assert CLOSED.broken() is None and made.measured is not None
    sizes = {name: read(made.measured) or 0 for name, _, read in GPU}
    names = [name for name, _ in only([made]).rows()]
    lines = [((len(name) - len(name.lstrip())) // INDENT, name.strip()) for name in names[: names.index("")]]
    sums = {name: parts for place, (_, name) in enumerate(lines) if (parts := parts_of(lines, place))}
    assert list(sums) == ["device, as NVML says", "reserved", "allocated at the peak"]
    for name, parts in sums.items():
        assert sum(sizes[part] for part in parts) == sizes[name]
    assert lines[-1] == (3, "unattributed")


def test_figures_by_hand(record: Make) -> None:
    text = shown([closed(record), closed(record, "galore", others=2, recording_overhead=-0.01)])
    cells = {line[:24].strip(): line[24:].split() for line in text.splitlines()}
    assert cells["device, as NVML says"] == ["16.00", "16.00"]
    assert cells["rounding"] == ["1.00", "1.00"]
    assert cells["unattributed"] == ["512", "B", "512", "B"], "what would be 0.00 is not hidden"
    assert cells["reserved, by the rules"] == ["14.00", "14.00"]
    assert cells["reserved, as it was"] == ["15.00", "15.00"]
    assert cells["peak in backward"] == ["12.00", "12.00"]
    assert "peak in refresh" not in cells
    assert cells["recording"] == ["+3.4", "%", "-1.0", "%"]
    assert cells["other processes"] == ["0", "2"]
    assert f"Attention: {FLASH}." in text


def test_what_is_not_known_says_why_and_of_whom(record: Make) -> None:
    unread = dataclasses.replace(CLOSED, device=None, context=None, device_reason="nobody says")
    refreshing = {"forward": GIB, "backward": GIB, "optimizer": GIB, "refresh": 3 * GIB}
    galore = closed(record, "galore", closure=unread, others=None, attention=None, recording_overhead=None,
                    phase_peaks=refreshing)  # fmt: skip
    found = only([closed(record), galore])
    rows = dict(found.rows())
    assert rows["device, as NVML says"] == ["16.00", "-"] and rows["  context"] == ["1.00", "-"]
    assert rows["  reserved"] == ["15.00", "15.00"]
    assert rows["peak in refresh"] == ["-", "3.00"]
    assert (rows["recording"], rows["other processes"]) == (["+3.4 %", "-"], ["0", "-"])
    assert found.below()[:2] == [
        "Device and context are not known: nobody says (galore).",
        f"Attention: {FLASH} (adamw).",
    ]


def test_a_processors_sum_as_it_was(record: Make) -> None:
    """The resident set = before the model + the worst of all steps + what is not explained."""
    made = record("galore", speed=10.0, refresh=11 * GIB, device="cpu")
    assert made.measured is not None
    facts: dict[str, Any] = {
        "device": 16 * GIB,
        "context": 3 * GIB,
        "residual": 2 * GIB,
        "attention": "X",
        "others": None,
    }
    found = only([dataclasses.replace(made, measured=dataclasses.replace(made.measured, **facts))])
    rows = list(found.rows())
    assert [(name, cells) for name, cells in rows[:4]] == [
        ("resident set at most", ["16.00"]),
        ("  before the model", ["3.00"]),
        ("  allocator's peak", ["11.00"]),
        ("  not explained", ["2.00"]),
    ]
    assert "reserved, by the rules" not in dict(rows)


def test_models_and_kinds_of_device_have_tables_of_their_own(record: Make) -> None:
    on_host = record("adamw", speed=1.0, model="60m", device="cpu")
    unmeasured, failed = record("lora"), record("galore", status="oom", reason="no room")
    titles = [each.title for each in memory_lines([closed(record), unmeasured, failed, on_host], "GiB")]
    assert titles == ["1b: the GPU's memory at the worst instant", "60m: the measuring process"]
    assert memory_lines([unmeasured], "GiB") == []
    old = record("adamw", speed=1.0, reserved=GIB, device="cuda")
    assert memory_lines([old], "GiB") == [], "an earlier memprof kept no closure"


@pytest.mark.parametrize("width", [40, 80, 120, 400])
def test_many_methods_are_laid_in_as_many_tables_as_the_width_needs(record: Make, width: int) -> None:
    names = [f"method-{number}" for number in range(9)]
    records = [closed(record, name) for name in names]
    text = shown(records, width)
    assert max(map(len, text.splitlines())) <= max(width, 60)
    figures = [line for line in text.splitlines() if line.startswith("device")]
    assert sum(line.count("16.00") for line in figures) == 9
    assert (len(figures) == 1) == (width >= only(records).natural_width)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0.00"), (512, "512 B"), (-32, "-32 B"), (GIB // 2, "0.50"), (None, "-"), (GIB // 200 + 1, "0.01")],
)
def test_a_size_that_would_vanish_is_said_in_bytes(nbytes: int | None, text: str) -> None:
    assert size(nbytes, "GiB") == text
