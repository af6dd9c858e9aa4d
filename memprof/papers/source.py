"""A paper's file: what its tables may say, checked key by key. A file is data: nothing in it is run."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from memprof.counting import Counting, get_counting
from memprof.papers.cells import (
    LAYERS,
    MISSING,
    NUMBER,
    OF_LAYERS,
    Changes,
    Column,
    Expectation,
    Label,
    Link,
    Origin,
    Row,
    Setting,
    Side,
    Strict,
    Text,
)


class Term(Strict):
    """A published cell in an identity; without `column`, every column in turn."""

    times: float = 1.0
    table: str | None = None
    row: Label
    column: Label | None = None


class Identity(Strict):
    """What printed cells obey among themselves: the terms add up to zero, within their last digits."""

    says: Text
    terms: tuple[Term, ...] = Field(strict=False, min_length=2)
    holds: bool = True
    note: Text = ""


class Table(Strict):
    """A table, a figure, or claims of the text."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,19}$")]
    title: Text
    about: Text = ""
    devices: Annotated[int, Field(ge=1)] = 1
    origin: Origin = "printed"
    expect: Expectation = "reproduced"
    because: Text = ""
    setting: Setting = Setting()
    counted_as: str | None = None
    """another counting than the paper's"""
    counting: Changes = Changes()
    weights: dict[str, Annotated[list[str], Field(min_length=2, max_length=2)]] | None = None
    """instead of a model: linear layers by name, each with two sides in letters, such as q_proj = ["h", "h"]"""
    sizes: tuple[dict[str, Side], ...] = Field(default=(), strict=False)
    """what the letters stand for, `r` for the rank; a formula must hold for each"""
    columns: tuple[Column, ...] = Field(alias="column", strict=False, min_length=1)
    rows: tuple[Row, ...] = Field(alias="row", strict=False, min_length=1)
    bars: tuple[Label, ...] = Field(default=(), strict=False)
    """columns that a chart stacks, row by row"""
    identities: tuple[Identity, ...] = Field(alias="identity", default=(), strict=False)

    @model_validator(mode="after")
    def _rows_fit(self) -> Table:
        labels = [row.label for row in self.rows]
        for what, names in (("row", labels), ("column", self.labels)):
            if len(set(names)) < len(names):
                raise ValueError(f"table {self.id}: two {what}s have one label; labels must differ")
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                has = f"{len(row.cells)} cells; the table has {len(self.columns)} columns"
                raise ValueError(f"row {row.label!r} has {has}")
            for cell in row.cells:
                if not self.sizes and cell.value != MISSING and not NUMBER.fullmatch(cell.value):
                    raise ValueError(f"{cell.value!r} is no number; letters need `weights` and `sizes`")
        for column in self.columns:
            if column.against is not None and column.against not in labels:
                raise ValueError(f"column {column.label!r} is taken against {column.against!r}, which is no row")
        for label in self.bars:
            if label not in self.labels:
                raise ValueError(f"bars name {label!r}, which is no column")
        return self

    @model_validator(mode="after")
    def _layers_fit(self) -> Table:
        if (self.weights is None) != (not self.sizes):
            raise ValueError(f"table {self.id}: weights and sizes go together")
        for name in self.weights or ():
            if name not in LAYERS:
                raise ValueError(f"weights name {name!r}; choose from {', '.join(LAYERS)}")
        for column in self.columns:
            of_layers = column.quantity in OF_LAYERS and set(column.of.split("+")) <= {"param", "optimizer_state"}
            if self.weights is not None and not of_layers:
                raise ValueError(f"column {column.label!r}: layers have elements of param and optimizer_state alone")
            if self.weights is None and column.quantity == "elements":
                raise ValueError(f"column {column.label!r}: elements need `weights` and `sizes`")
        return self

    @property
    def labels(self) -> list[str]:
        return [column.label for column in self.columns]


class Paper(Strict):
    """One paper's file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
    title: Text
    authors: Text = ""
    published: Text = ""
    link: Link = ""
    about: Text = ""
    counting: str = "memprof"
    review: tuple[Text, ...] = Field(default=(), strict=False)
    """the verdict in a few sentences; {table|row|column|formula:.2f} stands for a figure"""
    conflicts: tuple[Text, ...] = Field(default=(), strict=False)
    """slips and contradictions found in the paper itself"""
    tables: tuple[Table, ...] = Field(alias="table", strict=False, min_length=1)

    @model_validator(mode="after")
    def _tables_fit(self) -> Paper:
        known = {table.id: table for table in self.tables}
        if len(known) < len(self.tables):
            raise ValueError("two tables have one id; ids must differ")
        for table in self.tables:
            for identity in table.identities:
                for term in identity.terms:
                    _check_term(term, known.get(term.table or table.id))
        return self

    def convention(self, table: Table, row: Row) -> Counting:
        """How a row's cells are counted."""
        return row.counting.on(table.counting.on(get_counting(table.counted_as or self.counting)))


def _check_term(term: Term, home: Table | None) -> None:
    if home is None:
        raise ValueError(f"an identity names table {term.table!r}, which is not there")
    if term.row not in [row.label for row in home.rows]:
        raise ValueError(f"an identity names row {term.row!r}, which table {home.id} has not")
    if term.column is not None and term.column not in home.labels:
        raise ValueError(f"an identity names column {term.column!r}, which table {home.id} has not")
