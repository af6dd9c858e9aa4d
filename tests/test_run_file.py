"""The file of a run as it is read: torn ends, damaged lines, headers, sizes."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

import memprof.run_file
import memprof.store
from memprof.errors import MemprofError
from memprof.run_file import RECORDS, load, read_maker
from memprof.store import RunStore
from tests.made_records import make


@pytest.mark.parametrize("steps", ["10", True, [10]])
def test_a_header_with_other_steps_than_a_number_is_refused(tmp_path: Path, steps: Any) -> None:
    header = {"schema_version": 1, "environment": {}, "steps": steps}
    (tmp_path / RECORDS).write_text(json.dumps(header) + "\n")
    with pytest.raises(MemprofError, match=f"{RECORDS}:1: the steps are not a number"):
        read_maker(tmp_path)


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_torn_last_line_is_dropped_with_a_note(tmp_path: Path, kept: int, caplog: pytest.LogCaptureFixture) -> None:
    store = RunStore.create(tmp_path)
    store.append(make("adamw"))
    whole = store.records.read_bytes()
    store.append(make("lora"))
    torn = store.records.read_bytes().rstrip()[len(whole) :]
    store.records.write_bytes(whole + torn[:kept])
    with caplog.at_level(logging.WARNING):
        assert store.load() == [make("adamw")]
    assert "cut short" in caplog.text


def test_a_last_record_without_its_newline_counts(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path)
    store.append(make("adamw"))
    store.records.write_bytes(store.records.read_bytes().rstrip())
    store.close()
    RunStore.create(tmp_path, resume=True).append(make("lora"))
    assert store.load() == [make("adamw"), make("lora")]


def test_the_last_record_of_a_cell_counts(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path)
    failed = dataclasses.replace(make("adamw"), formula=None, status="timeout")
    for record in (failed, make("lora"), make("adamw", 12)):
        store.append(record)
    assert store.load() == [make("adamw", 12), make("lora")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"schema_version": 2, "environment": {}}', "schema 2"),
        ("[1, 2]", "not a memprof record"),
        ('{"id": "x"}', "not a memprof record"),
        ("{torn", "not JSON; .* without that line it is sound, and its cell runs again with --resume"),
    ],
)
def test_what_is_not_a_run_is_refused_with_its_line(tmp_path: Path, line: str, said: str) -> None:
    good = json.dumps(make("adamw").to_dict())
    (tmp_path / RECORDS).write_text(f"{good}\n{line}\n{good}\n")
    with pytest.raises(MemprofError, match=said) as error:
        load(tmp_path)
    assert f"{RECORDS}:2" in str(error.value) and "\n" not in str(error.value)


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(MemprofError, match="no run at"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("size", [1001, 2**40])
def test_a_file_larger_than_any_run_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(memprof.run_file, "MAX_FILE", 1000)
    (tmp_path / RECORDS).touch()
    os.truncate(tmp_path / RECORDS, size)
    with pytest.raises(MemprofError, match=r"larger than any run \(1000 bytes\)"):
        load(tmp_path)
    os.truncate(tmp_path / RECORDS, 1000)
    (tmp_path / RECORDS).write_bytes(b" " * 1000)
    assert load(tmp_path) == []
