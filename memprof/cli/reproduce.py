"""`memprof reproduce`: a paper's tables beside what comes out of them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from memprof.errors import MemprofError

if TYPE_CHECKING:
    from memprof.papers.result import Reproduction
    from memprof.papers.source import Paper

LOST = 1


def reproduce(
    paper: Annotated[str | None, typer.Argument(help="A paper's name (--list), or a TOML file of your own.")] = None,
    table: Annotated[list[str] | None, typer.Option(help="Only this table, by its id; repeats.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="The papers there are, with their tables.")] = False,
    trace: Annotated[bool, typer.Option("--trace/--no-trace", help="Run the real code on shape-only tensors too: what is stored.")] = True,  # noqa: E501
    run: Annotated[str | None, typer.Option(help="A stored run whose measurements are shown beside.")] = None,
    device: Annotated[str | None, typer.Option(help="Measure the tables' scenarios there: cuda or cpu.")] = None,
    steps: Annotated[int, typer.Option(min=2, max=100_000, help="Timed optimizer steps of a measurement.")] = 10,
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
    from memprof.papers.read import read_paper

    source = read_paper(paper)
    found = _reproduce(source, table or [], trace, run, device, steps, output, force)
    _show(found, json)
    if not found.is_true:
        raise typer.Exit(LOST)


def _list() -> None:
    from memprof.cli.listing import print_listing
    from memprof.papers.read import names, read_paper

    papers = [read_paper(name) for name in names()]
    rows = [(paper.name, paper.title, ", ".join(table.id for table in paper.tables)) for paper in papers]
    print_listing(("Paper", "Title", "Tables"), rows, text_columns=(0, 1, 2))


def _reproduce(
    source: Paper,
    tables: list[str],
    trace: bool,
    run: str | None,
    device: str | None,
    steps: int,
    output: str | None,
    force: bool,
) -> Reproduction:
    from memprof.report.paper_files import free, write
    from memprof.reproduce.measurements import measure, stored
    from memprof.reproduce.run import choose, reproduce

    if output is not None:
        free(output, source.name, force)
    chosen = choose(source, tables)
    measured = None if run is None else stored(run)
    if device is not None:
        measured = measure(source, chosen, device, steps, _progress)
    found = reproduce(
        source,
        tables,
        tracing=trace,
        measurements=measured.found if measured else None,
        measured_on=measured.on if measured else None,
        on_table=_progress,
    )
    if output is not None:
        write(output, found)
    return found


def _show(found: Reproduction, json: bool) -> None:
    from memprof.cli.screen import note, print_table
    from memprof.report.paper import PaperTables, document, failures

    if json:
        print(document(found))
    else:
        print_table(PaperTables(found))
    for line in failures(found):
        note(f"no longer comes out: {line}")


def _progress(done: int, total: int) -> None:
    """One line on stderr that overwrites itself; nothing where nobody watches."""
    if sys.stderr.isatty():
        text = "" if done == total else f"memprof: {done} of {total} done"
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
