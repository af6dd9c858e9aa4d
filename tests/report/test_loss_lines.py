"""What the loss did, read back as text. Oracle: figures by hand."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable

from rich.console import Console

from memprof.record import Record
from memprof.report.loss_lines import TITLE, loss_lines

Make = Callable[..., Record]


def with_losses(made: Record, first: float, last: float | None) -> Record:
    assert made.measured is not None
    return dataclasses.replace(made, measured=dataclasses.replace(made.measured, loss_first=first, loss_last=last))


def test_each_measured_row_has_its_losses_and_its_reason(record: Make) -> None:
    why = "the loss did not move: 10.4 to 10.4"
    records = [
        with_losses(record(speed=3.0), 10.4, 10.297),
        with_losses(record("sgd", speed=3.0, reason=why, flags=("flat",)), 10.4, 10.4),
        with_losses(record("lion", speed=3.0), 10.4, None),
        record("lora"),
    ]
    found = loss_lines(records)
    assert found is not None
    assert found.lines == [
        "adamw  10.400 -> 10.297",
        f"sgd    10.400 -> 10.400  {why}",
        "lion   10.400 -> not finite",
    ]
    console = Console(width=found.natural_width, file=io.StringIO())
    console.print(found)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [TITLE, *found.lines], "nothing folds"


def test_models_are_named_where_there_are_several(record: Make) -> None:
    found = loss_lines([with_losses(record(model=name, speed=3.0), 2.0, 1.0) for name in ("60m", "1b")])
    assert found is not None and found.lines == ["60m adamw  2.000 -> 1.000", "1b adamw   2.000 -> 1.000"]


def test_without_a_loss_there_is_nothing_to_say(record: Make) -> None:
    assert loss_lines([record(), record("lora", speed=3.0)]) is None
