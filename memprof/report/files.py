"""Everything a run's records can be rendered to, as files. Loads pandas and matplotlib."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from memprof.durable import replace
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
    """records.csv, table.md and the charts, each replaced whole or not at all."""
    table = text.markdown(records, by=by, unit=unit, fits=fits, note=note)
    written = [_save(folder / "records.csv", text.csv(records)), _save(folder / "table.md", table)]
    for name, draw in charts.CHARTS.items():
        figure = draw(records, by=by, unit=unit, note=note)
        written += [_replace(folder / f"{name}.{end}", partial(charts.save, figure)) for end in ("png", "svg")]
    return written


def _save(file: Path, content: str) -> Path:
    return _replace(file, lambda unfinished: _write_text(unfinished, content))


def _write_text(file: Path, content: str) -> None:
    file.write_text(content, encoding="utf-8", newline="\n")


def _replace(file: Path, write_to: Callable[[Path], None]) -> Path:
    """A reader sees the old file or the new one, never half of either."""
    unfinished = file.with_name(f".unfinished-{os.getpid()}-{file.name}")
    try:
        write_to(unfinished)
        replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)
    return file
