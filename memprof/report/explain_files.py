"""An explanation's charts as files. Loads matplotlib."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from memprof.errors import NothingToDoError
from memprof.explanation import Explanation
from memprof.report.files import save_with
from memprof.report.modules_chart import modules_figure
from memprof.report.style import save
from memprof.report.timeline_chart import timeline_figure
from memprof.report.waterfall_chart import waterfall_figure

NAMES = tuple(f"{name}.{end}" for name in ("modules", "timeline", "waterfall") for end in ("png", "svg"))


def write(folder: Path, explanation: Explanation, unit: str) -> list[Path]:
    """Where the memory is by module, when in the step, and on the way from AdamW's peak where it stands beside."""
    figures = list(_figures(explanation, unit))
    return [
        save_with(folder / f"{name}.{end}", partial(save, figure)) for name, figure in figures for end in ("png", "svg")
    ]


def _figures(explanation: Explanation, unit: str) -> Iterator[tuple[str, Figure]]:
    records = [record for record in (explanation.baseline, explanation.record) if record is not None]
    yield "modules", modules_figure(explanation, unit=unit)
    yield "timeline", timeline_figure(records, unit=unit)
    try:
        yield "waterfall", waterfall_figure(records, unit=unit)
    except NothingToDoError:  # AdamW itself
        return
