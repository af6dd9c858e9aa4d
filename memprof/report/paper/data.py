"""A paper's cells for other programs: CSV, and one JSON document."""

from __future__ import annotations

import csv as csv_module
import io
import json
from dataclasses import asdict

from memprof.papers.cells import NUMBER
from memprof.papers.result import Reproduction, Result
from memprof.report.describe import plain

COLUMNS = (
    "table", "row", "column", "quantity", "unit", "published", "origin", "value", "formula", "trace", "measured",
    "sequences", "difference", "verdict", "expected", "because", "note",
)  # fmt: skip


def csv(found: Reproduction) -> str:
    """One line a cell, with everything that is known of it."""
    out = io.StringIO()
    writer = csv_module.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for result in found.results:
        data = _data(result)
        writer.writerow([_cell(data[name]) for name in COLUMNS])
    return out.getvalue()


def _cell(value: object) -> str:
    """Numbers as they are, also those in print; text that a spreadsheet would take for a formula is marked as text."""
    if value is None:
        return ""
    text = plain(value)
    is_formula = isinstance(value, str) and text[:1] in ("=", "+", "-", "@") and not NUMBER.fullmatch(text)
    return f"'{text}" if is_formula else text


def document(found: Reproduction) -> str:
    """The same as one JSON document."""
    cells = [_data(result) | {"lost": result.is_lost} for result in found.results]
    identities = [asdict(each) | {"holds": each.holds} for each in found.identities]
    body = {"schema_version": 1, "paper": found.paper.name, "title": found.paper.title, "cells": cells}
    more = {"identities": identities, "measured_on": found.measured_on, "reproduced": found.is_true}
    return json.dumps(body | more, indent=1, allow_nan=False)


def _data(result: Result) -> dict[str, object]:
    """A cell under the names that its witnesses have outside."""
    data = {name: value for name, value in asdict(result).items() if name not in ("ours", "stored")}
    return data | {"formula": result.ours, "trace": result.stored, "difference": result.difference}
