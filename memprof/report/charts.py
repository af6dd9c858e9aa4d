"""The charts of a run, by the name of their file. Loads matplotlib: import it only to draw."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from memprof.report.memory_chart import memory_figure
from memprof.report.style import PALETTE, save
from memprof.report.tradeoff_chart import tradeoff_figure

CHARTS: dict[str, Callable[..., Figure]] = {"memory": memory_figure, "tradeoff": tradeoff_figure}

__all__ = ["CHARTS", "PALETTE", "memory_figure", "save", "tradeoff_figure"]
