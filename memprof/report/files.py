"""Everything a run's records can be rendered to, as files. Loads pandas and matplotlib."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from memprof.durable import replace
from memprof.errors import NothingToDoError
from memprof.record import Record
from memprof.report import charts, text


def write(
    folder: Path,
    records: Sequence[Record],
    *,
    by: str | None = None,
    unit: str = "GiB",
    fits: int | None = None,
    note: str = "",
) -> list[Path]:
    """records.csv, table.md and the charts that this run has, each replaced whole or not at all.

    A chart that an earlier command drew and this one has nothing for is removed.
    """
    table = text.markdown(records, by=by, unit=unit, fits=fits, note=note)
    written = [save_text(folder / "records.csv", text.csv(records)), save_text(folder / "table.md", table)]
    for name, draw in (charts.CHARTS | charts.OCCASIONAL).items():
        places = [folder / f"{name}.{end}" for end in ("png", "svg")]
        try:
            figure = draw(records, by=by, unit=unit, note=note)
        except NothingToDoError:
            if name in charts.CHARTS:
                raise
            for place in places:
                place.unlink(missing_ok=True)
            continue
        written += [save_with(place, partial(charts.save, figure)) for place in places]
    return written


def save_text(file: Path, content: str) -> Path:
    return save_with(file, lambda unfinished: _write_text(unfinished, content))


def _write_text(file: Path, content: str) -> None:
    file.write_text(content, encoding="utf-8", newline="\n")


def save_with(file: Path, write_to: Callable[[Path], None]) -> Path:
    """A reader sees the old file or the new one, never half of either."""
    unfinished = file.with_name(f".unfinished-{os.getpid()}-{file.name}")
    try:
        write_to(unfinished)
        replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)
    return file
