"""The measuring process itself: one request in, one answer out, and nothing beside it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from memprof.api import plan
from memprof.record import measured_from_dict
from memprof.runner import run_cell
from memprof.scenario import Scenario

ROOT = Path(__file__).parents[1]
NOISY = """
import ctypes, os, sys
import memprof.runner
from memprof import worker
real = memprof.runner.guarded_measure
def noisy(*args):
    print("printed by Python")
    sys.stdout.flush()
    os.write(1, b"written to descriptor 1\\n")
    ctypes.CDLL(None).puts(b"put there by C")
    ctypes.CDLL(None).fflush(None)
    return real(*args)
memprof.runner.guarded_measure = noisy
worker.main()
"""


def scenario_of(method: str = "adamw", **fields: Any) -> Scenario:
    chosen: dict[str, Any] = {
        "dtype": "fp32",
        "num_layers": 1,
        "vocab_size": 32,
        "batch_size": 1,
        "seq_len": 8,
        "device": "cpu",
    }
    (scenario,) = plan(["9m"], [method], **chosen | fields)
    return scenario


def ask(arguments: list[str], request: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], input=request, capture_output=True, text=True, env=environment, timeout=120
    )


def test_what_libraries_print_does_not_reach_the_answer() -> None:
    request = json.dumps(
        {"scenario": scenario_of().to_dict(), "steps": 2, "headroom": {"needed": 0, "max_fraction": 1}}
    )
    done = ask(["-c", NOISY], request)
    assert done.returncode == 0, done.stderr
    measured = measured_from_dict(json.loads(done.stdout)["measured"])
    assert measured.param > 0 and measured.device is not None
    for noise in ("printed by Python", "written to descriptor 1", "put there by C"):
        assert noise in done.stderr


@pytest.mark.parametrize(
    "request_", ["", "{}", '{"scenario": {}, "steps": 2}'], ids=["nothing", "empty", "no scenario"]
)
def test_a_bad_request_has_no_answer(request_: str) -> None:
    done = ask(["-m", "memprof.worker"], request_)
    assert done.returncode != 0 and done.stdout == ""


DEPENDENT = """
import pathlib, signal, sys
from memprof.worker import OOM_SCORE, depend_on
depend_on(int(sys.argv[1]))
print(OOM_SCORE.read_text().strip(), signal.getsignal(signal.SIGINT) == signal.SIG_IGN, flush=True)
sys.stdin.read()
"""
PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], stdin=subprocess.PIPE)
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_worker_dies_with_its_parent_and_before_it_when_memory_runs_out() -> None:
    """The parent is killed as nobody can prepare for; the child waits on a pipe that stays open here."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PARENT, DEPENDENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert parent.stdout.readline() == "1000 True\n"
        parent.kill()
    gone, left = psutil.wait_procs([child], timeout=10)
    assert gone and not left


def test_a_worker_whose_parent_is_gone_already_does_nothing() -> None:
    done = ask(["-m", "memprof.worker", "1000000000"], "{}")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_a_cell_runs_in_a_process_of_its_own() -> None:
    """The whole way: the child's figures are those that its record holds, and the process's own memory is in them."""
    record = run_cell(scenario_of("galore"), steps=2, timeout=120)
    assert record.status == "ok", record.reason
    measured, traced = record.measured, record.trace
    assert measured is not None and traced is not None
    assert (measured.param, measured.optimizer_state) == (traced.param, traced.optimizer_state)
    assert measured.device is not None and measured.context is not None and measured.residual is not None
    worst = max(measured.peak, measured.refresh_peak or 0)
    assert measured.device == measured.context + worst + measured.residual
    assert json.loads(json.dumps(dataclasses.asdict(record), allow_nan=False))["measured"]["reserved"] is None
