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
from memprof.child import START
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
import signal, sys, time
from memprof.worker import OOM_SCORE, depend_on
signal.signal(signal.SIGINT, signal.default_int_handler)
depend_on(int(sys.argv[1]))
print(OOM_SCORE.read_text().strip(), signal.getsignal(signal.SIGINT) == signal.SIG_IGN, flush=True)
time.sleep(60)
"""
PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_worker_dies_with_its_parent_and_before_it_when_memory_runs_out() -> None:
    """The parent is killed as nobody can prepare for, and the child waits for nothing that goes with it."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PARENT, DEPENDENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        try:
            assert parent.stdout.readline() == "1000 True\n"
            parent.kill()
            gone, left = psutil.wait_procs([child], timeout=10)
            assert gone and not left
        finally:
            parent.kill()
            if child.is_running():
                child.kill()


@pytest.mark.parametrize("name", ["dataclasses", "random", "memprof"])
def test_a_folder_with_files_called_like_pythons_own_is_not_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Started as the installed command is: the current folder is not on its path, and must not be on the child's."""
    (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w'); raise SystemExit('owned')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert run_cell(scenario_of(), rounds=0, timeout=120).status == "ok"
    assert not (tmp_path / "owned").exists()


def test_a_child_is_of_this_package_and_finds_pythons_own_modules_first(tmp_path: Path) -> None:
    """In a folder like site-packages, beside a backport that must not take the place of what Python brings."""
    (tmp_path / "memprof").symlink_to(ROOT / "memprof")
    (tmp_path / "dataclasses.py").write_text("raise SystemExit('a backport')")
    code = START.replace("main()\n", "print(sys.modules['memprof.worker'].__file__)\n")
    command = [sys.executable, "-P", "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == (f"{tmp_path / 'memprof' / 'worker.py'}\n", "")


def test_a_worker_whose_parent_is_gone_already_does_nothing() -> None:
    done = ask(["-m", "memprof.worker", "1000000000"], "{}")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_a_cell_runs_in_processes_of_its_own() -> None:
    """The whole way: the children's figures are those that its record holds, and the second one's memory is in them."""
    record = run_cell(scenario_of("galore"), rounds=2, steps=3, timeout=120)
    assert record.status == "ok", record.reason
    measured, traced = record.measured, record.trace
    assert measured is not None and traced is not None
    assert (measured.param, measured.optimizer_state) == (traced.param, traced.optimizer_state)
    assert measured.speed is not None and measured.examples_per_second is not None
    assert (measured.speed.rounds, measured.speed.steps, measured.speed.refreshes) == (2, 3, 2)
    assert measured.speed.floor is not None and None not in (measured.loss_first, measured.loss_last)
    assert measured.device is not None and measured.context is not None and measured.residual is not None
    worst = max(measured.peak, measured.refresh_peak or 0)
    assert measured.device == measured.context + worst + measured.residual
    assert json.loads(json.dumps(dataclasses.asdict(record), allow_nan=False))["measured"]["reserved"] is None
