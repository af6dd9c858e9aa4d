"""`memprof doctor`: one finding a line, exit 0 whatever is missing; ceilings only where they are asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import memprof.bounds.appraisal
from memprof.bounds.ceilings import SIZES, Sizes
from memprof.doctor import findings

Main = Callable[..., Any]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "cpu", Sizes(copied=2**16, side=16, in_window=1))


def test_every_finding_is_printed(memprof_main: Main) -> None:
    outcome = memprof_main("doctor")
    assert (outcome.code, outcome.err) == (0, "") and "\x1b" not in outcome.out
    for what, finding in findings():
        assert any(line.startswith(what) and finding in line for line in outcome.out.splitlines()), what
    assert "Ceiling" not in outcome.out


def test_ceilings_stand_below_the_findings(memprof_main: Main) -> None:
    outcome = memprof_main("doctor", "--ceilings", "--device", "cpu")
    assert (outcome.code, outcome.err) == (0, "") and "\x1b" not in outcome.out
    found, ceilings = outcome.out.split("Ceilings of cpu")
    assert "formula and trace" in found
    for what in ("copy", "bf16 product", "fp16 product", "fp32 product"):
        assert sum(line.startswith(what) for line in ceilings.splitlines()) == 1, what
    assert all(len(line) <= 80 for line in ceilings.splitlines())
    assert "n = 16" in ceilings and "No data sheet of this device is known here." in ceilings


def test_one_json_document_and_nothing_else(memprof_main: Main) -> None:
    plain, measured = (json.loads(memprof_main("doctor", *more, "--json").out) for more in ((), ("--ceilings",)))
    assert plain["findings"] == dict(findings()) and plain["ceilings"] is None
    assert measured["ceilings"]["copy_bytes"]["per_second"]["median"] > 0
    assert set(measured["ceilings"]["matrix_flops"]) == {"bf16", "fp16", "fp32"}


def test_a_device_that_is_not_there_is_one_line(memprof_main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memprof.bounds.appraisal, "has_cuda", lambda: False)
    outcome = memprof_main("doctor", "--ceilings", "--device", "cuda")
    assert (outcome.code, outcome.out) == (4, "")
    assert outcome.err == "memprof: --device cuda: torch sees no CUDA device here; use --device cpu\n"


def test_a_device_without_ceilings_says_what_it_is_for(memprof_main: Main) -> None:
    outcome = memprof_main("doctor", "--device", "cpu")
    assert (outcome.code, outcome.out) == (2, "") and "add --ceilings" in outcome.err
