"""Random input and injected faults, as the scripts of benchmarks/ make them: a few here, all of them there."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults import markdown
from benchmarks.fuzz import TARGETS, fuzz
from benchmarks.row import Row

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("target", TARGETS)
def test_random_input_meets_an_answer_or_one_of_our_errors(target: str) -> None:
    tally = fuzz(target, range(60))
    assert not tally.findings
    assert tally.answered + tally.refused == 60


def test_the_fault_table_by_hand() -> None:
    killed = Row(fault="kill | -9", before=2, lost=0, children=0, code=-9, message="a\nb")
    rows = [killed, Row(fault="full disk", skipped=True, message="no root")]
    assert markdown(rows).splitlines()[-2:] == [
        "| kill \\| -9 | 2 | 0 | 0 | -9 | a b |",
        "| full disk |  |  |  |  | no root |",
    ]


GOOD = Row(fault="x", before=2, lost=0, children=0, code=3, message="oom: why", wanted=3, says="oom: ")


@pytest.mark.parametrize(
    "change",
    [
        {"lost": 1},
        {"children": 1},
        {"code": 0},
        {"code": 99},
        {"code": None},
        {"message": "NOT CONTINUED"},
        {"message": "crashed: why"},
        {"message": "3 other errors", "says": "0 other errors$"},
    ],
    ids=str,
)
def test_a_row_that_is_otherwise_than_it_should_be_is_bad(change: dict[str, Any]) -> None:
    assert not GOOD.is_bad
    assert replace(GOOD, **change).is_bad
    assert not replace(GOOD, **change, skipped=True).is_bad


BROKEN = {
    "a lock that holds nobody off": """
import fcntl
fcntl.flock = lambda *_: None
rows = injections.two_writers(folder)
row = next(rows)
assert row.is_bad and row.code != 2, row
rows.close()
""",
    "a worker that outlives its parent": """
orphan = "    import memprof.worker; memprof.worker.depend_on = lambda _: None"
real = injections.never_ends
injections.never_ends = lambda ready: real(ready) + orphan
injections.SIGNALS_SENT = (("SIGKILL", -9, injections.KILLED),)
row = next(injections.signals(folder))
assert row.is_bad and row.children == 1, row
""",
    "a record that is not whole on the disk": """
from memprof.run_file import RECORDS
real = injections.RunStore._write
def cut(self, value):
    real(self, value)
    if "id" in value:
        os.truncate(self.records, self.records.stat().st_size - 9)
injections.RunStore._write = cut
row = list(injections.killed_at_records(folder))[2]
assert row.is_bad and row.lost == 1, row
""",
}
"""what takes a promise from the program that the script then forks, and what its row must show"""


@pytest.mark.slow
@pytest.mark.parametrize("code", BROKEN.values(), ids=BROKEN.keys())
def test_the_table_notices_a_program_that_keeps_no_promise(tmp_path: Path, code: str) -> None:
    start = "import os, sys; from pathlib import Path; from benchmarks import injections; folder = Path(sys.argv[1])"
    command = [sys.executable, "-c", f"{start}\n{code}", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_no_fault_loses_a_finished_record_or_leaves_a_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.faults", "-o", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "faults.md").exists() and (tmp_path / "faults.json").exists()
