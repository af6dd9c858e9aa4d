"""What a measuring process makes of a request: who fits, what is measured first, what is answered."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
import torch

import memprof.race.bounds
import memprof.race.serve
from memprof.bounds.ceilings import Ceilings, Rate, Sizes
from memprof.catalogue import CORE
from memprof.child import CellError
from memprof.headroom import Headroom
from memprof.race.laps import Laps
from memprof.race.serve import serve
from memprof.reading import read
from memprof.scenario import Scenario
from tests.race.stage import Cost, Queue, Script, always, scenario_of

ADAMW, SGD = scenario_of("adamw"), scenario_of("sgd")
RATE = Rate(median=2e9, least=1e9, most=3e9)
FOUND = Ceilings(dtype=torch.float32, sizes=Sizes(8, 8, 1), copy=RATE, matrix=RATE, tf32=None)


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    made = Queue()
    monkeypatch.setattr(memprof.race.serve, "get_device", lambda kind: made)
    monkeypatch.setattr(memprof.race.bounds, "measure_ceilings", lambda device, dtype: FOUND)
    Script(made, {name: always(Cost()) for name in ("adamw", "sgd")}).install(monkeypatch)
    return made


def request(*scenarios: Scenario, needed: int = 10, steady: int = 4, ceilings: bool = True) -> dict[str, Any]:
    return {
        "scenarios": [json.loads(json.dumps(scenario.to_dict())) for scenario in scenarios],
        "headrooms": [asdict(Headroom(needed, 1.0, steady))] * len(scenarios),
        "windows": [2, 2],
        "null": True,
        "ceilings": ceilings,
        "text": None,
    }


def test_all_who_fit_side_by_side_race(queue: Queue) -> None:
    queue.free = 14
    answer = json.loads(json.dumps(serve(request(ADAMW, SGD)), allow_nan=False))
    assert set(answer["outcomes"]) == {ADAMW.id, SGD.id}
    assert all(len(read(Laps, one["laps"]).rounds) == 2 for one in answer["outcomes"].values())
    assert answer["abilities"]["rates"]["copy"] == asdict(RATE)


def test_those_who_do_not_are_told_so(queue: Queue) -> None:
    queue.free = 13
    assert serve(request(ADAMW, SGD)) == {"apart": True}
    assert "now" not in queue.calls
    assert set(serve(request(SGD))["outcomes"]) == {SGD.id}, "by itself it fits"


def test_one_alone_is_never_apart(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that somebody else takes between two looks at it is none of its company's doing."""
    free = iter([10, 9, 8])
    monkeypatch.setattr(queue, "free_bytes", lambda: next(free))
    assert "laps" in serve(request(SGD))["outcomes"][SGD.id]


def test_who_does_not_fit_by_itself_is_skipped(queue: Queue) -> None:
    queue.free = 9
    outcomes = serve(request(ADAMW, SGD))["outcomes"]
    assert [outcome["status"] for outcome in outcomes.values()] == ["skipped"] * 2
    assert all("--max-fraction" in outcome["reason"] for outcome in outcomes.values())


def test_what_the_device_can_do_is_measured_first_and_its_memory_given_back(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(device: Queue, dtype: torch.dtype) -> Ceilings:
        device.calls.append("ceilings")
        return FOUND

    monkeypatch.setattr(memprof.race.bounds, "measure_ceilings", measured)
    serve(request(SGD))
    assert queue.calls.index("ceilings") < queue.calls.index("reset") < queue.calls.index("synchronize")
    queue.calls.clear()
    assert serve(request(SGD, ceilings=False))["abilities"] == {"gpu": None, "rates": None}
    assert "ceilings" not in queue.calls


def test_no_room_to_measure_it_is_no_reason_not_to_race(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Ceilings:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")

    monkeypatch.setattr(memprof.race.bounds, "measure_ceilings", fails)
    answer = serve(request(SGD))
    assert answer["abilities"]["rates"] is None and "laps" in answer["outcomes"][SGD.id]


def test_a_device_that_is_not_there_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(CellError, match="no CUDA device") as error:
        serve(request(scenario_of("sgd", device="cuda", kernels=None)))
    assert error.value.status == "unsupported"


def test_the_core_methods_race_for_real(fake_device: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Real models, side by side, by the real clock."""
    monkeypatch.setattr(memprof.race.serve, "get_device", lambda kind: fake_device())
    scenarios = [scenario_of(method, rank=4) for method in CORE]
    outcomes = serve(request(*scenarios, ceilings=False) | {"windows": [1]})["outcomes"]
    assert set(outcomes) == {scenario.id for scenario in scenarios}
    found = [read(Laps, outcome["laps"]) for outcome in outcomes.values()]
    assert all(one.rounds[0].seconds > 0 and one.loss_first is not None for one in found)
    assert [one.rounds[0].refresh is not None for one in found] == [each.method.is_periodic for each in scenarios]
