"""`memprof models`: every named shape with its exact parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from memprof.shapes import SHAPES


def test_every_shape_with_its_parameters(memprof_main: Callable[..., Any]) -> None:
    outcome = memprof_main("models")
    assert (outcome.code, outcome.err) == (0, "")
    rows = {cells[0]: cells for line in outcome.out.splitlines() if (cells := line.split())}
    for name, shape in SHAPES.items():
        assert rows[name][1] == f"{shape.num_parameters:,}"
        assert rows[name][-1] == ("tied" if shape.tie_word_embeddings else "own")
    assert rows["60m"][1] == "58,073,600" and rows["llama2-7b"][1] == "6,738,415,616"


def test_a_pipe_gets_whole_lines_and_no_escape_codes(memprof_main: Callable[..., Any]) -> None:
    outcome = memprof_main("models")
    assert "\x1b" not in outcome.out and "…" not in outcome.out
    assert len([line for line in outcome.out.splitlines() if line.strip()]) == len(SHAPES) + 2
