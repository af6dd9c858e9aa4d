"""`memprof doctor`: one finding a line, exit 0 whatever is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from memprof.doctor import findings


def test_every_finding_is_printed(memprof_main: Callable[..., Any]) -> None:
    outcome = memprof_main("doctor")
    assert (outcome.code, outcome.err) == (0, "") and "\x1b" not in outcome.out
    for what, finding in findings():
        assert any(line.startswith(what) and finding in line for line in outcome.out.splitlines()), what
