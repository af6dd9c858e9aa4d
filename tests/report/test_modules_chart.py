"""The chart by module against an explanation's own parts: lengths are bytes, and nothing is left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from memprof.api import explain
from memprof.explanation import Explanation, Part
from memprof.report.explain_files import NAMES, write
from memprof.report.modules_chart import MOST_BARS, modules_figure
from memprof.report.palette import PALETTE

Main = Callable[..., object]
MIB = 2**20


@pytest.fixture(scope="module")
def explanation() -> Explanation:
    return explain("9m", "galore", num_layers=1, batch_size=1, seq_len=8)


def drawn(explanation: Explanation) -> dict[str, int]:
    """Category to the bytes that all of its bars together stand for."""
    names = {colour: category for category, colour in PALETTE.items()}
    totals = dict.fromkeys(("param", "grad", "optimizer_state", "activation"), 0.0)
    for patch in modules_figure(explanation, unit="B").axes[0].patches:
        assert isinstance(patch, Rectangle)
        totals[names[to_hex(patch.get_facecolor())]] += patch.get_width()
    return {name: round(total) for name, total in totals.items()}


def test_bars_sum_to_the_traces_figures(explanation: Explanation) -> None:
    expected = {name: getattr(explanation.trace, name) for name in ("param", "grad", "optimizer_state", "activation")}
    assert drawn(explanation) == expected


def test_what_has_no_room_shares_a_bar(explanation: Explanation) -> None:
    """By hand: 20 pieces of 1 to 20 MiB; the six smallest together are 21 MiB."""
    sizes = [MIB * number for number in range(20, 0, -1)]
    parts = tuple(
        Part(name=f"piece{size}", modules=1, param=size, grad=0, optimizer_state=0, activation=0) for size in sizes
    )
    axes = modules_figure(replace(explanation, parts=parts), unit="MiB").axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(labels) == MOST_BARS + 1 and labels[-1] == "6 other pieces"
    assert "21.00" in [text.get_text() for text in axes.texts]


def test_an_explanations_charts_are_kept_together(explanation: Explanation, tmp_path: Path) -> None:
    assert {path.name for path in write(tmp_path, explanation, "MiB")} == set(NAMES)
    alone = explain("9m", "adamw", num_layers=1, batch_size=1, seq_len=8)
    other = tmp_path / "other"
    other.mkdir()
    assert {path.stem for path in write(other, alone, "MiB")} >= {"modules", "timeline"}
