"""What a paper's TOML file may say, checked key by key. A file is data: nothing in it is run."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from memprof.counting import Counting, get_counting
from memprof.errors import MemprofError, shown
from memprof.papers.letters import parse_polynomial
from memprof.units import UNITS

MAX_FILE = 2**18
NUMBER = re.compile(r"(<\s*)?(-?\d{1,15}(?:\.\d{1,9})?)(?:\s*%)?")
MISSING = "-"
"""a cell that the paper leaves out; ours is shown all the same"""

Text = Annotated[str, Field(max_length=2_000)]
Label = Annotated[str, Field(min_length=1, max_length=80)]
Expectation = Literal["reproduced", "other unit", "not reproduced", "not run"]
Origin = Literal["printed", "stated", "derived"]
Quantity = Literal[
    "bytes", "elements", "saving", "share", "difference", "refreshes", "parameters",
    "examples per second", "flops", "update bytes", "flop bound", "byte bound",
]  # fmt: skip
SIZES = ("param", "grad", "optimizer_state", "activation", "extra", "total", "peak")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Setting(Strict):
    """Fields of a scenario. A row's go before its column's, and those before its table's."""

    model: str | None = None
    rank: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = None
    accumulation: Annotated[int, Field(ge=1, le=1024)] | None = None
    seq_len: Annotated[int, Field(ge=1)] | None = None
    dtype: str | None = None
    vocab_size: Annotated[int, Field(ge=1)] | None = None
    num_layers: Annotated[int, Field(ge=1)] | None = None


class Changes(Strict):
    """What a table or a row counts otherwise than its paper."""

    vocab_size: int | None = None
    params: str | None = None
    parts: dict[str, float] | None = None
    activation: str | None = None
    largest_tensor: bool | None = None

    def on(self, counting: Counting) -> Counting:
        return Counting(**{**_fields(counting), **self.model_dump(exclude_none=True)})


class Cell(Strict):
    """A published figure, and what is to come of it."""

    value: Annotated[str, Field(min_length=1, max_length=40)]
    origin: Origin | None = None
    """printed in the table, stated in the text, or derived from what is stated"""
    expect: Expectation | None = None
    because: Text = ""
    """why it does not come out"""
    note: Text = ""
    """a conflict, or whatever a reader should know"""

    @model_validator(mode="after")
    def _is_a_figure(self) -> Cell:
        if self.value != MISSING and not NUMBER.fullmatch(self.value):
            try:
                parse_polynomial(self.value)
            except MemprofError as error:
                raise ValueError(str(error)) from None
        return self


def _cell(value: Any) -> Any:
    return {"value": value} if isinstance(value, str) else value


class Column(Strict):
    """A column: which quantity, of what, in which unit."""

    label: Label
    quantity: Quantity = "bytes"
    of: Text = "total"
    """for bytes, elements, saving, share and difference: keys of a record, joined by +"""
    against: Label | None = None
    """the row that a saving, share or difference is taken against"""
    unit: str = ""
    flops: Annotated[float, Field(gt=0)] | None = None
    """FLOP/s of one device, for a flop bound"""
    bytes_per_second: Annotated[float, Field(gt=0)] | None = None
    setting: Setting = Setting()

    @model_validator(mode="after")
    def _makes_sense(self) -> Column:
        if self.unit and self.unit not in UNITS:
            raise ValueError(f"unit {self.unit!r} is unknown; choose from {', '.join(UNITS)}")
        for key in self.of.split("+"):
            if key not in SIZES:
                raise ValueError(f"of {self.of!r} is unknown; join {', '.join(SIZES)} by +")
        if self.quantity in ("saving", "share", "difference") and self.against is None:
            raise ValueError(f"a {self.quantity} needs `against`, the label of a row")
        if self.quantity == "flop bound" and self.flops is None:
            raise ValueError("a flop bound needs `flops`, FLOP/s of a device")
        if self.quantity == "byte bound" and self.bytes_per_second is None:
            raise ValueError("a byte bound needs `bytes_per_second` of a device")
        return self


class Row(Strict):
    """A row: a way of training, and what the paper prints for it."""

    label: Label
    method: Text | None = None
    """a method with its settings; none where memprof has none such"""
    cells: tuple[Annotated[Cell, BeforeValidator(_cell)], ...] = Field(strict=False)
    setting: Setting = Setting()
    counting: Changes = Changes()
    origin: Origin | None = None
    because: Text = ""
    note: Text = ""
    baseline: bool = False
    """only there to take others against; not shown"""


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

    id: Annotated[str, Field(pattern=r"[a-z0-9][a-z0-9.-]{0,19}")]
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
    sizes: tuple[dict[str, int], ...] = Field(default=(), strict=False)
    """what the letters stand for, `r` for the rank; a formula must hold for each"""
    columns: tuple[Column, ...] = Field(alias="column", strict=False, min_length=1)
    rows: tuple[Row, ...] = Field(alias="row", strict=False, min_length=1)
    bars: tuple[Label, ...] = Field(default=(), strict=False)
    """columns that a chart stacks, row by row"""
    identities: tuple[Identity, ...] = Field(alias="identity", default=(), strict=False)

    @model_validator(mode="after")
    def _fits_together(self) -> Table:
        labels = [row.label for row in self.rows]
        for what, names in (("row", labels), ("column", [column.label for column in self.columns])):
            if len(set(names)) < len(names):
                raise ValueError(f"table {self.id}: two {what}s have one label; labels must differ")
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(
                    f"row {row.label!r} has {len(row.cells)} cells; the table has {len(self.columns)} columns"
                )
            for cell in row.cells:
                if not self.sizes and cell.value != MISSING and not NUMBER.fullmatch(cell.value):
                    raise ValueError(f"{cell.value!r} is no number; letters need `weights` and `sizes`")
        for column in self.columns:
            if column.against is not None and column.against not in labels:
                raise ValueError(f"column {column.label!r} is taken against {column.against!r}, which is no row")
        for label in self.bars:
            if label not in [column.label for column in self.columns]:
                raise ValueError(f"bars name {label!r}, which is no column")
        if (self.weights is None) != (not self.sizes):
            raise ValueError(f"table {self.id}: weights and sizes go together")
        return self


class Paper(Strict):
    """One paper's file."""

    name: Annotated[str, Field(pattern=r"[a-z0-9][a-z0-9-]{0,39}")]
    title: Text
    authors: Text
    published: Text
    link: Text = ""
    about: Text = ""
    counting: str = "memprof"
    conflicts: tuple[Text, ...] = Field(default=(), strict=False)
    """slips and contradictions found in the paper itself"""
    tables: tuple[Table, ...] = Field(alias="table", strict=False, min_length=1)

    def convention(self, table: Table, row: Row) -> Counting:
        """How a row's cells are counted."""
        return row.counting.on(table.counting.on(get_counting(table.counted_as or self.counting)))


def _fields(counting: Counting) -> dict[str, Any]:
    return {name: getattr(counting, name) for name in Changes.model_fields}


def names() -> list[str]:
    """The papers that come with memprof."""
    return sorted(
        file.name.removesuffix(".toml") for file in files(__package__).iterdir() if file.name.endswith(".toml")
    )


def read_paper(which: str) -> Paper:
    """A paper by its name, or a file of the user's own by its path."""
    if "/" not in which and not which.endswith(".toml"):
        if which not in names():
            raise MemprofError(
                f"unknown paper {shown(repr(which))}; choose from {', '.join(names())}, or give the path of a TOML file"
            )
        return _parse(files(__package__).joinpath(f"{which}.toml").read_text("utf-8"), f"{which}.toml")
    return _parse(_text(Path(which)), Path(which).name)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:
            raise MemprofError(f"{shown(path.name)} is larger than {MAX_FILE} bytes; a paper's file must be smaller")
        return content.decode()
    except UnicodeDecodeError:
        raise MemprofError(f"{shown(path.name)} is not TOML: it is not UTF-8") from None
    except OSError as error:
        raise MemprofError(f"cannot read {shown(str(path))}: {error.strerror or error}") from None


def _parse(text: str, name: str) -> Paper:
    try:
        return Paper.model_validate(tomllib.loads(text))
    except ValidationError as error:
        raise MemprofError(f"{shown(name)}: {_said(error)}") from None
    except (ValueError, RecursionError) as error:
        raise MemprofError(f"{shown(name)} is not TOML: {shown(str(error))}") from None


def _said(error: ValidationError) -> str:
    """The first fault with its place, as TOML names it: `table[2].row[3].cells: ...`, counted from 1."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = _place(first["loc"])
    what = " ".join(str(first["msg"]).removeprefix("Value error, ").split())
    more = f" (and {len(error.errors()) - 1} more)" if len(error.errors()) > 1 else ""
    return f"{where}: {what}{more}" if where else f"{what}{more}"


def _place(loc: Sequence[int | str]) -> str:
    return "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
