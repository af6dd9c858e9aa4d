"""A run's folder: what is refused, what survives a torn line or a full disk, what is rendered."""

from __future__ import annotations

import errno
import gc
import json
import os
from pathlib import Path
from typing import Any

import pytest

import memprof.run_file
import memprof.store
from memprof.errors import MemprofError, NothingToDoError
from memprof.lock import FileLock
from memprof.run_file import RECORDS, Maker, load, read_environment, read_maker
from memprof.store import RENDERED, RunStore, render
from tests.made_records import make, snapshot

ENVIRONMENT = {"torch": "2.11.0"}
MAKER = Maker(ENVIRONMENT, steps=10, rounds=6)


def test_what_was_appended_is_loaded(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path / "deep" / "run", maker=MAKER)
    store.append(make("adamw"))
    store.append(make("lora"))
    assert store.load() == load(store.path) == load(store.path / RECORDS) == [make("adamw"), make("lora")]
    assert read_environment(store.path) == ENVIRONMENT
    header, *lines = (store.path / RECORDS).read_text().splitlines()
    assert (
        json.loads(header) == {"schema_version": 1, "environment": ENVIRONMENT, "steps": 10, "rounds": 6}
        and len(lines) == 2
    )


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
    """With nothing measured another version goes on: its traces are of these scenarios all the same."""
    RunStore.create(tmp_path / "run", resume=True, maker=Maker(ENVIRONMENT)).append(make("adamw"))
    store = RunStore.create(tmp_path / "run", resume=True, maker=Maker({"torch": "2.12.0"}))
    store.append(make("lora"))
    assert [record.method for record in store.load()] == ["adamw", "lora"]
    assert read_environment(store.path) == {"torch": "2.12.0"}
    assert read_maker(store.path) == Maker({"torch": "2.12.0"})


@pytest.mark.parametrize("resume", [False, True])
def test_what_another_wrote_before_we_held_the_lock_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    """It makes the run, and is done with it, between our look at the empty folder and our lock."""

    class Late(FileLock):
        def __init__(self, file: Path) -> None:
            monkeypatch.setattr(memprof.store, "FileLock", FileLock)
            other = RunStore.create(file.parent)
            other.append(make("adamw"))
            other.close()
            super().__init__(file)

    monkeypatch.setattr(memprof.store, "FileLock", Late)
    if resume:
        RunStore.create(tmp_path / "run", resume=True).close()
    else:
        with pytest.raises(MemprofError, match="not empty"):
            RunStore.create(tmp_path / "run")
    assert load(tmp_path / "run") == [make("adamw")]
    assert RunStore.create(tmp_path / "run", resume=True).load() == [make("adamw")], "and the lock is free"


def test_a_records_file_that_cannot_be_locked_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / RECORDS).mkdir()
    with pytest.raises(MemprofError, match="cannot write"):
        RunStore.create(tmp_path, force=True)
    gc.collect()
    assert capfd.readouterr().err == ""


def test_what_a_killed_rendering_left_is_taken_away(tmp_path: Path) -> None:
    RunStore.create(tmp_path).append(make("adamw"))
    for name in (
        ".unfinished-123-table.md",
        ".unfinished-9-memory.png",
        ".unfinished-9-sweep.svg",
        ".unfinished-9-mine.txt",
    ):
        (tmp_path / name).write_text("half")
    RunStore.create(tmp_path, resume=True).close()
    assert set(snapshot(tmp_path)) == {RECORDS, ".unfinished-9-mine.txt"}


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


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_resume_after_a_torn_line_writes_whole_lines(tmp_path: Path, end: bytes) -> None:
    store = RunStore.create(tmp_path)
    store.append(make("adamw"))
    with store.records.open("ab") as file:
        file.write(b'{"id": "lo' + end)
    store.close()
    RunStore.create(tmp_path, resume=True).append(make("lora"))
    assert store.load() == [make("adamw"), make("lora")]


def test_a_line_that_the_system_takes_in_pieces_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """write(2) may take less than it is given, on a network file system for instance."""
    real = Path.open

    class Slow:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> Slow:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: Any) -> int:
            return int(self.file.write(bytes(data)[:10]))

    def slow(self: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        file = real(self, mode, *rest, **named)
        return Slow(file) if mode == "ab" else file

    store = RunStore.create(tmp_path)
    monkeypatch.setattr(Path, "open", slow)
    for method in ("adamw", "lora"):
        store.append(make(method))
    assert store.load() == [make("adamw"), make("lora")]


def test_a_new_run_is_in_its_folder_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut a file is there only if the folder that names it was written too."""
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(Path(os.readlink(f"/proc/self/fd/{number}"))))
    RunStore.create(tmp_path / "run")
    assert [path.relative_to(tmp_path) for path in synced] == [Path("run", RECORDS), Path("run"), Path()]


def test_a_rendering_is_on_the_disk_before_it_takes_the_old_ones_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[str, str]] = []
    real = os.replace
    monkeypatch.setattr(os, "fsync", lambda number: steps.append(("sync", os.readlink(f"/proc/self/fd/{number}"))))

    def replaced(source: Path, target: Path) -> None:
        steps.append(("replace", str(source)))
        real(source, target)

    store = RunStore.create(tmp_path)
    store.append(make("adamw"))
    monkeypatch.setattr(os, "replace", replaced)
    steps.clear()
    store.render()
    places = [place for place, (step, _) in enumerate(steps) if step == "replace"]
    assert len(places) == len(RENDERED)
    for place in places:
        assert steps[place - 1] == ("sync", steps[place][1]) and steps[place + 1] == ("sync", str(tmp_path))


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
    made = {*RENDERED, "waterfall.png", "waterfall.svg"}  # nothing was swept or measured, and no timeline kept
    assert {file.name for file in store.render()} == made
    first = snapshot(tmp_path)
    assert set(first) == {RECORDS, *made} and all(first.values())
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
