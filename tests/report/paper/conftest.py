"""The small paper of tests/papers with two more rows, reproduced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from memprof.papers.read import read_paper
from memprof.papers.result import Reproduction
from memprof.reproduce.run import reproduce
from tests.papers.conftest import paper_file

__all__ = ["paper_file"]
TWO = """
[[table.row]]
label = "<script>|x"
method = "galore"
origin = "stated"
cells = [{ value = "20.00", expect = "not reproduced", because = "made up" }]

[[table.row]]
label = "Ours alone"
method = "lion"
cells = ["-"]
"""


@pytest.fixture
def found(paper_file: Callable[..., Path]) -> Reproduction:
    return reproduce(read_paper(str(paper_file(row=TWO))))
