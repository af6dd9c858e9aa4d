"""A race on a real GPU: two clocks that agree, a host that runs ahead, and what a launch costs on the papers' clock."""

from __future__ import annotations

from typing import Any

import pytest

from memprof.api import plan
from memprof.device import get_device
from memprof.race.course import race
from memprof.race.host import host_wait, is_host_bound
from memprof.race.laps import Laps
from memprof.scenario import Scenario

pytestmark = pytest.mark.gpu


def cells(model: str, methods: list[str], **fields: Any) -> list[Scenario]:
    return plan([model], methods, device="cuda", **fields)


def laps(scenarios: list[Scenario], windows: tuple[int, ...] = (4, 4)) -> list[Laps]:
    found = race(scenarios, get_device("cuda"), windows)
    assert all(isinstance(one, Laps) for one in found.values()), found
    return [one for scenario in scenarios if isinstance(one := found[scenario.id], Laps)]


def test_the_devices_clock_and_the_hosts_tell_the_same_window() -> None:
    """Events span the window but for its two ends; phases and single steps are its parts."""
    (adamw,) = laps(cells("350m", ["adamw"]))
    for each in adamw.rounds:
        assert 0.95 * each.seconds < each.device_seconds <= each.seconds
        assert sum(each.phases.values()) == pytest.approx(each.device_seconds, rel=1e-3)
        assert sum(each.each) == pytest.approx(each.device_seconds, rel=1e-3)


def test_a_large_batch_keeps_the_host_waiting() -> None:
    (scenario,) = cells("350m", ["adamw"], batch_size=64)
    (adamw,) = laps([scenario])
    wait = host_wait(scenario, adamw.rounds)
    assert wait is not None and wait > 0.1 and not is_host_bound(scenario, adamw.rounds)


@pytest.mark.parametrize("model", ["9m", "350m"])
def test_a_tiny_step_waits_for_the_host(model: str) -> None:
    """Though the update of the larger model alone keeps the GPU busy for a millisecond at its end."""
    (scenario,) = cells(model, ["adamw"], batch_size=1, seq_len=8)
    (adamw,) = laps([scenario])
    assert is_host_bound(scenario, adamw.rounds)


def test_the_papers_clock_runs_behind_ours() -> None:
    """Muon's optimizer phase is long, and its launch is not."""
    (muon,) = laps(cells("350m", ["muon"]))
    for each in muon.rounds:
        assert each.papers is not None and each.papers < each.step


def test_losses_beside_others_are_those_alone() -> None:
    """Both on the same GPU; what its kernels may do in any order is left out by the one seed and shape."""
    scenarios = cells("9m", ["adamw", "flora"])
    together = laps(scenarios)
    alone = [laps([scenario])[0] for scenario in scenarios]
    for beside, by_itself in zip(together, alone, strict=True):
        assert beside.loss_first == pytest.approx(by_itself.loss_first, rel=1e-3)


def test_energy_is_counted() -> None:
    device = get_device("cuda")
    if device.joules() is None:
        pytest.skip("this GPU has no energy counter")
    (adamw,) = laps(cells("350m", ["adamw"], batch_size=32), windows=(20,))
    assert (adamw.rounds[0].joules or 0) > 0
