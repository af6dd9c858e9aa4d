"""A paper's reproduction as files: page, table of cells and chart."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from memprof.errors import MemprofError, shown
from memprof.papers.result import Reproduction
from memprof.report import files, paper, paper_chart, paper_page, style

ENDINGS = ("md", "csv", "png", "svg")


def free(folder: str, name: str, force: bool) -> None:
    """Raise where files are there already, before anything is run."""
    place = Path(folder)
    if place.exists() and not place.is_dir():
        raise MemprofError(f"{shown(folder)} is no folder; name one with -o")
    taken = [f"{name}.{ending}" for ending in ENDINGS if (place / f"{name}.{ending}").exists()]
    if taken and not force:
        raise MemprofError(f"{shown(folder)} holds {taken[0]} already; --force overwrites it")


def write(folder: str, found: Reproduction) -> list[Path]:
    """NAME.md, NAME.csv, NAME.png and NAME.svg, each replaced whole or not at all."""
    place, name = Path(folder), found.paper.name
    try:
        place.mkdir(parents=True, exist_ok=True)
        page = paper_page.markdown(found, f"memprof reproduce {name} -o {place.name}", f"{name}.png")
        written = [
            files.save_text(place / f"{name}.md", page),
            files.save_text(place / f"{name}.csv", paper.csv(found)),
        ]
        figure = paper_chart.paper_figure(found)
        return written + [
            files.save_with(place / f"{name}.{end}", partial(style.save, figure)) for end in ("png", "svg")
        ]
    except OSError as error:
        raise MemprofError(f"cannot write to {shown(folder)}: {error.strerror or error}") from None
