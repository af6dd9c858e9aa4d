"""The baseline on disk: whole or not at all, of one device at a time, and refused when it is not one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.budget.baseline import MAX_BYTES, read_baseline, replace_file, write_baseline
from memprof.errors import MemprofError
from tests.budget.conftest import MakeRecord, make_record


def test_what_was_written_is_read(tmp_path: Path, record: MakeRecord) -> None:
    path = tmp_path / "deep" / "base.json"
    assert read_baseline(path) is None
    write_baseline(path, [record()], {"torch": "2.11.0"}, None)
    found = read_baseline(path)
    assert found is not None and found.records == {"abc": record()} and found.environment == {"torch": "2.11.0"}
    assert found.name == "base.json"
    first = path.read_bytes()
    write_baseline(path, [record()], {"torch": "2.11.0"}, None)
    assert path.read_bytes() == first


def test_an_update_replaces_its_own_device_and_keeps_the_others(tmp_path: Path, record: MakeRecord) -> None:
    path = tmp_path / "base.json"
    cuda = record(device="cuda", record_id="on-cuda", speed=(1, 2, 3))
    write_baseline(path, [cuda], {"gpu": "H200", "torch": "2.11.0"}, "cuda")
    write_baseline(path, [record(record_id="old")], {"torch": "2.11.0"}, None)
    write_baseline(path, [record(record_id="new")], {"torch": "2.12.0"}, None)
    found = read_baseline(path)
    assert found is not None and list(found.records) == ["new", "on-cuda"] and found.records["on-cuda"] == cuda
    assert found.environment == {"gpu": "H200", "torch": "2.12.0"}


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "base.json"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(MemprofError, match="cannot write base.json: No space left on device"):
        replace_file(path, "new")
    assert [file.name for file in tmp_path.iterdir()] == ["base.json"] and path.read_text() == "old"


def document(**changes: Any) -> str:
    record = make_record(device="cuda", speed=(1, 2, 3)).to_dict()
    return json.dumps({"schema_version": 1, "environment": {}, "records": [record], **changes})


def test_a_budgets_former_record_is_found_by_its_name(tmp_path: Path, record: MakeRecord) -> None:
    path, cuda = tmp_path / "base.json", record(device="cuda", record_id="on-cuda")
    write_baseline(path, [cuda], {}, "cuda", {"b": "on-cuda"})
    write_baseline(path, [record(record_id="old")], {}, None, {"b": "old", "gone": "old"})
    write_baseline(path, [record(record_id="new")], {}, None, {"b": "new"})
    found = read_baseline(path)
    assert found is not None and found.budgets == {"b": ["on-cuda", "new"]}
    assert found.former("b", "cuda") == cuda and found.former("b", None) == record(record_id="new")
    assert found.former("b", "cpu") is None and found.former("gone", None) is None


def test_an_update_elsewhere_does_not_rename_the_machine_of_what_it_keeps(tmp_path: Path, record: MakeRecord) -> None:
    """Speeds are held against those of that machine; a trace, or a processor's run, says nothing of a GPU's."""
    path, cuda = tmp_path / "base.json", record(device="cuda", record_id="on-cuda")
    there = {"gpu": "H200", "platform": "Linux x86_64", "torch": "2.11.0"}
    write_baseline(path, [cuda], there, "cuda")
    write_baseline(path, [record(record_id="traced")], {"platform": "Darwin arm64", "torch": "2.12.0"}, None)
    found = read_baseline(path)
    assert found is not None and found.environment == there | {"torch": "2.12.0"}
    write_baseline(path, [record(device="cpu", record_id="on-cpu")], {"gpu": None, "threads": "1"}, "cpu")
    found = read_baseline(path)
    assert found is not None and found.environment == there | {"torch": "2.12.0", "threads": "1"}


def test_what_is_replaced_keeps_its_mode_and_its_links(tmp_path: Path) -> None:
    file, link = tmp_path / "private.toml", tmp_path / "link.toml"
    file.write_text("old")
    file.chmod(0o600)
    link.symlink_to("private.toml")
    replace_file(link, "new")
    assert link.is_symlink() and file.read_text() == "new" and file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[]", "it is not a document of memprof"),
        ('{"schema_version": 1, "records": []}', "its environment is not a table of facts"),
        ('{"schema_version": 1, "environment": {}}', "its records are not a list of records"),
        ('{"schema_version": 1, "environment": {}, "records": [], "budgets": []}', "its budgets are not a table of li"),
        ('{"schema_version": 1, "environment": {}, "records": [], "budgets": {"b": [1]}}', "its budgets are not ids"),
    ],
)
def test_what_is_wrong_with_a_baseline_is_told_in_words(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "base.json").write_text(content)
    with pytest.raises(MemprofError) as error:
        read_baseline(tmp_path / "base.json")
    assert f"base.json is no baseline ({reason}" in str(error.value)


def changed(*path: str, value: object) -> str:
    body = json.loads(document())
    inner = body["records"][0]
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(body)


BROKEN = {
    "no JSON": "{",
    "a list": "[]",
    "another schema": document(schema_version=2),
    "no records": document(records=None),
    "an environment of text": document(environment="x"),
    "deep": "[" * 100_000,
    "too large": " " * (MAX_BYTES + 1),
    "categories as text": changed("trace", "peak_by_category", value="x"),
    "a category as text": changed("trace", "peak_by_category", value={"param": "1"}),
    "makers as a list": changed("measured", "extra_by_maker", value=[1]),
    "a phase as a number": changed("trace", "peak_phase", value=1),
    "a speed of text": changed("measured", "examples_per_second", "low", value="1"),
    "a speed of nothing": changed("measured", "examples_per_second", value=1),
    "an unknown key": changed("trace", "x", value=1),
    "a float of bytes": changed("trace", "peak", value=1.5),
    "a total of text": changed("formula", "total", value="1"),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=list(BROKEN))
def test_what_is_no_baseline_is_refused_and_never_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "base.json"
    path.write_text(content)
    with pytest.raises(MemprofError, match=r"base.json is no baseline \(") as error:
        write_baseline(path, [], {}, None)
    assert "\n" not in str(error.value) and path.read_text() == content


@given(place=st.integers(0, len(document()) - 1), byte=st.binary(max_size=2))
def test_a_damaged_baseline_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: bytes
) -> None:
    content, path = document().encode(), tmp_path_factory.getbasetemp() / "damaged.json"
    path.write_bytes(content[:place] + byte + content[place + 1 :])
    try:
        read_baseline(path)
    except MemprofError as error:
        assert "\n" not in str(error)


def test_a_baseline_is_on_the_disk_before_it_takes_the_old_ones_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut there is the old one or the new one, never an empty file."""
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").resolve().name))
    replace_file(tmp_path / "baseline.json", "{}")
    assert synced == [f".unfinished-{os.getpid()}-baseline.json", tmp_path.name]
