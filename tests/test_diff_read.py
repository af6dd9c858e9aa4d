"""What `memprof diff` reads: a run in any of its forms alike, and what a damaged file may do (nothing)."""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import memprof.diff.read
from memprof.diff import diff, read_run, read_runs
from memprof.difference import Run
from memprof.errors import MemprofError, NothingToDoError
from memprof.record import document
from memprof.report.diff import markdown, render
from memprof.run_file import Maker
from memprof.store import RunStore
from tests.two_runs import SETTINGS, SPEED_OF, record, scenario

ROOT = Path(__file__).parents[1]


def test_a_file_that_is_larger_than_any_run_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "big.json"
    with file.open("wb") as big:
        big.truncate(1001)  # sparse: nothing is on the disk
    monkeypatch.setattr(memprof.diff.read, "MAX_FILE", 1000)
    with pytest.raises(MemprofError, match=r"big.json is larger than any run \(1000 bytes\)"):
        read_run(file)


def test_what_is_no_run_at_all_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "memprof.toml").write_text("[defaults]\n")
    with pytest.raises(MemprofError, match="is no run: neither records.jsonl nor a document of compare --json"):
        read_run(tmp_path / "memprof.toml")


@pytest.mark.parametrize("value", [float("nan"), [[[[1]]]], 2**64])
def test_an_environment_that_cannot_be_shown_is_refused(tmp_path: Path, value: Any) -> None:
    """As deep as a scenario may nest, and no number that JSON does not know."""
    body = json.loads(document([record()], {})) | {"environment": {"torch": value}}
    (tmp_path / "run.json").write_text(json.dumps(body))
    with pytest.raises(MemprofError, match="the environment holds more than plain facts"):
        read_run(tmp_path / "run.json")


def test_two_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "base.json").write_text(document([record()], {}))
    old, new = tmp_path / "old" / "base.json", tmp_path / "new" / "base.json"
    assert [each.name for each in read_runs(old, new)] == ["old/base.json", "new/base.json"]
    assert [each.name for each in read_runs(old, old)] == ["base.json (before)", "base.json (after)"]


def test_every_form_of_a_run_reads_alike(tmp_path: Path) -> None:
    records, environment = [record("a"), record("b", in_scenario=scenario("lora"), speed=SPEED_OF)], {"torch": "2.12"}
    store = RunStore.create(tmp_path / "before", maker=Maker(environment))
    for each in records:
        store.append(each)
    (tmp_path / "baseline.json").write_text(document(records, environment))
    (tmp_path / "one.json").write_text(json.dumps(records[0].to_dict(), indent=1))
    folder, lines = read_run(tmp_path / "before"), read_run(tmp_path / "before" / "records.jsonl")
    assert folder == lines == Run(name="before", environment=environment, records=tuple(records))
    assert read_run(tmp_path / "baseline.json") == dataclasses.replace(folder, name="baseline.json")
    assert read_run(tmp_path / "one.json").records == (records[0],)


def test_a_missing_or_empty_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MemprofError, match="no run at"):
        read_run(tmp_path / "nothing")
    RunStore.create(tmp_path / "empty")
    with pytest.raises(NothingToDoError, match="holds no records"):
        read_run(tmp_path / "empty")
    (tmp_path / "other.json").write_text(document([record()], {}).replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(MemprofError, match="schema"):
        read_run(tmp_path / "other.json")


def test_a_diff_of_one_version_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(document([record(), record("b", in_scenario=scenario("lora"))], {}))
    code = "import sys; from memprof.cli.main import main; sys.argv[1:] = ['diff', *sys.argv[1:]]\n"
    code += "try: main()\nfinally: print({'torch', 'pandas', 'matplotlib'} & set(sys.modules))"
    file = str(tmp_path / "a.json")
    done = subprocess.run([sys.executable, "-c", code, file, file], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.endswith("set()\n"), done.stdout + done.stderr


def shown(first: Path, second: Path) -> None:
    """All that `memprof diff` does with two files, short of printing."""
    found = diff(read_run(first), read_run(second))
    found.document()
    markdown(found, everything=True)
    assert render(found, everything=True).natural_width > 0


WHOLE = document(
    [record("a", speed=SPEED_OF, refresh_peak=9), record("b", in_scenario=scenario("lora"))], {"torch": "2"}
)
RUBBISH = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@SETTINGS
@given(st.data())
def test_mutated_values_raise_only_our_error(tmp_path: Path, data: st.DataObject) -> None:
    """Any value of the document, at any depth, becomes something else or goes."""
    body = copy.deepcopy(json.loads(WHOLE))
    for _ in range(data.draw(st.integers(1, 3))):
        place = body
        while True:
            key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            inner = place[key]
            if not isinstance(inner, dict | list) or not inner or data.draw(st.integers(0, 4)) == 0:
                break
            place = inner
        place[key] = data.draw(RUBBISH)
    check_damaged(tmp_path, json.dumps(body).encode(), lines_of(body))


@SETTINGS
@given(st.integers(0, len(WHOLE)), st.integers(0, 40), st.binary(max_size=8))
def test_mutated_bytes_raise_only_our_error(tmp_path: Path, start: int, length: int, put: bytes) -> None:
    damaged = WHOLE.encode()
    content = damaged[:start] + put + damaged[start + length :]
    check_damaged(tmp_path, content, content)


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"[" * 100_000, b'{"records": 1, "schema_version": 1}', b"\xff"])
def test_odd_files_raise_only_our_error(tmp_path: Path, text: bytes) -> None:
    check_damaged(tmp_path, text, text + b"\n" + text)


def lines_of(body: Any) -> bytes:
    """The document as a run keeps it: a header, then a record a line."""
    rows = body.pop("records", [])
    return "\n".join(json.dumps(row) for row in (body, *(rows if isinstance(rows, list) else [rows]))).encode()


def check_damaged(folder: Path, content: bytes, lines: bytes) -> None:
    """On either side, a damaged file is compared or refused; nothing else happens."""
    (folder / "whole.json").write_text(WHOLE)
    (folder / "damaged.json").write_bytes(content)
    (folder / "damaged.jsonl").write_bytes(lines)
    for name in ("damaged.json", "damaged.jsonl"):
        for pair in ((folder / name, folder / "whole.json"), (folder / "whole.json", folder / name)):
            try:
                shown(*pair)
            except MemprofError as error:
                assert "\n" not in str(error)
