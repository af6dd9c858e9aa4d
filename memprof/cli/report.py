"""`memprof report`: stored runs shown again, on the screen, as one HTML page, or against what was predicted of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memprof.cli.compare import Witness
from memprof.errors import MemprofError, NothingToDoError
from memprof.units import UNITS, parse_size

if TYPE_CHECKING:
    from memprof.prediction import Prediction
    from memprof.runs import Runs

EXIT_MISSED = 1


def report(
    run: Annotated[list[Path], typer.Argument(help="A run's folder, or its records.jsonl; several are shown as one.")],
    html: Annotated[Path | None, typer.Option(help="Write the page to this file. [default: report.html in the run's folder, made anew each time]")] = None,  # noqa: E501
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Make tables, charts and page again in this folder.")] = None,  # noqa: E501
    by: Annotated[Witness | None, typer.Option(help="Whose figures the columns show. [default: the strongest that ran; the formula's under a paper's counting]")] = None,  # noqa: E501
    unit: Annotated[str | None, typer.Option(help="GiB (2**30), GB (1e9), MiB, MB, ... [default: GiB, or MiB where no peak reaches 0.01 GiB]")] = None,  # noqa: E501
    fits: Annotated[str | None, typer.Option(help="Say what fits a memory such as 24GiB.")] = None,
    prediction: Annotated[bool, typer.Option("--prediction", help="Show what was measured against what was predicted, and keep that beside the page.")] = False,  # noqa: E501
    json: Annotated[bool, typer.Option("--json", help="With --prediction: print one JSON document and nothing else.")] = False,  # noqa: E501
    strict: Annotated[bool, typer.Option("--strict", help="With --prediction: exit 1 when a target is missed.")] = False,  # noqa: E501
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is not the run's own report.html, or write into a folder that is not empty.")] = False,  # noqa: E501
) -> None:  # fmt: skip
    """Stored runs once more: their table here, and one HTML page to look at. Needs no GPU and runs nothing."""
    from memprof.cli.diff import warnings_as_notes
    from memprof.cli.screen import note, print_process, print_table
    from memprof.report.page import html as page
    from memprof.report.rows import suitable_unit
    from memprof.report.table import render
    from memprof.runs import read_runs

    limit = None if fits is None else parse_size(fits)
    if unit is not None and unit not in UNITS:
        raise MemprofError(f"unknown unit {unit!r}; choose from {', '.join(UNITS)}")
    if (json or strict) and not prediction:
        raise MemprofError("--json and --strict speak of a prediction; add --prediction")
    place = _place(run, html, output, force)
    with warnings_as_notes():
        runs = read_runs(run)
    records = runs.records
    if not records:
        raise NothingToDoError(
            f"the run {run[0]} holds no records yet; go on with it: memprof compare ... -o {run[0]} --resume"
        )
    if by is not None and all(getattr(record, by) is None for record in records):
        raise MemprofError(f"--by {by}: no record of this run has these figures; leave --by out")
    found = _predicted(runs) if prediction else None
    shown = [record for record in records if record.measured] if prediction else records
    unit = unit or suitable_unit(shown)
    table = render(records, by=by, unit=unit, fits=limit)
    made = page(records, environment=runs.environment, commands=runs.commands, by=by, unit=unit, fits=limit)
    if output is not None:
        from memprof.store import render as render_files

        render_files(output, records, by=by, unit=unit, fits=limit)
    if place is not None:
        _write(place, made)
    if found is not None:
        _keep(found, output or _own_folder(run), unit)
    if found is None:
        print_table(table)
        print_process(records, unit)
    else:
        _show(found, unit, json)
    note(f"the page is {place}" if place else "no page: several runs have no folder of their own; name one with -o")
    if found is not None and strict and found.missed:
        note(f"targets missed: {', '.join(found.missed)}")
        raise typer.Exit(EXIT_MISSED)


def _place(runs: Sequence[Path], html: Path | None, output: Path | None, force: bool) -> Path | None:
    """Where the page goes. A run's own report.html is made anew; any other file gives way only to --force.

    Several runs have a page only where one is asked for.
    """
    from memprof.run_file import RECORDS
    from memprof.store import PAGE

    run = runs[0]
    own = (run if run.is_dir() else run.parent) / PAGE
    beside = run.with_suffix(".html") if run.is_file() and run.name != RECORDS else own
    asked = html or (None if output is None else output / PAGE)
    if len(runs) > 1 and asked is None:
        return None
    place = asked or beside
    try:
        if output is not None and output.is_dir() and any(output.iterdir()) and not force:
            raise MemprofError(f"the folder {output} is not empty; use --force to write there all the same")
        if place.exists() and (len(runs) > 1 or place.resolve() != own.resolve()) and not force:
            raise MemprofError(f"{place} is there already; use --force to overwrite it")
    except OSError as error:
        raise MemprofError(f"cannot look into {output or place}: {error.strerror or error}") from None
    return place


def _own_folder(runs: Sequence[Path]) -> Path | None:
    """The folder of one run; a records file of another name may lie anywhere."""
    from memprof.run_file import RECORDS

    run = runs[0]
    if len(runs) > 1 or (run.is_file() and run.name != RECORDS):
        return None
    return run if run.is_dir() else run.parent


def _predicted(runs: Runs) -> Prediction:
    from memprof.prediction import predict

    return predict(runs.records)


def _keep(found: Prediction, folder: Path | None, unit: str) -> None:
    """prediction.md and prediction.csv, where there is a folder for them."""
    from memprof.report.prediction import csv, markdown
    from memprof.store import PREDICTION

    for name, text in zip(PREDICTION, (markdown(found, unit=unit), csv(found)), strict=True):
        if folder is not None:
            _write(folder / name, text)


def _show(found: Prediction, unit: str, json: bool) -> None:
    from memprof.cli.screen import print_table
    from memprof.report.prediction import render

    if json:
        print(found.document())
    else:
        print_table(render(found, unit=unit))


def _write(place: Path, text: str) -> None:
    """Whole or not at all."""
    from memprof.report.files import save_text
    from memprof.run_file import disk

    with disk(place):
        save_text(place, text)
