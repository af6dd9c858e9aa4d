"""A paper's reproduction as files: page, table of cells and chart."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from memprof.errors import MemprofError, shown
from memprof.papers.result import Reproduction
from memprof.report import style
from memprof.report.files import save_text, save_with
from memprof.report.paper.chart import paper_figure
from memprof.report.paper.data import csv
from memprof.report.paper.page import Maker, markdown

ENDINGS = ("md", "csv", "png", "svg")


def free(folder: str, name: str, force: bool) -> None:
    """Raise where files cannot be written or are there already, before anything is run."""
    place = Path(folder)
    if not folder.strip():
        raise MemprofError("-o is empty; name a folder, such as -o reports")
    if place.exists() and not place.is_dir():
        raise MemprofError(f"{shown(folder)} is no folder; name one with -o")
    taken = [f"{name}.{ending}" for ending in ENDINGS if (place / f"{name}.{ending}").exists()]
    if taken and not force:
        raise MemprofError(f"{shown(folder)} holds {taken[0]} already; --force overwrites it")


def write(folder: str, found: Reproduction, maker: Maker) -> list[Path]:
    """NAME.md, NAME.csv, NAME.png and NAME.svg, each replaced whole or not at all."""
    place, name = Path(folder), found.paper.name
    try:
        place.mkdir(parents=True, exist_ok=True)
        page = markdown(found, maker, f"{name}.png")
        written = [save_text(place / f"{name}.md", page), save_text(place / f"{name}.csv", csv(found))]
        figure = paper_figure(found)
        return written + [save_with(place / f"{name}.{end}", partial(style.save, figure)) for end in ("png", "svg")]
    except OSError as error:
        raise MemprofError(f"cannot write to {shown(folder)}: {error.strerror or error}") from None
