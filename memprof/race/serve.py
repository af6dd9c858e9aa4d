"""A race as a measuring process runs it: a request in, and out the bare figures of each entrant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from memprof.child import CellError
from memprof.device import Device, get_device
from memprof.guard import cell_errors, read_text_of
from memprof.headroom import Headroom, fit_together
from memprof.race.bounds import abilities
from memprof.race.course import Outcome, race
from memprof.request import scenario_from_dict
from memprof.scenario import Scenario


def serve(request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a request that `memprof.race.ask` made; `CellError` where nobody can race at all."""
    scenarios = [scenario_from_dict(data, request["text"]) for data in request["scenarios"]]
    rooms = {scenario.id: Headroom(**room) for scenario, room in zip(scenarios, request["headrooms"], strict=True)}
    assert scenarios[0].device is not None
    with cell_errors():
        device = get_device(scenarios[0].device)
        read_text_of(scenarios[0])
    fitting, outcomes = with_room(scenarios, rooms, device)
    if len(fitting) > 1 and not fit_together([rooms[scenario.id] for scenario in fitting], device):
        return {"apart": True}
    known = abilities(device, scenarios[0], request["ceilings"])
    if fitting:
        with cell_errors():
            outcomes |= race(fitting, device, request["windows"], null=request["null"])
    return {"outcomes": {name: _plain(one) for name, one in outcomes.items()}, "abilities": asdict(known)}


def with_room(
    scenarios: Sequence[Scenario], rooms: Mapping[str, Headroom], device: Device
) -> tuple[list[Scenario], dict[str, Outcome]]:
    """Those that fit by themselves, and why the others are not tried."""
    fitting: list[Scenario] = []
    refused: dict[str, Outcome] = {}
    for scenario in scenarios:
        try:
            rooms[scenario.id].check(device)
            fitting.append(scenario)
        except CellError as error:
            refused[scenario.id] = error
    return fitting, refused


def _plain(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, CellError):
        return {"status": outcome.status, "reason": str(outcome)}
    return {"laps": asdict(outcome)}
