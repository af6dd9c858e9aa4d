"""Measurements for a paper's tables: of a stored run, or taken now."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memprof import api
from memprof.diff.read import read_run
from memprof.papers.source import Paper, Table
from memprof.record import Measured
from memprof.reproduce.figures import key
from memprof.reproduce.run import scenarios


def stored(run: str) -> dict[str, Measured]:
    """What a run measured, by the scenario."""
    return {key(record): record.measured for record in read_run(run).records if record.measured is not None}


def measure(
    paper: Paper, tables: Sequence[Table], device: str, steps: int, on_cell: Callable[[int, int], None]
) -> dict[str, Measured]:
    """Every scenario of the tables measured on a device, each in a process of its own; what fails is left out."""
    chosen = api.choose_device(True, device)
    assert chosen is not None
    wanted = scenarios(paper, tables, chosen)
    found: dict[str, Measured] = {}
    for number, record in enumerate(api.run(wanted, steps=steps)):
        on_cell(number, len(wanted))
        if record.measured is not None:
            found[key(record)] = record.measured
    return found
