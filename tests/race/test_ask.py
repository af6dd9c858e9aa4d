"""A race as the asking process sees it, with processes by script: together, apart, alone, and what is let in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

import memprof.race.ask
from memprof.child import CellError, Reply
from memprof.headroom import Headroom
from memprof.race.ask import Race
from memprof.race.result import Raced
from memprof.scenario import Scenario
from tests.race.stage import a_round, exactly, laps, scenario_of

ADAMW, SGD, LION = (scenario_of(name) for name in ("adamw", "sgd", "lion"))
NAMES = {scenario.id: scenario.method.name for scenario in (ADAMW, SGD, LION)}
STEP = {"adamw": 10.0, "sgd": 5.0, "lion": 20.0}
Asked = dict[str, Any]


def race(*scenarios: Scenario, rounds: int = 2, steps: int = 4, timeout: float = 60.0) -> Race:
    rooms = {scenario.id: Headroom(7, 0.5, 3) for scenario in scenarios}
    return Race(scenarios=scenarios, rooms=rooms, rounds=rounds, steps=steps, timeout=timeout)


def figures(request: Asked) -> dict[str, Any]:
    """A process in which all goes well: every method's step takes its time."""
    outcomes = {}
    for name in map(method_id, request["scenarios"]):
        step = STEP[NAMES[name]]
        rounds = [a_round(n * step, steps=n) for n in request["windows"]]
        outcomes[name] = {"laps": asdict(laps(*rounds))}
    return dict(json.loads(json.dumps({"outcomes": outcomes, "abilities": {"gpu": None, "rates": None}})))


def method_id(data: Asked) -> str:
    return next(key for key, name in NAMES.items() if name == data["method"])


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Asked]]:
    """Answer every request as `does` says; returns the list of requests, which grows."""

    def script(does: Callable[[Asked], dict[str, Any] | CellError | Reply]) -> list[Asked]:
        asked: list[Asked] = []

        def child(request: Asked, timeout: float, most: int) -> Reply:
            asked.append(json.loads(json.dumps(request["race"])) | {"timeout": timeout, "most": most})
            answer = does(asked[-1])
            if isinstance(answer, CellError):
                raise answer
            return answer if isinstance(answer, Reply) else Reply(json.dumps(answer).encode(), 0)

        monkeypatch.setattr(memprof.race.ask, "ask_child", child)
        return asked

    return script


def methods(request: Asked) -> list[str]:
    return [scenario["method"] for scenario in request["scenarios"]]


def speed(result: Raced | CellError) -> Raced:
    assert isinstance(result, Raced), result
    return result


def test_all_that_fit_are_asked_for_at_once(processes: Any) -> None:
    asked = processes(figures)
    found = race(ADAMW, SGD, rounds=3, steps=7).run()
    (request,) = asked
    assert methods(request) == ["adamw", "sgd"] and request["windows"] == [2, 2, 3]
    assert request["headrooms"] == [{"needed": 7, "max_fraction": 0.5, "steady": 3}] * 2
    assert (request["null"], request["ceilings"], request["text"]) == (True, True, None)
    assert request["timeout"] == 120.0, "for each entrant"
    assert speed(found[ADAMW.id]).examples_per_second == exactly(0.2)
    assert speed(found[SGD.id]).speed.ratio == exactly(2.0)
    assert speed(found[SGD.id]).speed.steps == 7


def test_without_adamw_there_is_no_ratio(processes: Any) -> None:
    processes(figures)
    found = race(SGD, LION).run()
    assert [speed(one).speed.ratio for one in found.values()] == [None, None]


def test_a_process_that_dies_has_its_cells_timed_alone(processes: Any) -> None:
    dies = CellError("crashed", "the measuring process died of signal 11")
    asked = processes(lambda request: dies if "lion" in methods(request) else figures(request))
    found = race(ADAMW, SGD, LION).run()
    assert [methods(request) for request in asked] == [["adamw", "sgd", "lion"], ["adamw"], ["sgd"], ["lion"]]
    assert speed(found[SGD.id]).speed.ratio is None, "there is no pair"
    assert speed(found[SGD.id]).examples_per_second == exactly(0.4)
    assert found[LION.id] == dies
    assert asked[1]["timeout"] == 60.0


def test_an_entrant_that_failed_beside_others_is_timed_alone(processes: Any) -> None:
    """With more room it may do; the others keep what they have."""

    def short_of_memory(request: Asked) -> dict[str, Any]:
        answer = figures(request)
        if len(request["scenarios"]) > 1:
            answer["outcomes"][SGD.id] = {"status": "oom", "reason": "out of memory"}
        return answer

    asked = processes(short_of_memory)
    found = race(ADAMW, SGD, LION).run()
    assert [methods(request) for request in asked] == [["adamw", "sgd", "lion"], ["sgd"]]
    assert speed(found[SGD.id]).speed.ratio is None and speed(found[LION.id]).speed.ratio == exactly(0.5)


@pytest.mark.parametrize(("status", "processes_asked"), [("skipped", 1), ("oom", 2)])
def test_what_does_not_fit_by_itself_is_not_asked_again(processes: Any, status: str, processes_asked: int) -> None:
    def without_room(request: Asked) -> dict[str, Any]:
        answer = figures(request)
        answer["outcomes"][SGD.id] = {"status": status, "reason": "why"}
        return answer | ({} if ADAMW.id in answer["outcomes"] else {"outcomes": {SGD.id: answer["outcomes"][SGD.id]}})

    asked = processes(without_room)
    result = race(ADAMW, SGD).run()[SGD.id]
    assert isinstance(result, CellError) and (result.status, str(result)) == (status, "why")
    assert len(asked) == processes_asked


def test_where_nobody_can_race_nobody_is_asked_again(processes: Any) -> None:
    asked = processes(lambda request: CellError("unsupported", "no such device"))
    found = race(ADAMW, SGD).run()
    assert [str(one) for one in found.values()] == ["no such device"] * 2 and len(asked) == 1


def too_many(request: Asked) -> dict[str, Any]:
    return {"apart": True} if len(request["scenarios"]) > 1 else figures(request)


def test_what_does_not_fit_together_has_a_process_for_each_turn(processes: Any) -> None:
    asked = processes(too_many)
    found = race(ADAMW, SGD, rounds=3, steps=7).run()
    turns = [(methods(request), request["windows"], request["null"]) for request in asked[1:]]
    assert len(turns) == 3 * (1 + 1 + 1)
    for number, steps in enumerate((2, 2, 3)):
        names = sorted(name for (name,), _, _ in turns[3 * number : 3 * number + 3])
        assert names == ["adamw", "adamw", "sgd"]
        assert {(tuple(windows), null) for _, windows, null in turns[3 * number : 3 * number + 3]} == {
            ((steps,), False)
        }
    assert speed(found[SGD.id]).speed.ratio == exactly(2.0)
    assert speed(found[SGD.id]).speed.spread == exactly(1.0)
    assert (speed(found[SGD.id]).speed.steps, speed(found[SGD.id]).speed.rounds) == (7, 3)
    assert speed(found[SGD.id]).loss_first == 3.0


def test_rounds_apart_are_pairs(processes: Any) -> None:
    """A machine on which each round takes twice as long as the one before, for all alike."""
    seen: dict[str, int] = {}

    def slower(request: Asked) -> dict[str, Any]:
        if len(request["scenarios"]) > 1:
            return {"apart": True}
        (name,) = methods(request)
        number = seen[name] = seen.get(name, -1) + 1
        factor = 2.0 ** (number // 2 if name == "adamw" else number)
        seconds = STEP[name] * factor * request["windows"][0]
        outcome = {"laps": asdict(laps(a_round(seconds, steps=request["windows"][0])))}
        return {"outcomes": {method_id(request["scenarios"][0]): outcome}, "abilities": {"gpu": None}}

    processes(slower)
    found = race(ADAMW, SGD, rounds=4, steps=4).run()
    assert speed(found[SGD.id]).speed.ratio == exactly(2.0)
    assert speed(found[SGD.id]).speed.spread == exactly(1.0)


def test_apart_the_first_process_measures_the_device_and_the_longest_warm_up_counts(processes: Any) -> None:
    rate = {"median": 1e12, "least": 1e12, "most": 1e12}
    rates = {"sizes": {"copied": 8, "side": 8, "in_window": 1}, "copy": rate, "matrix": rate, "tf32": None}
    turns = iter(range(10))

    def does(request: Asked) -> dict[str, Any]:
        answer = too_many(request)
        for outcome in answer.get("outcomes", {}).values():
            number = next(turns)
            outcome["laps"] |= {"warmup_steps": 8 if number == 0 else 4, "steady": number > 0}
            answer["abilities"]["rates"] = rates if request["ceilings"] else None
        return answer

    asked = processes(does)
    found = race(SGD, LION, rounds=3, steps=3).run()
    assert [request["ceilings"] for request in asked[1:]] == [True] + [False] * 5
    assert all(speed(one).speed.floor is not None for one in found.values())
    (first,) = methods(asked[1])
    said = {NAMES[name]: (speed(one).speed.warmup_steps, speed(one).speed.steady) for name, one in found.items()}
    assert said == {"sgd": (4, True), "lion": (4, True)} | {first: (8, False)}


def test_heat_beside_the_nulls_turn_leaves_no_null_apart_either(processes: Any) -> None:
    def in_heat(request: Asked) -> dict[str, Any]:
        answer = too_many(request)
        for outcome in answer.get("outcomes", {}).values():
            outcome["laps"]["rounds"][0]["slowdowns"] = ["heat"]
        return answer

    processes(in_heat)
    found = race(ADAMW, SGD).run()
    assert speed(found[ADAMW.id]).speed.spread is None and speed(found[ADAMW.id]).flags == ("throttled",)


def test_one_that_fails_apart_is_out(processes: Any) -> None:
    dies = CellError("timeout", "no answer within 60 s")
    alone = [["sgd"], ["adamw"]]

    def does(request: Asked) -> Any:
        return dies if methods(request) == alone[0] else too_many(request)

    asked = processes(does)
    found = race(ADAMW, SGD, rounds=3).run()
    assert found[SGD.id] == dies and speed(found[ADAMW.id]).speed.rounds == 3
    assert [methods(request) for request in asked].count(["sgd"]) == 1


def broken(**changes: Any) -> Callable[[Asked], Any]:
    """A process whose only round is otherwise in one figure."""

    def does(request: Asked) -> Any:
        answer = figures(request)
        for outcome in answer["outcomes"].values():
            outcome["laps"]["rounds"][0] |= changes
        return answer

    return does


def named(request: Asked) -> str:
    return str(next(iter(figures(request)["outcomes"])))


@pytest.mark.parametrize(
    "does",
    [
        lambda request: {},
        lambda request: {"outcomes": {}, "abilities": {}},
        lambda request: {"outcomes": [], "abilities": {}},
        lambda request: figures(request) | {"abilities": {"gpu": 3}},
        lambda request: figures(request) | {"outcomes": {"other": figures(request)["outcomes"][named(request)]}},
        lambda request: figures(request) | {"outcomes": {named(request): {"status": "banana", "reason": "?"}}},
        lambda request: figures(request | {"windows": [1]}),
        broken(seconds=0.0),
        broken(seconds=None),
        broken(seconds="10"),
        broken(steps=0),
        broken(waited=-1.0),
        broken(each=[]),
        broken(each=["1"]),
        broken(each=5.0),
        broken(phases={"forward": -1.0}),
        broken(joules=float("nan")),
        broken(unheard=1),
        lambda request: Reply(b"[" * 100_000, 0),
        lambda request: Reply(b"[1, 2]", 0),
    ],
)
def test_rubbish_is_no_race(processes: Any, does: Callable[[Asked], Any]) -> None:
    processes(does)
    result = race(SGD).run()[SGD.id]
    assert isinstance(result, CellError)
    assert (result.status, str(result)) == ("crashed", "the measuring process gave no usable answer")
