"""One cell, whatever becomes of it: a child that crashes, hangs, floods or lies is a status and one line."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
import torch
from torch import nn

import memprof.api
import memprof.child
import memprof.runner
from memprof.api import plan
from memprof.catalogue import METHODS
from memprof.child import MAX_ANSWER, MAX_REASON, MAX_SAID, CellError, Reply, one_line
from memprof.errors import MemprofError, UnsupportedError
from memprof.headroom import Headroom
from memprof.method import Footprint, Method, Weight
from memprof.methods.adamw import AdamW
from memprof.oom import OomKills
from memprof.record import Measured
from memprof.runner import (
    IN_PROCESS,
    guarded_measure,
    measure_in_child,
    plain,
    read_answer,
    run_cell,
    scenario_from_dict,
)
from memprof.scenario import Scenario

NEEDS_NOTHING = Headroom(needed=0)
AT_PEAK = {"param": 1, "grad": 1, "optimizer_state": 2, "activation": 1, "extra": 0}
MEASURED = Measured(**AT_PEAK, peak=5, peak_phase="backward", peak_by_category=AT_PEAK, steady=3)  # type: ignore[arg-type]
ANSWER = json.dumps({"measured": dataclasses.asdict(MEASURED)})


def scenario_of(method: str | Method = "adamw", device: str | None = "cpu", **fields: Any) -> Scenario:
    chosen: dict[str, Any] = {
        "dtype": "fp32",
        "kernels": "cpu",
        "num_layers": 1,
        "vocab_size": 32,
        "batch_size": 1,
        "seq_len": 8,
    }
    (scenario,) = plan(["9m"], [method], device=device, **chosen | fields)
    return scenario


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replace the measuring process by a Python script; returns what the cell became."""

    def run(code: str, timeout: float = 60.0) -> CellError | Measured:
        program = tmp_path / "child"
        program.write_text(f"#!{sys.executable}\n{code}")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        try:
            return measure_in_child(scenario_of(), 2, timeout, NEEDS_NOTHING)
        except CellError as error:
            return error

    return run


def test_an_answer_comes_back(child: Any) -> None:
    assert child(f"print({ANSWER!r})") == MEASURED


def test_the_child_gets_the_scenario_and_nothing_else(child: Any, tmp_path: Path) -> None:
    child(f"import sys; open({str(tmp_path / 'got')!r}, 'w').write(sys.stdin.read())")
    request = json.loads((tmp_path / "got").read_text())
    assert request == {
        "scenario": plain(scenario_of().to_dict()),
        "steps": 2,
        "headroom": dataclasses.asdict(NEEDS_NOTHING),
    }


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed", "died of signal 11"),
        ("import sys; print('first\\nlast words', file=sys.stderr); sys.exit(3)", "crashed", r"\(exit 3\): last words"),
        ("import sys; sys.exit(1)", "crashed", "it said nothing"),
        ("raise ValueError('bad weight')", "crashed", "ValueError: bad weight"),
        ("import sys; sys.stderr.write('x' * 10**6); sys.exit(1)", "crashed", "x{50}"),
    ],
    ids=["signal", "tail of stderr", "silent", "traceback", "long line"],
)
def test_a_child_that_dies_says_how(child: Any, code: str, status: str, said: str) -> None:
    error = child(code)
    assert isinstance(error, CellError) and error.status == status
    assert re.search(said, str(error)), str(error)
    assert "\n" not in str(error) and len(str(error)) <= MAX_REASON


KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    ("counts", "status", "said"),
    [
        ((3, 4), "oom", r"killed by the kernel's out-of-memory killer \(oom_kill in memory.events went from 3 to 4\)"),
        ((3, 3), "crashed", "signal 9, though the kernel counted no out-of-memory kill: .* somebody else's doing"),
        ((None, None), "oom", "signal 9, perhaps by the kernel's out-of-memory killer; nothing here counts its kills"),
        ((3, None), "oom", "perhaps"),
    ],
)
def test_a_killed_child_says_by_whom_as_far_as_it_is_known(
    child: Any, monkeypatch: pytest.MonkeyPatch, counts: tuple[int | None, ...], status: str, said: str
) -> None:
    """Before and after it ran; the file's name is as good as its absence where there is no count."""
    seen = iter(counts)
    monkeypatch.setattr(memprof.child, "oom_kills", lambda: OomKills(next(seen), "memory.events"))
    error = child(KILLED)
    assert isinstance(error, CellError) and error.status == status
    assert re.search(said, str(error)), str(error)


def test_a_larger_batch_is_skipped_after_a_kill_for_memory_alone(child: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = itertools.count()
    monkeypatch.setattr(memprof.child, "oom_kills", lambda: OomKills(next(counts), "memory.events"))
    child(KILLED)
    scenarios = [scenario_of(), scenario_of(batch_size=2)]
    assert [record.status for record in memprof.api.run(scenarios)] == ["oom", "skipped"]
    monkeypatch.setattr(memprof.child, "oom_kills", lambda: OomKills(3, "memory.events"))
    assert [record.status for record in memprof.api.run(scenarios)] == ["crashed", "crashed"]


def test_what_a_child_prints_takes_no_room(child: Any) -> None:
    """It may write no file at all here, so what it says must go another way; only the end of it is kept."""
    flood = "sys.stderr.write(('x' * 99 + chr(10)) * 300_000 + 'the end'); sys.stderr.flush(); sys.exit(1)"
    code = f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); {flood}"
    error = child(code)
    assert isinstance(error, CellError) and str(error) == "the measuring process failed (exit 1): the end"


@pytest.mark.parametrize(
    ("says", "kept"), [("'short'", b"short"), ("'a' * 10**6 + 'b' * 10", b"a" * (MAX_SAID - 10) + b"b" * 10)]
)
def test_the_end_of_what_a_child_says_is_kept(
    child: Any, monkeypatch: pytest.MonkeyPatch, says: str, kept: bytes
) -> None:
    seen: list[Reply] = []
    monkeypatch.setattr(memprof.runner, "read_answer", seen.append)
    child(f"import sys; sys.stderr.write({says}); sys.exit(1)")
    assert [reply.said == kept for reply in seen] == [True]


@pytest.mark.parametrize("closed", [1, 2], ids=["standard error", "the answer"])
def test_a_grandchild_that_holds_a_pipe_open_is_not_waited_for(child: Any, tmp_path: Path, closed: int) -> None:
    """torch starts processes of its own, which may outlive the child and keep what it wrote to."""
    pid = tmp_path / "pid"
    code = f"""
import os, sys, time
if os.fork() == 0:
    os.close({closed})
    open({str(pid)!r}, "w").write(str(os.getpid()))
    time.sleep(60)
while not os.path.exists({str(pid)!r}) or not os.path.getsize({str(pid)!r}):
    time.sleep(0.01)
print({ANSWER!r}, flush=True)
"""
    try:
        assert child(code, timeout=30.0) == MEASURED
    finally:
        psutil.Process(int(pid.read_text())).kill()


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


def test_a_flood_on_stdout_is_no_answer(child: Any) -> None:
    error = child(f"print('x' * {MAX_ANSWER + 1})")
    assert isinstance(error, CellError) and error.status == "crashed"


def test_a_flood_without_end_is_cut_off_at_once(child: Any) -> None:
    error = child("while True: print('x' * 100_000)")
    assert isinstance(error, CellError) and error.status == "crashed" and "no usable answer" in str(error)


def test_a_child_that_hangs_after_its_answer_is_a_timeout(child: Any) -> None:
    error = child(f"import os, time; print({ANSWER!r}, flush=True); os.close(1); time.sleep(60)", timeout=3.0)
    assert isinstance(error, CellError) and error.status == "timeout"


def test_a_hanging_child_is_killed_and_none_is_left(child: Any, tmp_path: Path) -> None:
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    error = child(code, timeout=3.0)
    assert isinstance(error, CellError) and error.status == "timeout"
    assert "within 3 s" in str(error) and "--timeout" in str(error)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


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

    monkeypatch.setattr(memprof.runner, "measure", fail)
    with pytest.raises(CellError, match=said) as error:
        guarded_measure(scenario_of(), 2, NEEDS_NOTHING)
    assert error.value.status == status and "\n" not in str(error.value)


@pytest.mark.parametrize(("status", "reason"), [("oom", "9 bytes"), ("timeout", "too slow"), ("crashed", "signal 11")])
def test_a_failed_measurement_leaves_formula_and_trace(
    monkeypatch: pytest.MonkeyPatch, status: str, reason: str
) -> None:
    def fail(*_: object) -> Measured:
        raise CellError(status, reason)

    monkeypatch.setattr(memprof.runner, "measure_in_child", fail)
    record = run_cell(scenario_of())
    assert (record.status, record.reason, record.measured) == (status, reason, None)
    assert record.formula is not None and record.trace is not None


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
    monkeypatch.setattr(memprof.runner, "measure_in_child", lambda *_: pytest.fail("a child knows only the catalogue"))
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
    monkeypatch.setattr(memprof.runner, "measure", lambda *_: dataclasses.replace(MEASURED, loss_last=None))
    reason = str(run_cell(scenario_of(Mine()), steps=2).reason)
    assert "the training diverged; measured in the calling process" in reason


def test_only_what_was_measured_here_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memprof.runner, "measure_in_child", lambda *_: MEASURED)
    assert run_cell(scenario_of()).flags == ()
    assert run_cell(scenario_of(Mine(), device=None)).flags == ()


@pytest.mark.parametrize("method", METHODS)
def test_a_scenario_survives_the_journey_to_a_child(method: str) -> None:
    for scenario in (scenario_of(method), scenario_of(method, dtype="bf16", accumulation=2, seed=7)):
        back = scenario_from_dict(json.loads(json.dumps(scenario.to_dict())))
        assert back == scenario and back.id == scenario.id


def test_one_line_by_hand() -> None:
    assert one_line("  a\n\tb  c\r\n") == "a b c"
    assert len(one_line("x" * 10_000)) == MAX_REASON


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


def test_what_a_child_says_of_its_files_is_kept_without_their_folders(child: Any, tmp_path: Path) -> None:
    error = child(f"open({str(tmp_path / 'none' / 'data.bin')!r})")
    assert isinstance(error, CellError) and "data.bin" in str(error)
    assert str(tmp_path) not in str(error) and tmp_path.name not in str(error)


@pytest.mark.parametrize(
    "code", ["import time; time.sleep(60)", "while True: print('x' * 100_000)"], ids=["hangs", "floods"]
)
def test_a_device_that_does_not_say_what_it_is_cannot_be_used(
    child: Any, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    child(code, timeout=1.0)
    monkeypatch.setattr(memprof.runner, "DESCRIBE_TIMEOUT", 1.0)
    with pytest.raises(UnsupportedError, match=r"device cpu gives no answer that can be used within 1 s"):
        memprof.runner.describe_device("cpu")
