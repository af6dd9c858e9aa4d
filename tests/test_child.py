"""The process that measures a cell: one that crashes, hangs, floods or lies is a status and one line."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

import memprof.api
import memprof.child
import memprof.runner
from memprof.child import MAX_ANSWER, MAX_REASON, MAX_SAID, CellError, Reply, one_line
from memprof.errors import UnsupportedError
from memprof.oom import OomKills
from memprof.record import Measured
from memprof.runner import measure_in_child, plain
from tests.cells import ANSWER, MEASURED, NEEDS_NOTHING, scenario_of


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replace the measuring process by a Python script; returns what the cell became."""

    def run(code: str, timeout: float = 60.0) -> CellError | Measured:
        program = tmp_path / "child"
        program.write_text(f"#!{sys.executable}\n{code}")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        try:
            return measure_in_child(scenario_of(), timeout, NEEDS_NOTHING)
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
        "headroom": dataclasses.asdict(NEEDS_NOTHING),
        "text": None,
        "history": None,
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


def test_one_line_by_hand() -> None:
    assert one_line("  a\n\tb  c\r\n") == "a b c"
    assert len(one_line("x" * 10_000)) == MAX_REASON


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
