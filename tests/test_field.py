"""Who races whom in a comparison, and what each cell knows when its turn comes. Races by script."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from memprof.api import plan, run
from memprof.child import CellError
from memprof.errors import MemprofError
from memprof.race.ask import Race
from memprof.record import Record
from memprof.runner import predict, unfinished
from memprof.scenario import Scenario
from tests.cells import MEASURED, RACED
from tests.test_runner import Mine

TINY: dict[str, Any] = {"num_layers": 1, "vocab_size": 32, "dtype": "fp32", "device": "cpu"}


def cells(methods: list[Any], **fields: Any) -> list[Scenario]:
    return plan(["9m"], methods, **TINY | {"batch_size": [1, 2], "seq_len": 8} | fields)


@pytest.fixture
def races(monkeypatch: pytest.MonkeyPatch) -> list[Race]:
    """Those that were run, and all ended well; so does every memory pass."""
    seen: list[Race] = []

    def over(race: Race) -> dict[str, Any]:
        seen.append(race)
        return {scenario.id: RACED for scenario in race.scenarios}

    monkeypatch.setattr(Race, "run", over)
    monkeypatch.setattr("memprof.runner.measure_in_child", lambda *_: MEASURED)
    return seen


def names(race: Race) -> list[tuple[str, int]]:
    return [(scenario.method.name, scenario.batch_size) for scenario in race.scenarios]


def test_cells_that_differ_in_their_method_alone_race(races: list[Race]) -> None:
    told: list[tuple[int, int]] = []
    options: dict[str, Any] = {"rounds": 3, "steps": 7, "timeout": 9.0, "max_fraction": 0.5}
    records = list(run(cells(["adamw", "sgd", "galore"]), on_race=lambda *said: told.append(said), **options))
    assert [names(race) for race in races] == [[("adamw", n), ("sgd", n), ("galore", n)] for n in (1, 2)]
    assert [record.status for record in records] == ["ok"] * 6 and told == [(3, 3)] * 2
    first = races[0]
    assert (first.rounds, first.steps, first.timeout) == (3, 7, 9.0)
    room, traced = first.rooms[records[0].id], records[0].trace
    assert traced is not None and (room.needed, room.steady, room.max_fraction) == (traced.peak, traced.steady, 0.5)


def test_a_race_is_run_when_the_first_of_it_has_its_turn(races: list[Race]) -> None:
    """The order of records is the order asked for, whoever raced whom."""
    coming = run(cells(["adamw", "sgd"]))
    assert [(next(coming).method, len(races)) for _ in range(4)] == [
        ("adamw", 1),
        ("adamw", 2),
        ("sgd", 2),
        ("sgd", 2),
    ]


def test_each_cell_is_predicted_once(races: list[Race], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def noted(scenario: Scenario) -> Record:
        asked.append(scenario.id)
        return predict(scenario)

    for module in ("memprof.field", "memprof.runner"):
        monkeypatch.setattr(f"{module}.predict", noted)
    records = list(run(cells(["adamw", "sgd"])))
    assert sorted(asked) == sorted(record.id for record in records)


def test_without_a_device_nobody_races(races: list[Race]) -> None:
    assert [record.status for record in run(cells(["adamw", "sgd"], device=None))] == ["ok"] * 4
    assert not races


def test_in_no_rounds_memory_alone_is_measured(races: list[Race]) -> None:
    records = list(run(cells(["adamw", Mine()], batch_size=1), rounds=0))
    assert not races
    assert [(record.status, record.flags) for record in records] == [("ok", ()), ("ok", ("in-process",))]
    first = records[0].measured
    assert first is not None and first.peak == MEASURED.peak
    assert (first.examples_per_second, first.speed, first.loss_first) == (None, None, None)


def test_a_method_of_ones_own_races_nobody(races: list[Race], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memprof.runner.race_here", lambda race: RACED)
    monkeypatch.setattr("memprof.runner.guarded_measure", lambda *_: MEASURED)
    records = list(run(cells(["adamw", Mine(), "sgd"], batch_size=1)))
    assert [names(race) for race in races] == [[("adamw", 1), ("sgd", 1)]]
    assert [record.flags for record in records] == [(), ("in-process",), ()]


def test_what_has_outgrown_the_memory_does_not_race(races: list[Race]) -> None:
    """A smaller AdamW ran out of it, in this run or in the one that goes on."""
    scenarios = cells(["adamw", "sgd"])
    failed = unfinished(scenarios[0], "oom", "no memory")
    records = list(run(scenarios, failed=[failed]))
    assert [names(race) for race in races] == [[("adamw", 1), ("sgd", 1)], [("sgd", 2)]]
    assert [record.status for record in records] == ["ok", "skipped", "ok", "ok"]


def test_adamw_of_an_earlier_part_of_a_run_races_once_more_and_is_not_recorded_again(races: list[Race]) -> None:
    """Beside those of its batch size alone, and beside nobody who has an AdamW there already."""
    scenarios = cells(["adamw", "sgd", "galore"])
    again = [cell for cell in scenarios if cell.method.name != "galore"]
    missing = [cell for cell in scenarios if cell.method.name == "galore"]
    records = list(run(missing, beside=again))
    assert [(record.method, record.status) for record in records] == [("galore", "ok")] * 2
    assert [names(race) for race in races] == [[("galore", n), ("adamw", n)] for n in (1, 2)]
    assert all(set(race.rooms) == {scenario.id for scenario in race.scenarios} for race in races)
    races.clear()
    list(run([*missing, *(cell for cell in again if cell.batch_size == 1)], beside=again))
    assert [names(race) for race in races] == [
        [("galore", 1), ("adamw", 1), ("sgd", 1)],
        [("galore", 2), ("adamw", 2)],
    ]


def test_what_cannot_be_traced_does_not_race(races: list[Race], monkeypatch: pytest.MonkeyPatch) -> None:
    """Crashed is a status of its cell alone; bad usage ends the run, when what comes before it is done."""

    def fails(scenario: Scenario) -> Record:
        record = predict(scenario)
        if scenario.method.name == "sgd":
            return dataclasses.replace(record, trace=None, status="crashed", reason="trace: boom")
        if scenario.method.name == "lion":
            raise MemprofError("rank 9 is larger")
        return record

    for module in ("memprof.field", "memprof.runner"):
        monkeypatch.setattr(f"{module}.predict", fails)
    coming = run(cells(["adamw", "sgd", "galore", "lion"], batch_size=1))
    assert [next(coming).status for _ in range(3)] == ["ok", "crashed", "ok"]
    assert [names(race) for race in races] == [[("adamw", 1), ("galore", 1)]]
    with pytest.raises(MemprofError, match="rank 9"):
        next(coming)


def test_one_that_failed_in_its_race_is_a_status_and_its_memory_is_not_tried(
    races: list[Race], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Race,
        "run",
        lambda race: {
            one.id: CellError("oom", "no memory") if one.method.name == "sgd" else RACED for one in race.scenarios
        },
    )
    records = list(run(cells(["adamw", "sgd"])))
    assert [(record.method, record.status) for record in records] == [
        ("adamw", "ok"),
        ("adamw", "ok"),
        ("sgd", "oom"),
        ("sgd", "skipped"),
    ]
