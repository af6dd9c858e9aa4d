"""`--update-limits`: sets absolute limits to what was seen, and leaves every other byte of the file as it was."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import tomlkit

from memprof.budget.check import Check, Verdict
from memprof.budget.limits import Kind
from memprof.budget.source import PYPROJECT, KeyPath, Source
from memprof.errors import MemprofError
from memprof.units import UNITS

_UNIT = re.compile(r"[KMGT]i?B|B")
STEPS = 100
"""a limit is rounded up to hundredths of its unit"""


def new_limits(checks: list[Check]) -> dict[KeyPath, str]:
    """The sizes to write: each absolute limit's figure, rounded up in the unit in which that limit was written."""
    values: dict[KeyPath, str] = {}
    for check in checks:
        judged = check.verdict in (Verdict.PASS, Verdict.FAIL) and check.actual is not None
        if judged and check.limit.kind is Kind.SIZE:
            text = rounded_up(int(check.actual or 0), check.limit.text)
            if text != check.limit.text:
                values[check.budget.index, *check.limit.path] = text
    return values


def rounded_up(nbytes: int, written: str) -> str:
    """`nbytes` in the unit of `written`, never less: 9.5 GiB and one byte are "9.51 GiB"."""
    found = _UNIT.search(written)
    unit = found[0] if found else "B"
    steps = 1 if unit == "B" else STEPS
    count = max(1, -(-nbytes * steps // UNITS[unit]))
    return f"{(Decimal(count) / steps).normalize():f} {unit}"


def rewrite(source: Source, values: Mapping[KeyPath, str]) -> str:
    """The file's text with these values; an error where anything else would change."""
    try:
        document: Any = tomlkit.parse(source.text)
        if tomlkit.dumps(document) != source.text:
            raise ValueError("its tables are in an order that cannot be kept")
        table = document["tool"]["memprof"] if source.path.name == PYPROJECT else document
        for (index, *keys), value in values.items():
            _put(table["budget"][index], keys, value)
        text = tomlkit.dumps(document)
        if _expected(source, values) != tomllib.loads(text):
            raise ValueError("something else would change")
    except Exception as error:  # tomlkit gives up on a few valid files in ways of its own
        reason = " ".join(str(error).split())[:200]
        raise MemprofError(f"cannot rewrite {source.name}: {reason}; edit its limits by hand") from None
    return text


def _put(table: Any, keys: list[int | str], value: str) -> None:
    """Set one key, with the kind of quotes that it had."""
    *outer, last = keys
    for key in outer:
        table = table[key]
    table[last] = tomlkit.string(value, literal=table[last].as_string().startswith("'"))


def _expected(source: Source, values: Mapping[KeyPath, str]) -> dict[str, Any]:
    """What the rewritten file must say."""
    data: Any = tomllib.loads(source.text)
    table = data["tool"]["memprof"] if source.path.name == PYPROJECT else data
    for (index, *keys), value in values.items():
        inner = table["budget"][index]
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
    expected: dict[str, Any] = data
    return expected
