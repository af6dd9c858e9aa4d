"""Random input and injected faults, as the scripts of benchmarks/ make them: a few here, all of them there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.faults import is_bad, markdown
from benchmarks.fuzz import TARGETS, fuzz
from benchmarks.row import Row

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("target", TARGETS)
def test_random_input_meets_an_answer_or_one_of_our_errors(target: str) -> None:
    tally = fuzz(target, range(60))
    assert not tally.findings
    assert tally.answered + tally.refused == 60


def test_the_fault_table_by_hand() -> None:
    rows = [Row("kill | -9", 2, 0, 0, -9, "a\nb"), Row("full disk", skipped=True, message="no root")]
    assert markdown(rows).splitlines()[-2:] == [
        "| kill \\| -9 | 2 | 0 | 0 | -9 | a b |",
        "| full disk |  |  |  |  | no root |",
    ]
    assert not any(map(is_bad, rows))
    assert is_bad(Row("x", 2, 1, 0, -9)) and is_bad(Row("x", 2, 0, 1, -9)) and is_bad(Row("x", message="NOT CONTINUED"))
    assert is_bad(Row("x", message="1 taken, 2 refused, 3 other errors"))
    assert not is_bad(Row("x", message="1 taken, 2 refused, 0 other errors"))


@pytest.mark.slow
def test_no_fault_loses_a_finished_record_or_leaves_a_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.faults", "-o", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "faults.md").exists() and (tmp_path / "faults.json").exists()
