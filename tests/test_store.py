"""A run's folder: what is refused, what survives a torn line or a full disk, what is rendered."""

from __future__ import annotations

import dataclasses
import errno
import gc
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

import memprof.run_file
import memprof.store
from memprof.errors import MemprofError, NothingToDoError
from memprof.lock import FileLock
from memprof.record import Formula, Measured, Record
from memprof.run_file import RECORDS, Maker, load, read_environment, read_maker
from memprof.store import RENDERED, RunStore, render

GIB = 2**30
ENVIRONMENT = {"torch": "2.11.0"}
MAKER = Maker(ENVIRONMENT, steps=10)


def make(method: str, peak: int = 10) -> Record:
    at_peak: dict[str, Any] = {"param": peak * GIB, "grad": 0, "optimizer_state": 0, "activation": 0, "extra": 0}
    ends: dict[str, Any] = {"peak": peak * GIB, "steady": peak * GIB, "total": peak * GIB, "peak_phase": "forward"}
    formula = Formula(**at_peak, **ends, peak_by_category=at_peak)
    scenario = {"model": "1b", "method": method, "hyperparameters": {}, "batch_size": 8}
    return Record(id=f"{method:>12}", scenario=scenario, formula=formula)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_what_was_appended_is_loaded(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path / "deep" / "run", maker=MAKER)
    store.append(make("adamw"))
    store.append(make("lora"))
    assert store.load() == load(store.path) == load(store.path / RECORDS) == [make("adamw"), make("lora")]
    assert read_environment(store.path) == ENVIRONMENT
    header, *lines = (store.path / RECORDS).read_text().splitlines()
    assert json.loads(header) == {"schema_version": 1, "environment": ENVIRONMENT, "steps": 10} and len(lines) == 2


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


def measured(method: str) -> Record:
    record = make(method)
    assert record.formula is not None
    figures = {
        key: value for key, value in dataclasses.asdict(record.formula).items() if key not in ("total", "peak_at")
    }
    return dataclasses.replace(record, measured=Measured(**figures))


FACTS = {"torch": "2.11.0", "device": "cuda", "gpu": "A100"}


@pytest.mark.parametrize(
    ("change", "steps", "said"),
    [
        ({}, 40, r"steps \(10 there, 40 here\)"),
        ({"gpu": "H100"}, 10, r"gpu \(A100 there, H100 here\)"),
        ({"device": "cpu", "gpu": None}, 10, r"device \(cuda there, cpu here\), gpu \(A100 there, not said here\)"),
        ({"torch": "2.12.0"}, 10, r"torch \(2.11.0 there, 2.12.0 here\)"),
        ({"threads": "8"}, 10, r"threads \(not said there, 8 here\)"),
    ],
)
def test_what_was_measured_otherwise_is_not_continued(
    tmp_path: Path, change: dict[str, Any], steps: int, said: str
) -> None:
    store = RunStore.create(tmp_path, maker=Maker(FACTS, steps=10))
    store.append(measured("adamw"))
    store.close()
    before = snapshot(tmp_path)
    with pytest.raises(MemprofError, match=f"was made with other facts: {said}; .*--force") as error:
        RunStore.create(tmp_path, resume=True, maker=Maker(FACTS | change, steps=steps))
    assert "\n" not in str(error.value) and snapshot(tmp_path) == before
    RunStore.create(tmp_path, resume=True, maker=Maker(FACTS, steps=10)).close()
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("status", "change", "goes_on"),
    [("oom", {"gpu": "H100"}, False), ("oom", {"torch": "2.12.0"}, True), ("timeout", {"gpu": "H100"}, True)],
)
def test_where_nothing_was_measured_only_the_device_counts_and_only_for_results(
    tmp_path: Path, status: str, change: dict[str, Any], goes_on: bool
) -> None:
    store = RunStore.create(tmp_path, maker=Maker(FACTS, steps=10))
    store.append(dataclasses.replace(make("adamw"), status=status))
    store.close()
    now = Maker(FACTS | change, steps=10)
    if goes_on:
        store = RunStore.create(tmp_path, resume=True, maker=now)
        assert read_maker(store.path) == now
    else:
        with pytest.raises(MemprofError, match="other facts: gpu"):
            RunStore.create(tmp_path, resume=True, maker=now)


@pytest.mark.parametrize("steps", ["10", True, [10]])
def test_a_header_with_other_steps_than_a_number_is_refused(tmp_path: Path, steps: Any) -> None:
    header = {"schema_version": 1, "environment": {}, "steps": steps}
    (tmp_path / RECORDS).write_text(json.dumps(header) + "\n")
    with pytest.raises(MemprofError, match=f"{RECORDS}:1: the steps are not a number"):
        read_maker(tmp_path)


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        (["adamw"], "its only cell is not asked for here; the methods differ: adamw before, another after"),
        (["adamw", "lora"], "none of its 2 cells is asked for here"),
    ],
)
def test_a_run_of_other_cells_is_not_continued(tmp_path: Path, methods: list[str], said: str) -> None:
    store = RunStore.create(tmp_path)
    for method in methods:
        store.append(make(method))
    store.close()
    with pytest.raises(MemprofError, match=f"is of other scenarios: {said}") as error:
        RunStore.create(tmp_path, resume=True, planned=[make("another")])
    assert "\n" not in str(error.value)


def ranked(rank: int, batch_size: int = 8) -> Record:
    scenario = {"model": "1b", "method": "lora", "hyperparameters": {"rank": rank}, "batch_size": batch_size}
    return Record(id=f"lora{rank:>4}{batch_size:>4}", scenario=scenario)


@pytest.mark.parametrize(
    ("stored", "planned", "said"),
    [
        ([make("adamw"), ranked(4)], [make("adamw"), ranked(8)], r"lora of 1b differs in rank \(4 before, 8 after\);"),
        ([ranked(4), ranked(8)], [ranked(8), ranked(16)], r"rank \(4 before, 16 after\);"),
        ([ranked(4), ranked(4, 2)], [ranked(4), ranked(4, 3)], r"batch_size \(2 before, 3 after\);"),
        ([make("adamw"), ranked(4), ranked(5)], [make("adamw"), ranked(8), ranked(9)], "and so on for 1 more;"),
        ([ranked(4)], [ranked(8)], r"the nearest two, of lora, differ in rank \(4 before, 8 after\);"),
        ([make("adamw"), ranked(4)], [make("adamw"), ranked(4), ranked(8)], None),
        ([ranked(4), ranked(8)], [ranked(8)], None),
        ([make("adamw"), ranked(4)], [make("adamw"), make("galore")], None),
    ],
    ids=["another rank", "one shared", "another batch", "several", "none shared", "more", "fewer", "another method"],
)
def test_a_run_takes_more_cells_or_fewer_but_none_that_disagree(
    tmp_path: Path, stored: list[Record], planned: list[Record], said: str | None
) -> None:
    store = RunStore.create(tmp_path)
    for record in stored:
        store.append(record)
    store.close()
    if said is None:
        assert RunStore.create(tmp_path, resume=True, planned=planned).load() == stored
        return
    before = snapshot(tmp_path)
    with pytest.raises(MemprofError, match=f"is of other scenarios: .*{said} .*--force") as error:
        RunStore.create(tmp_path, resume=True, planned=planned)
    assert "\n" not in str(error.value) and snapshot(tmp_path) == before


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
