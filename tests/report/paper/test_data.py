"""A paper's cells as CSV and JSON. Oracle: the small paper of tests/papers, whose figures are known."""

from __future__ import annotations

import csv as csv_module
import io
import json
from dataclasses import replace

import pytest

from memprof.papers.result import Reproduction
from memprof.report.paper.data import csv, document
from tests.papers.conftest import PARAM_MB


def read(found: Reproduction) -> list[dict[str, str]]:
    return list(csv_module.DictReader(io.StringIO(csv(found))))


def test_csv_and_json_have_every_cell(found: Reproduction) -> None:
    rows, data = read(replace(found, measured_on="CPU")), json.loads(document(replace(found, measured_on="CPU")))
    cells = data["cells"]
    assert [row["row"] for row in rows] == [cell["row"] for cell in cells] == ["Full", "<script>|x", "Ours alone"]
    assert float(rows[0]["formula"]) == cells[0]["formula"] == pytest.approx(PARAM_MB)
    assert rows[2]["published"] == "" and cells[2]["published"] is None
    assert rows[0]["sequences"] == "1" and cells[0]["sequences"] == 1
    assert data["measured_on"] == "CPU"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("=1+1", "'=1+1"),
        ("  =1+1", "'=1+1"),
        ("\t@x", "'@x"),
        ("\x1b[31m-cmd", "'-cmd"),
        ("+49", "'+49"),
        ("-0.2", "-0.2"),
        ("-5 %", "-5 %"),
        ("plain", "plain"),
    ],
)
def test_a_spreadsheet_takes_no_text_for_a_formula(found: Reproduction, text: str, shown: str) -> None:
    cell = replace(found.results[0], published=text, because=text)
    (row,) = read(replace(found, results=(cell,)))
    assert (row["published"], row["because"]) == (shown, shown)
