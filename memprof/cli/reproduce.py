"""`memprof reproduce`: a paper's tables beside what comes out of them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from memprof.errors import CellFailedError, MemprofError, shown

if TYPE_CHECKING:
    from memprof.papers.result import Reproduction
    from memprof.papers.source import Paper
    from memprof.report.paper.page import Maker
    from memprof.reproduce.measurements import Measurements

ROUNDS, STEPS = 6, 10
LOST = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the command line asked for, as it was typed."""

    paper: str
    tables: list[str]
    trace: bool
    run: str | None
    device: str | None
    rounds: int
    steps: int
    output: str | None
    force: bool

    def command(self) -> str:
        """The command that makes the same again; whether it may overwrite is no part of that."""
        words = ["memprof", "reproduce", self.paper]
        words += [word for table in self.tables for word in ("--table", table)]
        words += [] if self.trace else ["--no-trace"]
        rounds = str(self.rounds) if self.device is not None and self.rounds != ROUNDS else None
        steps = str(self.steps) if self.device is not None and self.steps != STEPS else None
        given = {
            "--run": self.run,
            "--device": self.device,
            "--rounds": rounds,
            "--steps": steps,
            "-o": self.output,
        }
        words += [word for option, value in given.items() if value is not None for word in (option, value)]
        return shlex.join(words)


def reproduce(
    paper: Annotated[str | None, typer.Argument(help="A paper's name (--list), or a TOML file of your own.")] = None,
    table: Annotated[list[str] | None, typer.Option(help="Only this table, by its id; repeats.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="The papers there are, with their tables.")] = False,
    trace: Annotated[bool, typer.Option("--trace/--no-trace", help="Run the real code on shape-only tensors too: what is stored.")] = True,  # noqa: E501
    run: Annotated[str | None, typer.Option(help="A stored run whose measurements are shown beside.")] = None,
    device: Annotated[str | None, typer.Option(help="Measure the tables' scenarios there: cuda or cpu.")] = None,
    rounds: Annotated[int, typer.Option(min=1, max=1_000, help="Rounds of a measurement: in each every method has its turn.")] = ROUNDS,  # noqa: E501
    steps: Annotated[int, typer.Option(min=2, max=100_000, help="Timed ordinary steps of a measurement, over all rounds.")] = STEPS,  # noqa: E501
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Write NAME.md, .csv, .png and .svg into this folder.")] = None,  # noqa: E501
    force: Annotated[bool, typer.Option("--force", help="Overwrite them.")] = False,
) -> None:  # fmt: skip
    """A paper's tables: published, by its own counting, as really stored. Exit 1 when a cell no longer comes out."""
    if listing:
        _list()
        return
    if paper is None:
        raise MemprofError("name a paper, such as approximations; memprof reproduce --list says which there are")
    if run is not None and device is not None:
        raise MemprofError("--run shows what was measured and --device measures now; leave out one of them")
    from memprof.papers.read import read_paper

    source = read_paper(paper)
    asked = Asked(
        paper=paper,
        tables=table or [],
        trace=trace,
        run=run,
        device=device,
        rounds=rounds,
        steps=steps,
        output=output,
        force=force,
    )
    found, failed = _reproduce(source, asked)
    _show(found, failed, json)
    if failed:
        raise typer.Exit(CellFailedError.exit_code)
    if not found.is_true:
        raise typer.Exit(LOST)


def _list() -> None:
    from memprof.cli.listing import print_listing
    from memprof.papers.read import names, read_paper

    papers = [read_paper(name) for name in names()]
    rows = [(paper.name, paper.title, ", ".join(table.id for table in paper.tables)) for paper in papers]
    print_listing(("Paper", "Title", "Tables"), rows, text_columns=(0, 1, 2))


def _reproduce(source: Paper, asked: Asked) -> tuple[Reproduction, list[str]]:
    """The tables, kept where asked, and what could not be measured now."""
    from memprof.cli.screen import note
    from memprof.report.paper.files import free, write
    from memprof.reproduce.run import choose, reproduce

    if asked.output is not None:
        free(asked.output, source.name, asked.force)
    choose(source, asked.tables)  # a wrong name is told before anything is measured
    with _line_wiped():
        measured = _measurements(source, asked)
        found = reproduce(
            source,
            asked.tables,
            tracing=asked.trace,
            measurements=measured.found if measured else None,
            measured_on=measured.on if measured else None,
            on_table=_progress,
        )
    if asked.output is not None:
        write(asked.output, found, _maker(asked))
        note(f"kept in {shown(asked.output)}")
    if asked.run is not None and all(result.measured is None for result in found.results):
        note(f"{shown(asked.run)} holds no measurement of a scenario in these tables")
    return found, measured.failed if measured and asked.device is not None else []


def _measurements(source: Paper, asked: Asked) -> Measurements | None:
    from memprof.reproduce.measurements import measure, stored
    from memprof.reproduce.run import choose

    if asked.device is not None:
        return measure(source, choose(source, asked.tables), asked.device, _progress, asked.rounds, asked.steps)
    return None if asked.run is None else stored(asked.run)


def _maker(asked: Asked) -> Maker:
    from memprof.api import environment
    from memprof.report.paper.page import Maker

    facts = environment()
    return Maker(asked.command(), str(facts["memprof"]), str(facts["torch"]))


def _show(found: Reproduction, failed: list[str], json: bool) -> None:
    from memprof.cli.screen import note, print_table
    from memprof.report.describe import plain
    from memprof.report.paper.data import document
    from memprof.report.paper.screen import PaperTables
    from memprof.report.paper.words import failures

    if json:
        print(document(found), flush=True)
    else:
        print_table(PaperTables(found))
    for line in failed:
        note(f"not measured: {plain(line)}")
    for line in failures(found):
        note(f"does not come out, as expect says it must: {line}")


@contextmanager
def _line_wiped() -> Iterator[None]:
    """Whatever ends the work, its progress does not stay on the terminal."""
    from memprof.cli.screen import WIPE

    try:
        yield
    finally:
        _write(WIPE)


def _progress(done: int, total: int) -> None:
    """One line that overwrites itself."""
    from memprof.cli.screen import WIPE

    _write(f"{WIPE}memprof: {done} of {total} done")


def _write(text: str) -> None:
    """Nothing where nobody watches; a terminal that hung up ends no work."""
    with suppress(OSError):
        if sys.stderr.isatty():
            print(text, end="", file=sys.stderr, flush=True)
