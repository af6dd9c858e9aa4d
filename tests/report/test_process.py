"""The sum of a process's memory, read back as text. Oracle: sums by hand, of made-up measurements."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rich.console import Console

from memprof.record import Record
from memprof.report.process import READ_GPU, READ_HOST, process_table

Make = Callable[..., Record]
GIB = 2**30


def shown(record: Record, **measured: Any) -> str:
    assert record.measured is not None
    table = process_table([replace(record, measured=replace(record.measured, **measured))], "GiB")
    output = io.StringIO()
    Console(file=output, width=80).print(table)
    return " ".join(output.getvalue().split())


def test_what_a_host_s_process_held_sums_to_its_resident_set(record: Make) -> None:
    """8 GiB are 3 before the model, 4 of the allocator, and 1 that nobody explains."""
    sizes = {"device": 8 * GIB, "context": 3 * GIB, "peak": 4 * GIB, "refresh_peak": None, "residual": GIB}
    text = shown(record(speed=1.0), reserved=None, **sizes)
    assert "adamw 8.00 3.00 4.00 1.00" in text and text.endswith(READ_HOST)


def test_a_gpu_s_caches_are_said_to_be_what_nobody_held(record: Make) -> None:
    """6 GiB reserved for a peak of 4 leave 2."""
    text = shown(record(speed=1.0), device=7 * GIB, context=GIB, reserved=6 * GIB, peak=4 * GIB)
    assert "adamw 7.00 1.00 2.00 4.00" in text and text.endswith(READ_GPU)


def test_without_a_measurement_there_is_no_table(record: Make) -> None:
    assert process_table([record()], "GiB") is None
