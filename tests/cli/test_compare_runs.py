"""`memprof compare -o`: a run is kept, goes on, and survives what becomes of its cells."""

from __future__ import annotations

import getpass
import json
import os
import re
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import memprof.api
import memprof.runner
from memprof.child import CellError
from memprof.race.ask import Race
from memprof.record import Record, Trace
from memprof.run_file import RECORDS, load
from memprof.runner import run_cell
from memprof.scenario import Scenario
from memprof.store import RENDERED, RunStore
from memprof.trace import trace
from tests.cells import RACED, without_race
from tests.cli.comparisons import LLAMA, MEASURED_FIGURES, QUICK, ROOT, TWO, Main, assert_refused, done_lines

pytestmark = pytest.mark.usefixtures("nothing_left")

CHARTS = {f"{name}.{end}" for name in ("timeline", "waterfall") for end in ("png", "svg")}
"""beside what every run has, in a run of AdamW and another method"""


def test_a_run_is_kept_whole(memprof_main: Main, tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome = memprof_main(*TWO, "-o", str(run))
    assert outcome.code == 0
    assert outcome.err == "".join([*done_lines(["adamw", "lora"]), f"memprof: kept in {run}\n"])
    assert {file.name for file in run.iterdir()} == {RECORDS, *RENDERED, *CHARTS}
    assert [record.method for record in load(run)] == ["adamw", "lora"]
    document = json.loads(memprof_main(*TWO, "--json").out)["records"]
    assert [json.loads(json.dumps(record.to_dict())) for record in load(run)] == document


def test_an_existing_run_is_left_alone_without_force(memprof_main: Main, tmp_path: Path) -> None:
    run = tmp_path / "run"
    memprof_main(*TWO, "-o", str(run))
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    assert_refused(memprof_main(*TWO, "-o", str(run)), 2, (str(run), "--force", "--resume"))
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before
    assert memprof_main(*QUICK, "--method", "galore", "-o", str(run), "--force").code == 0
    assert [record.method for record in load(run)] == ["galore"]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods of the cells that really run, as they do."""
    methods: list[str] = []

    def noted(scenario: Scenario, **options: Any) -> Record:
        methods.append(scenario.method.name)
        return run_cell(scenario, **options)

    monkeypatch.setattr(memprof.api, "run_cell", noted)
    return methods


def test_resume_runs_exactly_what_is_missing(memprof_main: Main, tmp_path: Path, ran: list[str]) -> None:
    run = str(tmp_path / "run")
    memprof_main(*TWO, "-o", run)
    assert ran == ["adamw", "lora"]
    ran.clear()
    three = [*QUICK, "--method", "galore", "--method", "lora", "--method", "adamw"]
    outcome = memprof_main(*three, "-o", run, "--resume", "--json")
    assert outcome.code == 0 and ran == ["galore"]
    shown = [record["scenario"]["method"] for record in json.loads(outcome.out)["records"]]
    assert shown == ["galore", "lora", "adamw"], "in the order asked for"
    ran.clear()
    memprof_main(*three, "-o", run, "--resume")
    assert ran == []
    dtypes = ("other scenarios", "dtype (bf16 before, fp32 after)", "--force")
    assert_refused(memprof_main(*three, "-o", run, "--resume", "--dtype", "fp32"), 2, dtypes)
    ranks = ("other scenarios", "lora of 9m differs in rank (32 before, 4 after)", "--force")
    assert_refused(memprof_main(*TWO, "-o", run, "--resume", "--rank", "4"), 2, ranks)
    assert ran == []


def test_a_run_that_goes_on_with_other_cells_still_shows_all_of_them(
    memprof_main: Main, tmp_path: Path, ran: list[str]
) -> None:
    """On the screen what was asked for now; in the folder the whole run, and which rows of it were asked for now."""
    run = tmp_path / "run"
    memprof_main(*TWO, "-o", str(run))
    outcome = memprof_main(*QUICK, "--method", "galore", "--method", "lora", "-o", str(run), "--resume")
    assert outcome.code == 0 and ran == ["adamw", "lora", "galore"]
    kept = f"memprof: kept in {run} with 1 cell of earlier commands; its tables show all 3\n"
    assert outcome.err == "".join([*done_lines(["galore"], of=2, after=1), kept])
    assert "galore" in outcome.out and "lora" in outcome.out and "\nadamw " not in outcome.out
    table = (run / "table.md").read_text()
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| ")]
    assert rows[2:] == ["galore", "lora", "adamw"], "the asked ones first"
    assert "The last command asked for the first 2 of these 3 cells; the others are of earlier commands." in table
    assert (run / "records.csv").read_text().count("\n") == 4
    assert "The last command" in said(run / "memory.svg")
    assert memprof_main(*QUICK, *("--method", "galore", *TWO[len(QUICK) :]), "-o", str(run), "--resume").code == 0
    assert "The last command" not in (run / "table.md").read_text()


def test_a_failed_cell_is_exit_3_and_runs_again(
    memprof_main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ran: list[str]
) -> None:
    def fail(scenario: Scenario) -> Trace:
        if scenario.method.name == "lora":
            raise RuntimeError("boom\nbang")
        return trace(scenario)

    monkeypatch.setattr(memprof.runner, "trace", fail)
    run = str(tmp_path / "run")
    outcome = memprof_main(*TWO, "-o", run)
    assert outcome.code == 3 and "crashed" in outcome.out and "Traceback" not in outcome.err
    assert [(record.method, record.status) for record in load(run)] == [("adamw", "ok"), ("lora", "crashed")]
    ran.clear()
    monkeypatch.setattr(memprof.runner, "trace", trace)
    assert memprof_main(*TWO, "-o", run, "--resume").code == 0
    assert ran == ["lora"] and [record.status for record in load(run)] == ["ok", "ok"]


@pytest.mark.parametrize("status", ["oom", "timeout"])
def test_a_measurement_that_fails_is_exit_3_with_its_reason(
    memprof_main: Main, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    def fail(*_: object) -> None:
        raise CellError(status, "why it was so")

    without_race(monkeypatch)
    monkeypatch.setattr(memprof.runner, "measure_in_child", fail)
    outcome = memprof_main(*TWO, "--measure", "--device", "cpu", "--json")
    assert outcome.code == 3
    records = json.loads(outcome.out)["records"]
    assert [(record["status"], record["reason"]) for record in records] == [(status, "why it was so")] * 2
    assert all(record["trace"] and record["measured"] is None for record in records)


def test_an_interrupt_keeps_what_had_finished(
    memprof_main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(scenario: Scenario, **options: Any) -> Record:
        if scenario.method.name == "lora":
            os.kill(os.getpid(), signal.SIGINT)
        return run_cell(scenario, **options)

    monkeypatch.setattr(memprof.api, "run_cell", interrupted)
    outcome = memprof_main(*TWO, "-o", str(tmp_path / "run"))
    assert outcome.code == 130
    told = f"memprof: interrupted; what had finished is kept in {tmp_path / 'run'}; --resume goes on\n"
    assert outcome.err == "".join([*done_lines(["adamw"], of=2), told])
    records = load(tmp_path / "run")
    assert [(record.method, record.status) for record in records] == [("adamw", "ok"), ("lora", "interrupted")]
    assert {file.name for file in (tmp_path / "run").iterdir()} == {RECORDS}


@pytest.mark.parametrize("command", ["compare", "check"])
def test_an_interrupt_where_nothing_is_kept_promises_nothing(
    memprof_main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(memprof.api, "run_cell", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
    budget = tmp_path / "memprof.toml"
    budget.write_text('[[budget]]\nname = "one"\nmodel = "9m"\npeak = "1 GiB"\n')
    outcome = memprof_main(*(TWO if command == "compare" else ["check", str(budget)]))
    assert outcome.code == 130
    assert outcome.err == f"memprof: interrupted{'; nothing is kept without -o' if command == 'compare' else ''}\n"


def test_a_run_that_was_killed_shows_what_it_has(memprof_main: Main, tmp_path: Path, ran: list[str]) -> None:
    """Its tables are not made yet; asking for one of its finished cells makes those of them all, and runs nothing."""
    run = tmp_path / "run"
    three = [*TWO, "--method", "galore"]
    memprof_main(*three, "-o", str(run))
    for name in RENDERED:
        (run / name).unlink()
    lines = (run / RECORDS).read_bytes().splitlines(keepends=True)
    (run / RECORDS).write_bytes(b"".join([*lines[:3], lines[3][:50]]))
    ran.clear()
    assert memprof_main(*QUICK, "--method", "adamw", "-o", str(run), "--resume").code == 0
    assert ran == [] and {file.name for file in run.iterdir()} == {RECORDS, *RENDERED, *CHARTS}
    table = (run / "table.md").read_text()
    assert "| adamw |" in table and "| lora |" in table and "galore" not in table
    assert memprof_main(*three, "-o", str(run), "--resume").code == 0
    assert ran == ["galore"] and "| galore |" in (run / "table.md").read_text()


def test_other_steps_do_not_come_beside_those_of_the_run(
    memprof_main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memprof.api, "describe_device", lambda kind: {"device": kind})
    without_race(monkeypatch)
    monkeypatch.setattr(memprof.runner, "measure_in_child", lambda *_: MEASURED_FIGURES)
    run = str(tmp_path / "run")
    measured = ["--device", "cpu", "-o", run]
    assert memprof_main(*TWO, *measured, "--steps", "200").code == 0
    more = [*TWO, "--method", "galore", *measured, "--resume"]
    assert_refused(memprof_main(*more, "--steps", "3"), 2, (run, "steps (200 there, 3 here)", "--force"))
    assert memprof_main(*more, "--steps", "200").code == 0
    (tmp_path / "run" / RECORDS).write_text(
        (tmp_path / "run" / RECORDS).read_text().replace(torch.__version__, "1.0-other", 1)
    )
    says = ("other facts", f"torch (1.0-other there, {torch.__version__} here)")
    assert_refused(memprof_main(*more, "--steps", "200"), 2, says)
    assert_refused(memprof_main(*TWO, "--no-measure", "-o", run, "--resume"), 2, ("device (cpu before, null after)",))


def test_what_a_measured_run_lacks_is_timed_beside_its_adamw(
    memprof_main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would have no ratio. AdamW keeps the record it has; one that ran out of memory does not try again."""
    raced: list[list[str]] = []

    def over(race: Race) -> dict[str, Any]:
        raced.append([scenario.method.name for scenario in race.scenarios])
        return {scenario.id: RACED for scenario in race.scenarios}

    monkeypatch.setattr(memprof.api, "describe_device", lambda kind: {"device": kind})
    monkeypatch.setattr(Race, "run", over)
    monkeypatch.setattr(memprof.runner, "measure_in_child", lambda *_: MEASURED_FIGURES)
    run = tmp_path / "run"
    measured = ["--device", "cpu", "-o", str(run)]
    assert memprof_main(*TWO, *measured).code == 0
    before = load(run)
    assert memprof_main(*TWO, "--method", "galore", *measured, "--resume").code == 0
    assert raced == [["adamw", "lora"], ["galore", "adamw"]] and load(run)[:2] == before
    assert [record.method for record in load(run)] == ["adamw", "lora", "galore"]
    stored = (run / RECORDS).read_text()
    (run / RECORDS).write_text(stored.replace('"status":"ok"', '"status":"oom"', 1))
    assert memprof_main(*TWO, "--method", "galore", "--method", "sgd", *measured, "--resume").code == 3
    assert raced[2:] == [["sgd"]]


def test_a_signal_while_a_record_is_written_waits_for_it(
    memprof_main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def struck(number: int) -> None:
        if not strikes:
            strikes.append(number)
            os.kill(os.getpid(), signal.SIGTERM)

    strikes: list[int] = []
    store = RunStore.append

    def append(self: RunStore, record: Record) -> None:
        monkeypatch.setattr(os, "fsync", struck)
        store(self, record)

    monkeypatch.setattr(RunStore, "append", append)
    assert memprof_main(*TWO, "-o", str(tmp_path / "run")).code == 130
    records = load(tmp_path / "run")
    assert [(record.method, record.status) for record in records] == [("adamw", "ok"), ("lora", "interrupted")]


def test_an_interrupted_run_goes_on_where_it_stopped(memprof_main: Main, tmp_path: Path, ran: list[str]) -> None:
    run = str(tmp_path / "run")
    memprof_main(*TWO, "-o", run)
    lines = (tmp_path / "run" / RECORDS).read_text().splitlines()
    stopped = json.loads(lines[2]) | {"status": "interrupted", "reason": "interrupted", "trace": None}
    (tmp_path / "run" / RECORDS).write_text("\n".join([*lines[:2], json.dumps(stopped)]) + "\n")
    ran.clear()
    assert memprof_main(*TWO, "-o", run, "--resume").code == 0
    assert ran == ["lora"] and [record.status for record in load(run)] == ["ok", "ok"]


def test_out_of_memory_is_a_result_until_it_is_asked_again(
    memprof_main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    def fail(scenario: Scenario, *_: object) -> None:
        asked.append((scenario.method.name, scenario.batch_size))
        raise CellError("oom", "why it was so")

    without_race(monkeypatch)
    monkeypatch.setattr(memprof.runner, "measure_in_child", fail)
    monkeypatch.setattr(memprof.api, "describe_device", lambda kind: {"device": kind})
    run = str(tmp_path / "run")
    batches = [*TWO, "--device", "cpu", "-o", run, "--batch", "2", "--batch", "3"]
    assert memprof_main(*batches).code == 3
    assert asked == [("adamw", 1), ("lora", 1)]
    records = load(run)
    assert [record.status for record in records] == ["oom", "skipped", "skipped"] * 2
    assert "batch_size 1, seq_len 8" in str(records[1].reason) and records[0].id in str(records[1].reason)
    assert memprof_main(*batches, "--batch", "4", "--resume").code == 3
    assert len(asked) == 2, "what ran out of memory in the run that goes on counts too"
    assert memprof_main(*batches, "--resume", "--retry-oom").code == 3
    assert len(asked) == 4


def test_a_cell_that_does_not_fit_is_not_tried(memprof_main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memprof.api, "describe_device", lambda kind: {"device": kind})
    arguments = [
        "compare",
        "--model",
        "9m",
        "--num-layers",
        "1",
        "--vocab-size",
        "64",
        "--seq",
        "8",
        "--method",
        "adamw",
    ]
    outcome = memprof_main(*arguments, "--batch", "8388608", "--device", "cpu", "--json", "--timeout", "100")
    (record,) = json.loads(outcome.out)["records"]
    assert (outcome.code, record["status"], record["measured"]) == (3, "skipped", None)
    for part in ("needs", "GiB by trace", "are free on cpu", "--max-fraction 0.95"):
        assert part in record["reason"]


def test_a_second_writer_is_refused_and_changes_nothing(memprof_main: Main, tmp_path: Path) -> None:
    run = tmp_path / "run"
    memprof_main(*TWO, "-o", str(run))
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    first = RunStore.create(run, resume=True)
    for flag in ("--resume", "--force"):
        assert_refused(memprof_main(*TWO, "-o", str(run), flag), 2, ("another memprof", str(run)))
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before
    first.close()
    assert memprof_main(*TWO, "-o", str(run), "--resume").code == 0


def said(file: Path) -> str:
    """A file's text; of a picture what is written beside its pixels."""
    if file.suffix == ".png":
        with Image.open(file) as picture:
            return repr(picture.info)
    return file.read_text()


def test_nothing_that_is_kept_or_shown_tells_where_or_by_whom(
    memprof_main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "config.json").write_text(json.dumps(LLAMA))
    home = tmp_path / "house-of-somebody"
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-or-other")
    monkeypatch.setenv("HOME", str(home))
    model = tmp_path / "here" / "config.json"
    arguments = ["compare", "--model", str(model), "--seq", "8", "--method", "adamw"]
    arguments += ["--device", "cpu", "--rounds", "0", "--batch", "1"]
    secrets = {socket.gethostname(), getpass.getuser(), str(Path.cwd()), str(home), str(tmp_path), str(ROOT)}
    kept = memprof_main(*arguments, "-o", "../run")
    model.unlink()
    assert kept.code == 0, kept.err
    told = {file.name: said(file) for file in (tmp_path / "run").iterdir()} | {"screen": kept.out}
    alone = {f"{name}.{end}" for name in ("timeline", "agreement") for end in ("png", "svg")}
    assert told.keys() == {RECORDS, *RENDERED, *alone, "screen"}
    found = [(name, secret) for name, text in told.items() for secret in secrets if re.search(rf"\b{secret}\b", text)]
    assert not found
