"""The cells, rows and columns of a paper's table: what a TOML file may say of them, checked key by key."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from memprof.counting import Counting
from memprof.errors import MemprofError
from memprof.papers.letters import parse_polynomial
from memprof.units import UNITS

NUMBER = re.compile(r"(<\s*)?(-?\d{1,15}(?:\.\d{1,9})?)(?:\s*%)?", re.ASCII)
PERCENT = ("saving", "share")
"""quantities that are printed in per cent"""
MISSING = "-"
"""a cell that the paper leaves out; ours is shown all the same"""


def _printable(text: str) -> str:
    """What stands here is shown on terminals and pages."""
    if not text.isprintable():
        raise ValueError("control characters, line breaks and marks of direction are not allowed in a text")
    return text


Text = Annotated[str, Field(max_length=2_000), AfterValidator(_printable)]
Label = Annotated[str, Field(min_length=1, max_length=80), AfterValidator(_printable)]
Link = Annotated[str, Field(max_length=200, pattern=r"^(https?://[!-;=?-~]+)?$")]
Side = Annotated[int, Field(ge=1, le=65_536)]
OF_LAYERS = ("elements", "saving", "share")
LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Expectation = Literal["reproduced", "other unit", "not reproduced", "not run"]
Origin = Literal["printed", "stated", "derived"]
Quantity = Literal[
    "bytes", "elements", "saving", "share", "difference", "refreshes", "parameters",
    "examples per second", "flops", "update bytes", "flop bound", "byte bound",
]  # fmt: skip
SIZES = ("param", "grad", "optimizer_state", "activation", "extra", "total", "peak")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


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
    kernels: str | None = None
    checkpointing: bool | None = None
    loss_chunks: Annotated[int, Field(ge=1)] | None = None


class Changes(Strict):
    """What a table or a row counts otherwise than its paper."""

    vocab_size: int | None = None
    params: str | None = None
    parts: dict[str, float] | None = None
    activation: str | None = None
    largest_tensor: bool | None = None
    grads: str | None = None
    sums: bool | None = None

    def on(self, counting: Counting) -> Counting:
        return Counting(**{**_fields(counting), **self.model_dump(exclude_none=True)})


class Cell(Strict):
    """A published figure, and what is to come of it."""

    value: Annotated[str, Field(min_length=1, max_length=40), AfterValidator(_printable)]
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
    if isinstance(value, int | float):
        raise ValueError(f'write a figure as text, such as "{value}": its digits are what must come out')
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
    because: Text = ""
    """why its cells do not come out, where neither cell nor row says"""

    @model_validator(mode="after")
    def _makes_sense(self) -> Column:
        if self.unit and self.unit not in UNITS:
            raise ValueError(f"unit {self.unit!r} is unknown; choose from {', '.join(UNITS)}")
        for key in self.of.split("+"):
            if key not in SIZES:
                raise ValueError(f"of {self.of!r} is unknown; join {', '.join(SIZES)} by +")
        if self.quantity in ("bytes", "difference", "update bytes") and not self.unit:
            raise ValueError(f"{self.quantity} need a `unit`, such as GiB")
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
    expect: Expectation | None = None
    because: Text = ""
    note: Text = ""
    baseline: bool = False
    """only there to take others against; not shown"""


def _fields(counting: Counting) -> dict[str, Any]:
    return {name: getattr(counting, name) for name in Changes.model_fields}
