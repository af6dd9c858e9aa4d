"""One cell, whatever becomes of it, is a status and one line; and what answer of a child is a measurement."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

import memprof.api
import memprof.child
import memprof.runner
from memprof.catalogue import METHODS
from memprof.child import MAX_ANSWER, CellError, Reply, one_line
from memprof.errors import MemprofError, UnsupportedError
from memprof.method import Footprint, Method, Weight
from memprof.methods.adamw import AdamW
from memprof.race.ask import Race
from memprof.record import Measured, Record
from memprof.request import scenario_from_dict
from memprof.runner import IN_PROCESS, guarded_measure, read_answer, run_cell
from memprof.scenario import Scenario
from tests.cells import ANSWER, MEASURED, NEEDS_NOTHING, RACED, scenario_of, without_race

RUBBISH = {
    "empty": b"",
    "text": b"Hello!",
    "cut": ANSWER[:40].encode(),
    "bytes": b"\xff\xfe\x00",
    "list": b"[1, 2]",
    "number": b"5",
    "null": b"null",
    "no figures": b'{"measured": null}',
    "other keys": b'{"measured": {"param": 1}}',
    "unknown key": ANSWER.replace('"peak"', '"peek"').encode(),
    "float of bytes": ANSWER.replace('"param": 1', '"param": 1.5', 1).encode(),
    "nesting": b"[" * 100_000,
    "unknown status": b'{"status": "banana", "reason": "?"}',
    "claims to be fine": b'{"status": "ok", "reason": ""}',
    "too long": ANSWER.encode() + b" " * MAX_ANSWER,
}


@pytest.mark.parametrize("answer", RUBBISH.values(), ids=RUBBISH.keys())
def test_rubbish_is_no_measurement(answer: bytes) -> None:
    with pytest.raises(CellError, match="no usable answer") as error:
        read_answer(Reply(answer, 0))
    assert error.value.status == "crashed"


def test_a_child_may_say_itself_what_went_wrong() -> None:
    with pytest.raises(CellError, match="out of it all") as error:
        read_answer(Reply(b'{"status": "oom", "reason": "out of\\nit all"}', 0))
    assert error.value.status == "oom"


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), "oom", "9 bytes"),
        (
            torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be"),
            "oom",
            "error: out of memory",
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "oom", "ALLOC"),
        (RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling"), "oom", "cusolver"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling"), "crashed", "EXECUTION_FAILED"),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB"), "oom", "memory. Tried"),
        (MemoryError(), "oom", "no memory left"),
        (RuntimeError("size mismatch"), "crashed", "size mismatch"),
        (ZeroDivisionError("division by zero"), "crashed", "ZeroDivisionError: division by zero"),
        (UnsupportedError("too many events"), "unsupported", "too many events"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_while_measuring_becomes_a_status(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, status: str, said: str
) -> None:
    def fail(*_: object) -> Measured:
        raise raised

    monkeypatch.setattr(memprof.runner, "measure_memory", fail)
    with pytest.raises(CellError, match=said) as error:
        guarded_measure(scenario_of(), NEEDS_NOTHING)
    assert error.value.status == status and "\n" not in str(error.value)


@pytest.mark.parametrize(("status", "reason"), [("oom", "9 bytes"), ("timeout", "too slow"), ("crashed", "signal 11")])
def test_a_failed_measurement_leaves_formula_and_trace(
    monkeypatch: pytest.MonkeyPatch, status: str, reason: str
) -> None:
    def fail(*_: object) -> Measured:
        raise CellError(status, reason)

    without_race(monkeypatch)
    monkeypatch.setattr(memprof.runner, "measure_in_child", fail)
    record = run_cell(scenario_of())
    assert (record.status, record.reason, record.measured) == (status, reason, None)
    assert record.formula is not None and record.trace is not None


@pytest.mark.parametrize(("status", "reason"), [("oom", "9 bytes"), ("skipped", "needs 3 GiB")])
def test_what_could_not_be_timed_is_not_tried_again(monkeypatch: pytest.MonkeyPatch, status: str, reason: str) -> None:
    monkeypatch.setattr(memprof.runner, "measure_in_child", lambda *_: pytest.fail("measured"))
    for known in (CellError(status, reason), None):
        monkeypatch.setattr(Race, "run", lambda race: {one.id: CellError(status, reason) for one in race.scenarios})
        record = run_cell(scenario_of(), raced=known)
        assert (record.status, record.reason, record.measured) == (status, reason, None)
        assert record.formula is not None and record.trace is not None


def test_speed_and_memory_become_one_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memprof.runner, "measure_in_child", lambda *_: dataclasses.replace(MEASURED, others=1))
    raced = dataclasses.replace(RACED, flags=("contaminated", "throttled"))
    record = run_cell(scenario_of(), raced=raced)
    assert record.flags == ("contaminated", "throttled"), "each once, whichever pass saw it"
    assert record.measured is not None
    assert (record.measured.peak, record.measured.speed, record.measured.loss_last) == (MEASURED.peak, RACED.speed, 2.0)
    assert record.measured.step_seconds == RACED.step_seconds and record.measured.tokens_per_second == 16.0
    assert Record.from_dict(json.loads(json.dumps(record.to_dict()))).measured == record.measured


def test_a_trace_that_breaks_is_a_crashed_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(scenario: Scenario) -> None:
        raise RuntimeError("no meta kernel\nfor this")

    monkeypatch.setattr(memprof.runner, "trace", fail)
    record = run_cell(scenario_of(device=None))
    assert (record.status, record.trace) == ("crashed", None)
    assert record.reason == "trace: RuntimeError: no meta kernel for this"
    assert record.formula is not None


def test_bad_usage_is_not_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(scenario: Scenario) -> None:
        raise MemprofError("rank 9 is larger")

    monkeypatch.setattr(memprof.runner, "trace", fail)
    with pytest.raises(MemprofError, match="rank 9"):
        run_cell(scenario_of(device=None))


def test_without_a_device_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Race, "run", lambda *_: pytest.fail("timed"))
    for name in ("measure_in_child", "guarded_measure"):
        monkeypatch.setattr(memprof.runner, name, lambda *_: pytest.fail("measured"))
    record = run_cell(scenario_of(device=None))
    assert (record.status, record.measured) == ("ok", None)


@dataclasses.dataclass(frozen=True, slots=True)
class Mine(Method):
    """A user's own method: plain SGD."""

    name: ClassVar[str] = "mine"
    paper: ClassVar[str] = "none"

    def prepare(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)

    def formula(self, weight: Weight) -> Footprint:
        return Footprint(param=weight.nbytes, grad=weight.nbytes, optimizer_state=0)


@dataclasses.dataclass(frozen=True, slots=True)
class Disguised(AdamW):
    """A user's own, under a name that the catalogue gives to another class."""


@pytest.mark.parametrize("method", [Mine(), Disguised()], ids=["own name", "borrowed name"])
def test_a_users_own_method_is_measured_right_here(monkeypatch: pytest.MonkeyPatch, method: Method) -> None:
    for name in ("memprof.runner.ask_child", "memprof.race.ask.ask_child"):
        monkeypatch.setattr(name, lambda *_: pytest.fail("a child knows only the catalogue"))
    record = run_cell(scenario_of(method), steps=2)
    assert record.status == "ok", record.reason
    assert record.flags == (IN_PROCESS,)
    assert record.reason == "measured in the calling process: a method of your own is not sent to one of its own"
    assert record.measured is not None and record.trace is not None
    assert record.measured.optimizer_state == record.trace.optimizer_state
    assert record.measured.param == record.trace.param


def test_a_users_own_method_that_breaks_is_a_crashed_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Method, model: nn.Module) -> torch.optim.Optimizer:
        if next(model.parameters()).is_meta:
            return torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
        raise KeyError("no such weight")

    monkeypatch.setattr(Mine, "prepare", broken)
    record = run_cell(scenario_of(Mine()), steps=2)
    assert (record.status, record.reason) == ("crashed", "KeyError: 'no such weight'")
    assert record.flags == (IN_PROCESS,)


def test_a_diverging_method_of_ones_own_says_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memprof.runner, "measure_memory", lambda *_: MEASURED)
    monkeypatch.setattr(memprof.runner, "race_here", lambda race: dataclasses.replace(RACED, loss_last=None))
    reason = str(run_cell(scenario_of(Mine())).reason)
    assert "the training diverged; measured in the calling process" in reason


@pytest.mark.parametrize(
    ("last", "flags", "said"),
    [
        (2.0, (), None),
        (3.0, ("flat",), "did not move"),
        (3.5, ("rose",), "rose: 3 to 3.5"),
        (None, ("diverged",), "not"),
    ],
)
def test_what_the_loss_did_is_a_flag_and_a_reason_and_no_failure(
    monkeypatch: pytest.MonkeyPatch, last: float | None, flags: tuple[str, ...], said: str | None
) -> None:
    monkeypatch.setattr(memprof.runner, "measure_in_child", lambda *_: MEASURED)
    record = run_cell(scenario_of(), raced=dataclasses.replace(RACED, loss_last=last))
    assert (record.status, record.flags) == ("ok", flags)
    assert record.reason is None if said is None else said in str(record.reason)


def test_only_what_was_measured_here_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    without_race(monkeypatch)
    monkeypatch.setattr(memprof.runner, "measure_in_child", lambda *_: MEASURED)
    assert run_cell(scenario_of()).flags == ()
    assert run_cell(scenario_of(Mine(), device=None)).flags == ()


@pytest.mark.parametrize("method", METHODS)
def test_a_scenario_survives_the_journey_to_a_child(method: str) -> None:
    for scenario in (scenario_of(method), scenario_of(method, dtype="bf16", accumulation=2, seed=7)):
        back = scenario_from_dict(json.loads(json.dumps(scenario.to_dict())))
        assert back == scenario and back.id == scenario.id


def test_a_text_finds_its_way_to_a_child(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"0123456789")
    scenario = scenario_of(text=file, vocab_size=256)
    back = scenario_from_dict(json.loads(json.dumps(scenario.to_dict())), str(file))
    assert back == scenario and back.id == scenario.id
    assert back.text is not None and back.text.content() == b"0123456789"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (
            "No such file or directory: '/home/alice/secret-project/data.bin'",
            "No such file or directory: '.../data.bin'",
        ),
        ('File "/home/alice/my project/x.py", line 3, in f', 'File ".../x.py", line 3, in f'),
        ("ImportError: /home/alice/.venv/lib/libtorch.so: cannot open", "ImportError: .../libtorch.so: cannot open"),
        ("looked in /home/alice/a:/home/alice/b/c", "looked in ~/a:.../c"),
        ("not writable: '/home/alice'", "not writable: '~'"),
        ("in /home/alice, or ~/secret/x.py", "in ~, or .../x.py"),
        ("in /home/alicent/x", "in .../x"),
        ("file:///home/alice/x", "file://.../x"),
        ("see https://pytorch.org/docs/stable/x.html for more", "see https://pytorch.org/docs/stable/x.html for more"),
        ("1/2 of 3 GiB/s, aten::mul and/or add", "1/2 of 3 GiB/s, aten::mul and/or add"),
        ("src/aten/x.cpp:127", "src/aten/x.cpp:127"),
    ],
)
def test_a_reason_tells_no_folder_of_this_machine(monkeypatch: pytest.MonkeyPatch, said: str, kept: str) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    assert one_line(said) == kept
