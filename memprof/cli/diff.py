"""`memprof diff`: two stored runs, figure by figure."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from memprof.cli.compare import Witness
from memprof.difference import SAME, VERDICTS
from memprof.errors import MemprofError
from memprof.units import UNITS

EXIT_CHANGED = 1


def diff(
    before: Annotated[Path, typer.Argument(help="A run's folder, its records.jsonl, or a file of compare --json.")],
    after: Annotated[Path, typer.Argument(help="The run to hold against it.")],
    by: Annotated[
        Witness | None, typer.Option(help="Whose figures. [default: the strongest witness that both runs have]")
    ] = None,
    tolerance: Annotated[
        str, typer.Option(help="What is still the same: 0.5% or 64MiB. A share holds for speed too.")
    ] = "0",
    fail_on: Annotated[
        str | None, typer.Option(help="Exit 1 on these verdicts: worse, missing, inconclusive, improved, new.")
    ] = None,
    bytes_only: Annotated[
        bool, typer.Option("--bytes-only", help="Leave speed out: two runs of the same code differ in it.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Show what stayed the same, too.")] = False,
    unit: Annotated[str, typer.Option(help="GiB (2**30), GB (1e9), MiB, MB, ...")] = "GiB",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
    markdown: Annotated[Path | None, typer.Option(help="Write the table to this file, for a pull request.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite that file.")] = False,
) -> None:
    """Two runs: what improved, what got worse, by method and category. Nothing is run again."""
    from memprof.cli.screen import note, print_table
    from memprof.diff import Tolerance, read_runs
    from memprof.diff import diff as difference_of
    from memprof.report import diff as report

    watched = _verdicts(fail_on)
    limit = Tolerance.parse(tolerance)
    with warnings_as_notes():
        runs = read_runs(before, after)
    found = difference_of(*runs, by=by, tolerance=limit, speed=not bytes_only)
    table = report.render(found, unit=_unit(unit), everything=everything)
    if markdown is not None:
        _write(markdown, report.markdown(found, unit=unit, everything=everything), force)
    if json:
        print(found.document())
    else:
        print_table(table)
    counts = found.counts()
    failed = [f"{counts[verdict]} {verdict}" for verdict in watched if counts[verdict]]
    if failed:
        note(f"{', '.join(failed)}: not let pass by --fail-on {','.join(watched)}")
        raise typer.Exit(EXIT_CHANGED)


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """What reading a run has to say, once, as this program says things."""
    from memprof.cli.screen import note

    said: dict[str, None] = {}
    handler = logging.Handler()
    handler.emit = lambda record: said.setdefault(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("memprof")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        for text in said:
            note(text)


def _verdicts(text: str | None) -> list[str]:
    """A comma list of verdicts, checked before anything is read."""
    allowed = [verdict for verdict in VERDICTS if verdict != SAME]
    asked = [] if text is None else [part.strip() for part in text.split(",")]
    for verdict in asked:
        if verdict not in allowed:
            raise MemprofError(f"--fail-on {verdict!r} is no verdict; choose from {', '.join(allowed)}")
    return list(dict.fromkeys(asked))


def _unit(unit: str) -> str:
    if unit not in UNITS:
        raise MemprofError(f"unknown unit {unit!r}; choose from {', '.join(UNITS)}")
    return unit


def _write(file: Path, text: str, force: bool) -> None:
    """Into a file that is new or empty, such as a step's summary on a build server."""
    try:
        if file.is_file() and file.stat().st_size and not force:
            raise MemprofError(f"{file} is there already; use --force to overwrite it")
        file.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise MemprofError(f"cannot write {file}: {error.strerror or error}") from None
