"""A paper's tables, cell by cell: what is published, what comes out, and whether an identity holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from memprof.errors import MemprofError, shown
from memprof.papers.cells import MISSING, Row
from memprof.papers.result import Reproduction, Result
from memprof.papers.source import Paper, Table
from memprof.record import Measured
from memprof.reproduce.figures import Witnesses, scenario_of
from memprof.reproduce.judge import judge, obeyed
from memprof.scenario import Scenario

OnTable = Callable[[int, int], None]


def choose(paper: Paper, wanted: Iterable[str]) -> tuple[Table, ...]:
    """The tables of these ids; all without any."""
    known = {table.id: table for table in paper.tables}
    asked = list(wanted)
    for name in asked:
        if name not in known:
            raise MemprofError(f"{paper.name} has no table {shown(repr(name))}; choose from {', '.join(known)}")
    return tuple(known[name] for name in asked) if asked else paper.tables


def reproduce(
    paper: Paper,
    tables: Iterable[str] = (),
    *,
    tracing: bool = True,
    measurements: Mapping[str, Measured] | None = None,
    measured_on: str | None = None,
    on_table: OnTable = lambda done, total: None,
) -> Reproduction:
    """Every cell of the chosen tables, judged; `measurements` by `figures.key` of their scenario, taken on a device."""
    chosen = choose(paper, tables)
    witnesses = Witnesses(tracing, measurements or {})
    results: list[Result] = []
    for number, table in enumerate(chosen):
        on_table(number, len(chosen))
        results += _table(paper, table, witnesses)
    on_table(len(chosen), len(chosen))
    identities = [found for table in chosen for each in table.identities for found in obeyed(paper, table, each)]
    return Reproduction(paper, chosen, tuple(results), tuple(identities), measured_on)


def _table(paper: Paper, table: Table, witnesses: Witnesses) -> list[Result]:
    results = []
    for row in table.rows:
        if row.baseline:
            continue
        with _named(f"table {table.id}, row {row.label!r}"):
            results += _row(paper, table, row, witnesses)
    return results


@contextmanager
def _named(place: str) -> Iterator[None]:
    """A method or a rank that is not to be had is told with the row that asks for it."""
    try:
        yield
    except MemprofError as error:
        raise type(error)(f"{place}: {error}") from None


def _row(paper: Paper, table: Table, row: Row, witnesses: Witnesses) -> list[Result]:
    results = []
    for place, column in enumerate(table.columns):
        if row.cells[place].value == MISSING and column.against == row.label:
            continue  # a row taken against itself says nothing
        seen = witnesses.figures(paper, table, row, column)
        other = witnesses.against(paper, table, column) if column.against else None
        results.append(judge(paper, table, row, place, seen, other))
    return results


def scenarios(paper: Paper, tables: Iterable[Table], device: str) -> list[Scenario]:
    """What would have to be measured for these tables, each scenario once."""
    found = [
        scenario_of(paper, table, row, column, device=device)
        for table in tables
        if table.weights is None
        for row in table.rows
        if row.method is not None
        for column in table.columns
    ]
    return list({scenario.id: scenario for scenario in found}.values())
