"""`memprof report`: a stored run shown again, on the screen and as one HTML page. Nothing is run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memprof.cli.compare import Witness
from memprof.errors import MemprofError, NothingToDoError
from memprof.units import UNITS, parse_size


def report(
    run: Annotated[Path, typer.Argument(help="A run's folder, or its records.jsonl.")],
    html: Annotated[Path | None, typer.Option(help="Write the page to this file. [default: report.html in the run's folder, made anew each time]")] = None,  # noqa: E501
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Make tables, charts and page again in this folder.")] = None,  # noqa: E501
    by: Annotated[Witness | None, typer.Option(help="Whose figures the columns show. [default: the strongest that ran; the formula's under a paper's counting]")] = None,  # noqa: E501
    unit: Annotated[str | None, typer.Option(help="GiB (2**30), GB (1e9), MiB, MB, ... [default: GiB, or MiB where no peak reaches 0.01 GiB]")] = None,  # noqa: E501
    fits: Annotated[str | None, typer.Option(help="Say what fits a memory such as 24GiB.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is not the run's own report.html, or write into a folder that is not empty.")] = False,  # noqa: E501
) -> None:  # fmt: skip
    """A stored run once more: its table here, and one HTML page to look at. Needs no GPU and runs nothing."""
    from memprof.cli.diff import warnings_as_notes
    from memprof.cli.screen import note, print_process, print_table
    from memprof.command import commands
    from memprof.report.page import html as page
    from memprof.report.rows import suitable_unit
    from memprof.report.table import render
    from memprof.run_file import load, read_maker

    limit = None if fits is None else parse_size(fits)
    if unit is not None and unit not in UNITS:
        raise MemprofError(f"unknown unit {unit!r}; choose from {', '.join(UNITS)}")
    place = _place(run, html, output, force)
    with warnings_as_notes():
        records, maker = load(run), read_maker(run)
    if not records:
        raise NothingToDoError(
            f"the run {run} holds no records yet; go on with it: memprof compare ... -o {run} --resume"
        )
    if by is not None and all(getattr(record, by) is None for record in records):
        raise MemprofError(f"--by {by}: no record of this run has these figures; leave --by out")
    unit = unit or suitable_unit(records)
    table = render(records, by=by, unit=unit, fits=limit)
    made = page(
        records, environment=maker.environment, commands=commands(records, maker.steps), by=by, unit=unit, fits=limit
    )
    if output is not None:
        from memprof.store import render as render_files

        render_files(output, records, by=by, unit=unit, fits=limit)
    _write(place, made)
    print_table(table)
    print_process(records, unit)
    note(f"the page is {place}")


def _place(run: Path, html: Path | None, output: Path | None, force: bool) -> Path:
    """Where the page goes. The run's own report.html is made anew; any other file gives way only to --force."""
    from memprof.run_file import RECORDS
    from memprof.store import PAGE

    own = (run if run.is_dir() else run.parent) / PAGE
    beside = run.with_suffix(".html") if run.is_file() and run.name != RECORDS else own
    place = html or (beside if output is None else output / PAGE)
    try:
        if output is not None and output.is_dir() and any(output.iterdir()) and not force:
            raise MemprofError(f"the folder {output} is not empty; use --force to write there all the same")
        if place.exists() and place.resolve() != own.resolve() and not force:
            raise MemprofError(f"{place} is there already; use --force to overwrite it")
    except OSError as error:
        raise MemprofError(f"cannot look into {output or place}: {error.strerror or error}") from None
    return place


def _write(place: Path, text: str) -> None:
    """Whole or not at all."""
    from memprof.report.files import save_text
    from memprof.run_file import disk

    with disk(place):
        save_text(place, text)
