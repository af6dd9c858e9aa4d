"""`memprof compare --text`: what is refused before anything runs, and a real run on a real file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import memprof.race.ask
import memprof.runner
import memprof.text
from memprof.child import Reply
from memprof.record import Record
from memprof.report.text import markdown
from memprof.text import Text, _content
from memprof.worker import answer
from tests.cli.comparisons import QUICK, Main, assert_refused

MEASURED = ["--measure", "--device", "cpu"]
BYTES = ["--vocab-size", "256"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "secret-folder" / "a.txt"
    found.parent.mkdir()
    found.write_bytes(b"to be or not to be, ")
    return found


BAD: dict[str, tuple[list[str], str, tuple[str, ...]]] = {
    "missing": (MEASURED, "nowhere", ("nowhere' is not there", "give the path of a file")),
    "folder": (MEASURED, "secret-folder", ("secret-folder' is not a file",)),
    "empty": (MEASURED, "empty", ("empty' is empty",)),
    "vocabulary": (MEASURED, "secret-folder/a.txt", ("0 to 255", "has 64", "at least 256")),
    "short": ([*MEASURED, *BYTES, "--seq", "20"], "secret-folder/a.txt", ("has 20 bytes", "least 21")),
    "no measurement": (["--no-measure"], "nowhere", ("--text has no effect without a measurement", "leave it out")),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_trained_on_is_one_line_and_writes_nothing(
    memprof_main: Main, file: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "empty").touch()
    options, path, says = BAD[name]
    run = tmp_path / "run"
    outcome = memprof_main(*QUICK, "--method", "adamw", "-o", str(run), "--text", str(tmp_path / path), *options)
    assert_refused(outcome, 2, says)
    assert not run.exists()


@pytest.fixture
def children_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a measuring process is asked as JSON is answered in this one, so that none has to start."""

    def answered(request: Mapping[str, Any], *_: Any) -> Reply:
        return Reply(json.dumps(answer(json.loads(json.dumps(request)))).encode(), 0)

    for module in (memprof.runner, memprof.race.ask):
        monkeypatch.setattr(module, "ask_child", answered)


@pytest.mark.usefixtures("children_here")
def test_a_run_on_a_text_says_which_and_not_where(memprof_main: Main, file: Path) -> None:
    """A language of 20 letters in a circle: bytes that never occur lose their probability, and the loss falls."""
    short = ["--rounds", "1", "--steps", "2"]
    outcome = memprof_main(*QUICK, "--method", "adamw", *MEASURED, *short, *BYTES, "--text", str(file), "--json")
    (record,) = json.loads(outcome.out)["records"]
    assert outcome.code == 0, record["reason"]
    text = record["scenario"]["text"]
    assert (text["nbytes"], text["name"], len(text["sha256"])) == (20, "a.txt", 12)
    measured: dict[str, Any] = record["measured"]
    assert measured["loss_last"] < measured["loss_first"] and not {"flat", "rose"} & set(record["flags"])
    assert measured["activation"] == record["trace"]["activation"] == record["formula"]["activation"]
    assert "secret-folder" not in outcome.out + outcome.err
    shown = markdown([Record.from_dict(record)]).replace("&#64;", "@")
    assert f"trained on a.txt@{text['sha256']}" in shown


@pytest.mark.usefixtures("children_here")
def test_a_text_that_changes_under_a_run_is_a_crashed_cell(
    memprof_main: Main, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changing(text: Text) -> bytearray:
        file.write_bytes(b"that is the question")
        return _content.__wrapped__(text)

    monkeypatch.setattr(memprof.text, "_content", changing)
    outcome = memprof_main(*QUICK, "--method", "adamw", *MEASURED, *BYTES, "--text", str(file), "--json")
    (record,) = json.loads(outcome.out)["records"]
    assert (outcome.code, record["status"], record["measured"]) == (3, "crashed", None)
    assert record["reason"].startswith("text a.txt has changed since this run was planned")
    assert record["trace"] is not None
