"""The charts of a run, by the name of their file. Loads matplotlib: import it only to draw."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from memprof.report.agreement_chart import agreement_figure
from memprof.report.memory_chart import memory_figure
from memprof.report.palette import PALETTE
from memprof.report.style import save
from memprof.report.sweep_chart import sweep_figure
from memprof.report.timeline_chart import timeline_figure
from memprof.report.tradeoff_chart import tradeoff_figure
from memprof.report.waterfall_chart import waterfall_figure

CHARTS: dict[str, Callable[..., Figure]] = {"memory": memory_figure, "tradeoff": tradeoff_figure}
"""what every run has"""
OCCASIONAL: dict[str, Callable[..., Figure]] = {
    "timeline": timeline_figure,
    "waterfall": waterfall_figure,
    "sweep": sweep_figure,
    "agreement": agreement_figure,
}
"""what some runs have: NothingToDoError says why another has not"""

__all__ = ["CHARTS", "OCCASIONAL", "PALETTE", "memory_figure", "save", "tradeoff_figure"]
