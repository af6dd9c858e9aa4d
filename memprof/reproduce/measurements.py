"""Measurements for a paper's tables: of a stored run, or taken now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from memprof import api
from memprof.diff.read import read_run
from memprof.papers.source import Paper, Table
from memprof.race.laps import DEFAULT_ROUNDS, DEFAULT_STEPS
from memprof.record import Measured, Record
from memprof.reproduce.figures import key
from memprof.reproduce.run import scenarios


@dataclass(slots=True)
class Measurements:
    """What was measured, where, and what became of the rest."""

    on: str
    """the run's name, or the device's"""
    found: dict[str, Measured] = field(default_factory=dict)
    """by `figures.key` of the scenario; of several records of one, the last"""
    failed: list[str] = field(default_factory=list)
    """`method: status - reason` of every cell that did not end well"""

    def take(self, record: Record) -> None:
        if record.measured is not None:
            self.found[key(record)] = record.measured
        elif record.status != "ok":
            self.failed.append(f"{record.method}: {record.status}" + (f" - {record.reason}" if record.reason else ""))


def stored(run: str) -> Measurements:
    """What a run measured."""
    read = read_run(run)
    device = _device(read.environment)
    measurements = Measurements(f"run {read.name}" + (f" on {device}" if device else ""))
    for record in read.records:
        measurements.take(record)
    return measurements


def _device(environment: Mapping[str, Any]) -> str:
    """A GPU's name, or that it was a CPU; nothing where a run does not say."""
    return str(environment.get("gpu") or environment.get("device") or "")


def measure(
    paper: Paper,
    tables: Sequence[Table],
    device: str,
    on_cell: Callable[[int, int], None],
    rounds: int = DEFAULT_ROUNDS,
    steps: int = DEFAULT_STEPS,
) -> Measurements:
    """Every scenario of the tables measured on a device."""
    chosen = api.choose_device(True, device)
    assert chosen is not None
    wanted = scenarios(paper, tables, chosen)
    measurements = Measurements(_device(api.environment(chosen)) or chosen)
    for done, record in enumerate(api.run(wanted, rounds=rounds, steps=steps), 1):
        measurements.take(record)
        on_cell(done, len(wanted))
    return measurements
