"""Quick comparisons to run, and what a refused one looks like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from memprof.record import Measured

Main = Callable[..., Any]
ROOT = Path(__file__).parents[2]
QUICK = ["compare", "--model", "9m", "--num-layers", "1", "--vocab-size", "64", "--batch", "1", "--seq", "8"]
TWO = [*QUICK, "--method", "adamw", "--method", "lora"]
LLAMA = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
         "num_attention_heads": 4, "vocab_size": 100}  # fmt: skip


def assert_refused(outcome: Any, code: int, says: Sequence[str]) -> None:
    assert (outcome.code, outcome.out) == (code, ""), outcome.err
    assert outcome.err.startswith("memprof: ") and outcome.err.count("\n") == 1 and outcome.err.endswith("\n")
    assert "Traceback" not in outcome.err
    for part in says:
        assert part in outcome.err


def done_lines(names: Sequence[str], of: int | None = None, after: int = 0) -> list[str]:
    """What stderr says where it is no terminal: a line for each cell that has finished."""
    whole = len(names) if of is None else of
    return [f"memprof: {count} of {whole} done: {name}\n" for count, name in enumerate(names, after + 1)]


PARTS = {"param": 1, "grad": 1, "optimizer_state": 2, "activation": 1, "extra": 0}
MEASURED_FIGURES = Measured(**PARTS, peak=5, peak_phase="backward", peak_by_category=PARTS, steady=3)  # type: ignore[arg-type]
