"""A run's folder: what is refused, what survives a torn line or a full disk, what is rendered."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from memprof.errors import MemprofError, NothingToDoError
from memprof.record import Formula, Record
from memprof.run_file import RECORDS, load, read_environment
from memprof.store import RENDERED, RunStore, render

GIB = 2**30
ENVIRONMENT = {"torch": "2.11.0"}


def make(method: str, peak: int = 10) -> Record:
    at_peak: dict[str, Any] = {"param": peak * GIB, "grad": 0, "optimizer_state": 0, "activation": 0, "extra": 0}
    ends: dict[str, Any] = {"peak": peak * GIB, "steady": peak * GIB, "total": peak * GIB, "peak_phase": "forward"}
    formula = Formula(**at_peak, **ends, peak_by_category=at_peak)
    scenario = {"model": "1b", "method": method, "hyperparameters": {}, "batch_size": 8}
    return Record(id=f"{method:>12}", scenario=scenario, formula=formula)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_what_was_appended_is_loaded(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path / "deep" / "run", environment=ENVIRONMENT)
    store.append(make("adamw"))
    store.append(make("lora"))
    assert store.load() == load(store.path) == load(store.path / RECORDS) == [make("adamw"), make("lora")]
    assert read_environment(store.path) == ENVIRONMENT
    header, *lines = (store.path / RECORDS).read_text().splitlines()
    assert json.loads(header) == {"schema_version": 1, "environment": ENVIRONMENT} and len(lines) == 2


def test_a_line_is_on_the_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    store = RunStore.create(tmp_path / "run")
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size))
    store.append(make("adamw"))
    assert synced == [(store.path / RECORDS).stat().st_size]


def test_an_existing_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path)
    store.append(make("adamw"))
    before = snapshot(tmp_path)
    with pytest.raises(MemprofError, match="--force.*--resume") as error:
        RunStore.create(tmp_path)
    assert "\n" not in str(error.value)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_other_files_is_refused_and_left_alone(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "table.md").write_text("mine")
    with pytest.raises(MemprofError, match="--force"):
        RunStore.create(tmp_path, resume=resume)
    assert snapshot(tmp_path) == {"table.md": b"mine"}


def test_force_starts_over_and_spares_foreign_files(tmp_path: Path) -> None:
    RunStore.create(tmp_path).append(make("adamw"))
    render(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    store = RunStore.create(tmp_path, force=True)
    assert store.load() == []
    assert set(snapshot(tmp_path)) == {RECORDS, "notes.txt"}


def test_resume_continues(tmp_path: Path) -> None:
    RunStore.create(tmp_path / "run", resume=True, environment=ENVIRONMENT).append(make("adamw"))
    store = RunStore.create(tmp_path / "run", resume=True, environment={"torch": "2.12.0"})
    store.append(make("lora"))
    assert [record.method for record in store.load()] == ["adamw", "lora"]
    assert read_environment(store.path) == {"torch": "2.12.0"}


@pytest.mark.parametrize(
    ("methods", "said"), [(["adamw"], "its only cell is not"), (["adamw", "lora"], "none of its 2 cells is")]
)
def test_a_run_of_other_cells_is_not_continued(tmp_path: Path, methods: list[str], said: str) -> None:
    store = RunStore.create(tmp_path)
    for method in methods:
        store.append(make(method))
    store.close()
    with pytest.raises(MemprofError, match=f"is of other scenarios: {said} asked for here") as error:
        RunStore.create(tmp_path, resume=True, planned=["another"])
    assert "\n" not in str(error.value)


def test_force_and_resume_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(MemprofError, match="one of them"):
        RunStore.create(tmp_path / "run", force=True, resume=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("where", ["file", "file/run"])
def test_a_path_that_cannot_be_a_folder(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(MemprofError) as error:
        RunStore.create(tmp_path / where)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)
    assert snapshot(tmp_path) == {"file": b"mine"}


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


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_resume_after_a_torn_line_writes_whole_lines(tmp_path: Path, end: bytes) -> None:
    store = RunStore.create(tmp_path)
    store.append(make("adamw"))
    with store.records.open("ab") as file:
        file.write(b'{"id": "lo' + end)
    store.close()
    RunStore.create(tmp_path, resume=True).append(make("lora"))
    assert store.load() == [make("adamw"), make("lora")]


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
        ("{torn", "not JSON"),
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


def test_a_full_disk_names_the_folder_and_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RunStore.create(tmp_path)
    store.append(make("adamw"))
    before = snapshot(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MemprofError, match="no space left") as error:
        store.append(make("lora"))
    assert str(tmp_path) in str(error.value) and snapshot(tmp_path) == before


def test_render_writes_every_file_and_nothing_else(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path)
    store.append(make("adamw"))
    store.append(make("lora", 5))
    assert {file.name for file in store.render()} == set(RENDERED)
    first = snapshot(tmp_path)
    assert set(first) == {RECORDS, *RENDERED} and all(first.values())
    store.render()
    assert snapshot(tmp_path) == first


def test_a_rendering_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RunStore.create(tmp_path)
    store.append(make("adamw"))
    store.render()
    before = snapshot(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(MemprofError, match="no space left"):
        store.render([make("adamw", 3)])
    assert snapshot(tmp_path) == before


def test_nothing_to_render(tmp_path: Path) -> None:
    with pytest.raises(NothingToDoError):
        RunStore.create(tmp_path).render()
