"""Whether a cell is worth trying, by hand: what is free, and what has already run out of memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from memprof.api import plan, run
from memprof.child import CellError
from memprof.device import CpuDevice
from memprof.headroom import Headroom, fit_together, outgrown
from memprof.runner import unfinished
from memprof.scenario import Scenario

GIB = 2**30


def scenario_of(method: str = "adamw", **fields: Any) -> Scenario:
    chosen: dict[str, Any] = {"num_layers": 1, "vocab_size": 32, "batch_size": 4, "seq_len": 16}
    (scenario,) = plan(["9m"], [method], **chosen | fields)
    return scenario


@pytest.mark.parametrize(
    ("needed", "fraction", "free", "fits"),
    [
        (95, 0.95, 100, True),
        (96, 0.95, 100, False),
        (150, 2.0, 100, True),
        (10**18, 0.95, None, True),
        (1, 0.5, 0, False),
    ],
)
def test_what_fits_by_hand(fake_device: Any, needed: int, fraction: float, free: int | None, fits: bool) -> None:
    try:
        Headroom(needed * GIB, fraction).check(fake_device(free=free and free * GIB))
    except CellError as error:
        assert not fits and error.status == "skipped"
        assert f"{needed}.00 GiB" in str(error) and f"{free}.00 GiB" in str(error)
        assert f"--max-fraction {fraction:g}" in str(error)
    else:
        assert fits


def test_a_refresh_counts_when_it_is_the_worst(fake_device: Any) -> None:
    from memprof.trace import trace

    traced = dataclasses.replace(trace(scenario_of("galore")), peak=5, refresh_peak=9)
    assert Headroom.of(traced, 0.5) == Headroom(9, 0.5, traced.steady)
    assert Headroom.of(dataclasses.replace(traced, refresh_peak=None), 0.5) == Headroom(5, 0.5, traced.steady)


@pytest.mark.parametrize(
    ("rooms", "free", "fits"),
    [
        ([(5, 1.0, 2), (4, 1.0, 3)], 8, True),  # 2 + 3 between steps, and at most 3 more in one
        ([(5, 1.0, 2), (4, 1.0, 3)], 7, False),
        ([(5, 0.5, 2), (4, 1.0, 3)], 15, False),
        ([(5, 0.5, 2), (4, 1.0, 3)], 16, True),
        ([(5, 1.0, 2)], 5, True),
        ([(5, 1.0, 2)], None, True),
        ([], 0, True),
    ],
)
def test_what_fits_side_by_side_by_hand(
    fake_device: Any, rooms: list[tuple[int, float, int]], free: int | None, fits: bool
) -> None:
    assert fit_together([Headroom(*room) for room in rooms], fake_device(free=free)) == fits


def test_the_host_has_memory_left() -> None:
    assert (CpuDevice().free_bytes() or 0) > 0


@pytest.mark.parametrize(
    ("fields", "skipped"),
    [
        ({"batch_size": 5}, True),
        ({"seq_len": 17}, True),
        ({"batch_size": 8, "seq_len": 32}, True),
        ({}, False),  # the very same cell may be asked again
        ({"batch_size": 3}, False),
        ({"batch_size": 64, "seq_len": 8}, False),  # more tokens, but not more of both
        ({"batch_size": 5, "num_layers": 2}, False),
        ({"batch_size": 5, "dtype": "fp32"}, False),
        ({"batch_size": 5, "method": "galore"}, False),
        ({"batch_size": 5, "method": "adamw:betas=0.9/0.95"}, False),
    ],
    ids=str,
)
def test_what_is_larger_than_a_cell_that_failed(fields: dict[str, Any], skipped: bool) -> None:
    failed = unfinished(scenario_of(), "oom", "CUDA out of memory")
    reason = outgrown(scenario_of(**fields), [failed])
    assert (reason is not None) == skipped
    if reason is not None:
        assert "batch_size 4, seq_len 16" in reason and failed.id in reason
    assert outgrown(scenario_of(**fields), [dataclasses.replace(failed, status="crashed")]) is None


def test_a_run_skips_what_is_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memprof.api.run_cell", lambda scenario, **_: unfinished(scenario, "oom", "no memory"))
    scenarios = plan(["9m"], ["adamw", "lora"], num_layers=1, vocab_size=32, batch_size=[2, 4, 1], seq_len=16)
    found = [(r.method, r.scenario["batch_size"], r.status) for r in run(scenarios)]
    assert found == [
        (method, batch, status)
        for method in ("adamw", "lora")
        for batch, status in ((2, "oom"), (4, "skipped"), (1, "oom"))
    ]
