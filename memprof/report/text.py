"""A comparison as text that other tools read: Markdown for a pull request, CSV and a data frame for analysis."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from memprof.record import Formula, Measured, Memory, Record, Trace
from memprof.report import captions
from memprof.report.columns import choose
from memprof.report.describe import plain, spell
from memprof.report.rows import make_rows
from memprof.timeline import BACKWARD, CATEGORIES, FORWARD, OPTIMIZER, REFRESH

if TYPE_CHECKING:
    import pandas

_ESCAPES = str.maketrans(
    {
        "&": "&amp;",
        "<": "&lt;",
        ">": "&gt;",
        "|": "\\|",
        "@": "&#64;",
        "$": "<span>$</span>",
        **{char: f"\\{char}" for char in "\\`*[]~"},
    }
)
_EMPHASIS = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
"""an underscore at a word's end; within one, as in optimizer_state, it is only itself"""
_NESTED = {
    "peak_by_category": CATEGORIES,
    "phase_peaks": (FORWARD, BACKWARD, OPTIMIZER, REFRESH),
    "step_seconds": (FORWARD, BACKWARD, OPTIMIZER, REFRESH),
}
"""keys whose values are mappings, each with the entries that always have a column"""
_NO_FIGURE = "timeline"
_WITNESSES: dict[str, type[Memory]] = {"formula": Formula, "trace": Trace, "measured": Measured}
_IDENTITY = ("id", "model", "method", "status", "reason", "flags")


def markdown(
    records: Sequence[Record], *, by: str | None = None, unit: str = "GiB", fits: int | None = None, note: str = ""
) -> str:
    """A GitHub table with all columns, below a heading and above what it takes to read it."""
    rows = make_rows(records, by=by, fits=fits)
    columns = choose(rows, unit, fits)
    lines = [
        _line([escape(column.header) for column in columns]),
        _line(["---" if column.is_text else "---:" for column in columns]),
        *(_line([escape(column.cell(row)) for column in columns]) for row in rows),
    ]
    below = [*captions.caption(rows, unit, [column.header for column in columns]), note]
    paragraphs = "\n\n".join(escape(text) for text in below if text)
    return f"### {escape(captions.title(rows, unit))}\n\n" + "\n".join(lines) + f"\n\n{paragraphs}\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, also inside a table's cell."""
    return _EMPHASIS.sub(r"\\_", " ".join(text.split()).translate(_ESCAPES))


def to_frame(records: Sequence[Record]) -> pandas.DataFrame:
    """One row per record, all witnesses side by side: `formula_peak`, `trace_peak`, ... in bytes, seconds and names."""
    import pandas

    flat = [_flat(record) for record in records]
    settings = (key for record in records for key, _ in _scenario(record))
    columns = list(dict.fromkeys([*_IDENTITY, *settings, *_witness_keys(), *(key for row in flat for key in row)]))
    series = {name: _series([row.get(name) for row in flat]) for name in columns}
    return pandas.DataFrame(series, columns=columns)


def csv(records: Sequence[Record]) -> str:
    """`to_frame` as text; the same records give the same bytes."""
    text: str = to_frame(records).map(inert).to_csv(index=False, lineterminator="\n")
    return text


def inert(value: Any) -> Any:
    """A text that no terminal acts on and no spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _series(values: list[Any]) -> pandas.Series[Any]:
    """A column; bytes stay integers beside a missing value, which pandas would turn into floats."""
    import pandas

    known = [value for value in values if value is not None]
    if known and all(isinstance(value, bool) for value in known):
        return pandas.Series(values, dtype="boolean")
    if known and all(isinstance(value, int) and abs(value) < 2**63 for value in known):
        return pandas.Series(values, dtype="Int64")
    if known and all(isinstance(value, (int, float)) for value in known):
        return pandas.Series(values, dtype="float64")
    return pandas.Series(values, dtype="object")


def _flat(record: Record) -> dict[str, Any]:
    named = {"id": record.id, "model": record.model, "method": record.method}
    outcome = {"status": record.status, "reason": record.reason, "flags": " ".join(record.flags)}
    witnesses = record.to_dict()
    flat = {**named, **outcome, **dict(_scenario(record))}
    for name in _WITNESSES:
        flat.update(_spread(name, witnesses[name] or {}))
    return {key: value for key, value in flat.items() if key not in _TABLES}


def _scenario(record: Record) -> Iterator[tuple[str, Any]]:
    for key, value in record.scenario.items():
        if isinstance(value, Mapping):
            yield from _spread(key, value)
        elif key not in ("model", "method"):
            yield key, _cell(value)


def _spread(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """`formula: {peak: 1}` as `formula_peak: 1`, at any depth."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _spread(f"{prefix}_{key}", value)
        elif key != _NO_FIGURE:
            yield f"{prefix}_{key}", _cell(value)


def _cell(value: Any) -> Any:
    return spell(value) if isinstance(value, (list, tuple)) else value


def _witness_keys() -> Iterator[str]:
    """Columns that are there whatever ran, so that two runs' files have the same ones."""
    for name, kind in _WITNESSES.items():
        yield from _keys(name, kind)


def _keys(prefix: str, kind: type[Any]) -> Iterator[str]:
    """A figure's column, or the columns of a table of figures. Names that may be any, such as a maker's, have none."""
    for name, hint in _fields(kind).items():
        inner, part = _NESTED.get(name), _part(hint)
        if part is not None:
            yield from _keys(f"{prefix}_{name}", part)
        elif inner:
            yield from (f"{prefix}_{name}_{key}" for key in inner)
        elif get_origin(hint) is not dict:
            yield f"{prefix}_{name}"


def _tables(prefix: str, kind: type[Any]) -> Iterator[str]:
    """What the columns of tables begin with: no columns themselves, where there is no such table."""
    for name, hint in _fields(kind).items():
        part = _part(hint)
        if part is not None:
            yield f"{prefix}_{name}"
            yield from _tables(f"{prefix}_{name}", part)


def _fields(kind: type[Any]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {spec.name: hints[spec.name] for spec in fields(kind) if spec.name != _NO_FIGURE}


def _part(hint: Any) -> type[Any] | None:
    """The dataclass that a field is or may be."""
    return next((each for each in (hint, *get_args(hint)) if isinstance(each, type) and is_dataclass(each)), None)


_TABLES = frozenset(name for prefix, kind in _WITNESSES.items() for name in _tables(prefix, kind))
