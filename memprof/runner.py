"""Runs one cell: formula and trace here, speed and memory each in a process apart, whatever becomes of it.

A measured child gets the scenario as JSON on its standard input and answers with JSON on its standard output; this
process holds no tensors and unpickles nothing. Only a user's own `Method` object, which has no name that could be sent,
is measured here, and its record says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from memprof.catalogue import METHODS
from memprof.child import NO_ANSWER, CellError, Reply, ask_child, data_of, one_line
from memprof.device import get_device
from memprof.errors import MemprofError, UnsupportedError
from memprof.formula import formula
from memprof.guard import cell_errors, read_text_of
from memprof.headroom import MAX_FRACTION, Headroom
from memprof.learning import judge
from memprof.measure.history_file import history_path
from memprof.measure.memory import measure_memory
from memprof.method import Method
from memprof.race.ask import Race, Result
from memprof.race.here import race_here
from memprof.race.laps import DEFAULT_ROUNDS, DEFAULT_STEPS
from memprof.race.result import CONTAMINATED
from memprof.record import Measured, Record, measured_from_dict
from memprof.scenario import Scenario
from memprof.trace import trace

DEFAULT_TIMEOUT = 1_800.0
"""seconds one measured cell may take"""
DESCRIBE_TIMEOUT = 120.0
IN_PROCESS = "in-process"
"""flag of a cell that was measured in the calling process, beside all that this one holds; nothing bounds its time"""
MEASURED_HERE = "measured in the calling process: a method of your own is not sent to one of its own"


def run_cell(
    scenario: Scenario,
    *,
    rounds: int = DEFAULT_ROUNDS,
    steps: int = DEFAULT_STEPS,
    timeout: float = DEFAULT_TIMEOUT,
    max_fraction: float = MAX_FRACTION,
    histories: Path | None = None,
    predicted: Record | None = None,
    raced: Result | None = None,
) -> Record:
    """A record of the scenario; what goes wrong in running it becomes the record's status and reason.

    With `histories` what its allocator did is kept in that folder. `predicted` and `raced` are what is known of it
    already; without the latter it is timed by itself. With no rounds it is not timed at all: its memory is measured.
    """
    record = predicted or predict(scenario)
    if scenario.device is None or record.trace is None:
        return record
    here = not has_a_name(scenario.method)
    room = Headroom.of(record.trace, max_fraction)
    record = replace(record, flags=(IN_PROCESS,) if here else ())
    history = None if histories is None else history_path(histories, scenario.id)
    try:
        if raced is None and rounds:
            race = Race(scenarios=(scenario,), rooms={scenario.id: room}, rounds=rounds, steps=steps, timeout=timeout)
            raced = race_here(race) if here else race.run()[scenario.id]
        if isinstance(raced, CellError):
            raise raced
        memory = (
            guarded_measure(scenario, room, history) if here else measure_in_child(scenario, timeout, room, history)
        )
    except CellError as error:
        return replace(record, status=error.status, reason=str(error))
    measured = raced.with_memory(memory) if raced else memory
    verdict = judge(scenario, measured) if raced else None
    told = ([verdict.reason] if verdict else []) + [MEASURED_HERE] * here
    flags = [*record.flags, *(raced.flags if raced else ())]
    flags += [CONTAMINATED] if memory.others else []
    flags += [verdict.flag] if verdict else []
    return replace(record, measured=measured, flags=tuple(dict.fromkeys(flags)), reason="; ".join(told) or None)


def predict(scenario: Scenario) -> Record:
    """Formula and trace: all that a scenario without a device has."""
    identity: dict[str, Any] = {"id": scenario.id, "scenario": plain(scenario.to_dict()), "formula": formula(scenario)}
    try:
        return Record(**identity, trace=trace(scenario))
    except MemprofError:
        raise
    except Exception as error:
        return Record(**identity, status="crashed", reason=one_line(f"trace: {type(error).__name__}: {error}"))


def unfinished(scenario: Scenario, status: str, reason: str) -> Record:
    """A record of a cell that nobody ran."""
    return Record(id=scenario.id, scenario=plain(scenario.to_dict()), status=status, reason=reason)


def plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """Data as JSON gives it back: tuples become lists."""
    return dict(json.loads(json.dumps(data)))


def has_a_name(method: Method) -> bool:
    """Whether a child finds the method by its name. A user's own class has none that may be sent: it would be code."""
    return METHODS.get(method.name) is type(method)


def guarded_measure(scenario: Scenario, headroom: Headroom, history: Path | None = None) -> Measured:
    """Measure its memory if there is room, with torch's errors told apart: out of memory, or anything else."""
    assert scenario.device is not None
    with cell_errors():
        device = get_device(scenario.device)
        read_text_of(scenario)
        headroom.check(device)
        return measure_memory(scenario, device, history)


def measure_in_child(scenario: Scenario, timeout: float, headroom: Headroom, history: Path | None = None) -> Measured:
    """Measure in a fresh Python process; its crash, hang or rubbish is this cell's status and nothing more."""
    text = None if scenario.text is None else str(scenario.text.path)
    request = {"scenario": scenario.to_dict(), "headroom": asdict(headroom), "text": text,
               "history": None if history is None else str(history)}  # fmt: skip
    return read_answer(ask_child(request, timeout))


def describe_device(kind: str) -> dict[str, Any]:
    """What the device is called, asked in a child: here, the question alone would set up a context on a GPU."""
    try:
        reply = ask_child({"describe": kind}, DESCRIBE_TIMEOUT)
    except CellError:
        raise UnsupportedError(
            f"device {kind} gives no answer that can be used within {DESCRIBE_TIMEOUT:g} s"
        ) from None
    try:
        return dict(json.loads(reply.answer)["described"])
    except (ValueError, KeyError, TypeError):
        why = f"device {kind} does not answer (exit {reply.code}): {reply.last_words}"
        raise UnsupportedError(one_line(why)) from None


def read_answer(reply: Reply) -> Measured:
    """A child's answer, checked; anything else than a measurement raises `CellError`."""
    data = data_of(reply)
    try:
        return measured_from_dict(data["measured"])
    except (KeyError, TypeError, AttributeError, MemprofError):
        raise CellError("crashed", NO_ANSWER) from None
