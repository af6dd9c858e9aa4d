"""`memprof compare` as a user meets it: bad input refused in one line, one JSON document, runs that are kept."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from PIL import Image

import memprof.api
import memprof.runner
from memprof.catalogue import CORE, METHODS
from memprof.child import CellError
from memprof.record import Measured, Record, Trace
from memprof.run_file import RECORDS, load
from memprof.runner import run_cell
from memprof.scenario import Scenario
from memprof.shapes import SHAPES
from memprof.store import RENDERED, RunStore
from memprof.trace import trace
from memprof.units import UNITS

Main = Callable[..., Any]
ROOT = Path(__file__).parents[2]
QUICK = ["compare", "--model", "9m", "--num-layers", "1", "--vocab-size", "64", "--batch", "1", "--seq", "8"]
TWO = [*QUICK, "--method", "adamw", "--method", "lora"]
CHARTS = {f"{name}.{end}" for name in ("timeline", "waterfall") for end in ("png", "svg")}
"""beside what every run has, in a run of AdamW and another method"""
LLAMA = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
         "num_attention_heads": 4, "vocab_size": 100}  # fmt: skip

BAD: list[tuple[list[str], int, tuple[str, ...]]] = [
    (["--model", "nope"], 2, ("nope", *SHAPES, "config.json")),
    (["--method", "nope"], 2, ("nope", *METHODS)),
    (["--method", ""], 2, tuple(METHODS)),
    (["--method", "galore:foo=1"], 2, ("galore", "foo", "rank", "update_gap", "scale", "lr")),
    (["--method", "galore:rank"], 2, ("'rank'", "galore:rank=...")),
    (["--method", "galore:rank=x"], 2, ("rank=x", "an integer, at least 1")),
    (["--method", "galore:rank=0"], 2, ("rank=0", "at least 1")),
    (["--method", "galore:rank=-3"], 2, ("rank=-3", "at least 1")),
    (["--method", "adamw:lr=nan"], 2, ("lr=nan", "a finite number, above 0")),
    (["--method", "adamw:lr=inf"], 2, ("lr=inf", "a finite number, above 0")),
    (["--method", "adamw:lr=-1"], 2, ("lr=-1", "above 0")),
    (["--method", "adamw:betas=0.9"], 2, ("betas=0.9",)),
    (["--method", "adamw:betas=0.9/1.5"], 2, ("betas", "below 1")),
    (["--rank", "129"], 2, ("rank 129", "model.layers.0.self_attn.q_proj.weight", "128 x 128", "at most 128")),
    (["--method", "lora:rank=10000"], 2, ("rank 10000", ".weight", "at most 128")),
    (["--dtype", "fp8"], 2, ("fp8", "bf16, fp16, fp32, amp")),
    (["--kernels", "tpu"], 2, ("tpu", "cuda, cpu")),
    (["--device", "tpu"], 2, ("tpu", "cuda, cpu")),
    (["--kernels", "cuda", "--device", "cpu"], 2, ("--kernels cuda", "--device cpu")),
    (["--unit", "GIB"], 2, ("GIB", *UNITS)),
    (["--fits", "24"], 2, ("'24'", "24GiB", "24GB")),
    (["--fits", "0GiB"], 2, ("0GiB", "above 0")),
    (["--fits", "-1GiB"], 2, ("-1GiB",)),
    (["--fits", "nanGiB"], 2, ("nanGiB",)),
    (["--batch", "100000000"], 2, ("batch_size 100000000", "at most")),
    (["--num-layers", "100000"], 2, ("100000", "from 1 to 1000")),
    (["--vocab-size", "99999999999"], 2, ("99999999999", "from 1 to 2000000")),
    (["--seed", "9" * 30], 2, ("9" * 30, "2**63 - 1")),
    (["--clip-grad-norm", "nan"], 2, ("nan", "finite number above 0")),
    (["--clip-grad-norm", "-1"], 2, ("-1", "finite number above 0")),
    (["--resume"], 2, ("-o",)),
    (["--force"], 2, ("-o",)),
    (["-o", ""], 2, ("-o is empty", "-o runs/run1")),
    (["-o", "", "--force"], 2, ("-o is empty",)),
    (["-o", "/dev/null/x"], 2, ("/dev/null/x", "Not a directory")),
    (["-o", "/dev/null"], 2, ("/dev/null", "folder")),
    (["--dtype", "amp"], 4, ("dtype amp", "not built yet")),
    (["--clip-grad-norm", "1.0", "--method", "galore:per_layer=true"], 2, ("galore", "no gradient to clip")),
    (["--loss-chunks", "9", "--batch", "1", "--seq", "8"], 2, ("loss_chunks 9", "8 tokens", "at most as many")),
]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing that a run was not told to keep may appear where it runs."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield
    assert not list((tmp_path / "here").iterdir())


def assert_refused(outcome: Any, code: int, says: Sequence[str]) -> None:
    assert (outcome.code, outcome.out) == (code, ""), outcome.err
    assert outcome.err.startswith("memprof: ") and outcome.err.count("\n") == 1 and outcome.err.endswith("\n")
    assert "Traceback" not in outcome.err
    for part in says:
        assert part in outcome.err


@pytest.mark.parametrize(("arguments", "code", "says"), BAD, ids=[" ".join(arguments) for arguments, _, _ in BAD])
def test_bad_input_is_one_line_that_names_what_is_allowed(
    memprof_main: Main, arguments: list[str], code: int, says: tuple[str, ...]
) -> None:
    model = [] if "--model" in arguments else ["--model", "9m"]
    assert_refused(memprof_main("compare", *model, *arguments), code, says)


def test_cuda_that_is_not_there(memprof_main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    outcome = memprof_main("compare", "--model", "9m", "--measure", "--device", "cuda")
    assert_refused(outcome, 4, ("--device cuda", "--device cpu", "--no-measure"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--batch", "0"], "--batch"),
        (["--seq", "-1"], "--seq"),
        (["--accumulation", "0"], "--accumulation"),
        (["--rank", "0"], "--rank"),
        (["--rank", "1.5"], "--rank"),
        (["--rank", "8,,16"], "--rank"),
        (["--rank", "8,0"], "'0'"),
        (["--seq", "9" * 4301], "--seq"),
        (["--steps", "1"], "--steps"),
        (["--steps", "1000000000"], "--steps"),
        (["--timeout", "0"], "--timeout"),
        (["--timeout", "nan"], "--timeout"),
        (["--timeout", "inf"], "--timeout"),
        (["--seed", "-1"], "--seed"),
        (["--by", "magic"], "--by"),
        (["--nope"], "--nope"),
        (["stray"], "stray"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_typer_refuses_names_the_option(memprof_main: Main, arguments: list[str], says: str) -> None:
    outcome = memprof_main("compare", "--model", "9m", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert says in outcome.err and "--help" in outcome.err and "Traceback" not in outcome.err


def test_a_sweep_has_a_cell_for_each_value_and_rows_that_tell_them_apart(memprof_main: Main) -> None:
    """Comma lists and repeats say the same; AdamW has no rank, so it is one cell for each batch and length."""
    sizes = ("--method", "adamw", "--method", "galore", "--batch", "1,2", "--seq", "16", "--seq", "32")
    outcome = memprof_main("compare", "--model", "9m", "--no-measure", *sizes, "--rank", "8,16", "--rank", "16")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert len([line for line in lines if line.startswith("adamw batch_size=")]) == 4
    for rank, batch, length in product((8, 16), (1, 2), (16, 32)):
        label = f"galore rank={rank} batch_size={batch} seq_len={length} "
        assert len([line for line in lines if line.startswith(label)]) == 1, label


CONFIGS = {
    "not JSON": b"{",
    "not UTF-8": b"\xff\xfe",
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "another model": json.dumps({**LLAMA, "model_type": "mamba"}).encode(),
    "remote code alone": json.dumps({"auto_map": {"AutoModel": "evil--code"}, "trust_remote_code": True}).encode(),
    "huge": json.dumps({**LLAMA, "hidden_size": 10**9}).encode(),
    "thousands of digits": json.dumps(LLAMA).replace("100", "1" * 10_000).encode(),
    "negative": json.dumps({**LLAMA, "num_hidden_layers": -1}).encode(),
    "nan": json.dumps({**LLAMA, "rope_theta": float("nan")}).encode(),
    "text": json.dumps({**LLAMA, "vocab_size": "__import__('os').system('touch owned')"}).encode(),
    "newlines": json.dumps({**LLAMA, "model_type": "a\n\x1b[31mb"}).encode(),
    "too large": b" " * (2**20 + 1),
}


@pytest.mark.parametrize("content", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_broken_or_hostile_config_is_one_line(memprof_main: Main, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    outcome = memprof_main("compare", "--model", str(file), "-o", str(tmp_path / "run"))
    assert_refused(outcome, 2, (str(file),))
    assert "\x1b" not in outcome.err and len(outcome.err) < 600
    assert {entry.name for entry in tmp_path.iterdir()} == {"config.json", "here"}


def test_a_config_that_is_not_there_or_a_folder(memprof_main: Main, tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        assert_refused(memprof_main("compare", "--model", str(path)), 2, (str(path), "not a file"))


def test_how_a_step_is_run_is_said_and_agreed_on(memprof_main: Main) -> None:
    options = ["--checkpointing", "--loss-chunks", "8", "--clip-grad-norm", "0.5"]
    outcome = memprof_main("compare", "--model", "9m", "--method", "adamw", "--method", "lora", *options)
    assert outcome.code == 0, outcome.err
    rows = [line for line in outcome.out.splitlines() if line.startswith(("adamw", "lora"))]
    assert len(rows) == 2 and all(row.rstrip().endswith("exact") for row in rows)
    for said in ("layers checkpointed", "8 loss chunks", "gradient norm clipped to 0.5"):
        assert said in " ".join(outcome.out.split())


def test_a_good_config_is_compared(memprof_main: Main, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA))
    outcome = memprof_main("compare", "--model", str(file), "--method", "adamw", "--json", "--seq", "8")
    assert json.loads(outcome.out)["records"][0]["scenario"]["model"] == "config.json"


def test_bad_usage_through_the_real_program(memprof_process: Main) -> None:
    assert_refused(memprof_process("compare", "--model", "nope"), 2, ("choose from 9m",))


def test_json_is_one_document_and_the_same_bytes_twice(memprof_process: Main) -> None:
    first, second = (memprof_process(*QUICK, "--json") for _ in range(2))
    assert first.code == 0 and first.err == "".join(done_lines(CORE))
    assert first.out == second.out
    found = json.loads(first.out)
    assert [record["scenario"]["method"] for record in found["records"]] == list(CORE)


def done_lines(names: Sequence[str], of: int | None = None, after: int = 0) -> list[str]:
    """What stderr says where it is no terminal: a line for each cell that has finished."""
    whole = len(names) if of is None else of
    return [f"memprof: {count} of {whole} done: {name}\n" for count, name in enumerate(names, after + 1)]


MEMORY = {"param", "grad", "optimizer_state", "activation", "extra", "peak", "peak_phase", "peak_by_category",
          "steady", "refresh_peak"}  # fmt: skip
SCENARIO = {"model", "vocab_size", "num_layers", "method", "hyperparameters", "batch_size", "accumulation", "seq_len",
            "dtype", "kernels", "checkpointing", "loss_chunks", "clip_grad_norm", "counting", "device",
            "seed"}  # fmt: skip
MEASURED = {"extra_largest", "reserved", "device", "context", "residual", "examples_per_second", "tokens_per_second",
            "step_seconds", "joules_per_example", "loss_first", "loss_last"}  # fmt: skip


def test_the_documents_keys(memprof_main: Main) -> None:
    """Version 1, as the design fixes it: these keys are there; a figure that is not to be had is null."""
    outcome = memprof_main(*QUICK, "--method", "galore", "--measure", "--device", "cpu", "--steps", "2", "--json")
    found = json.loads(outcome.out)
    assert found.keys() == {"schema_version", "environment", "records"} and found["schema_version"] == 1
    assert {"memprof", "torch", "python"} <= found["environment"].keys()
    (record,) = found["records"]
    assert list(record) == ["id", "scenario", "status", "reason", "flags", "formula", "trace", "measured"]
    assert (record["status"], record["reason"], record["flags"]) == ("ok", None, [])
    assert len(record["id"]) == 12 and record["scenario"].keys() >= SCENARIO
    assert record["formula"].keys() >= MEMORY | {"total"}
    assert record["trace"].keys() >= MEMORY | {"extra_largest", "reserved"}
    assert record["measured"].keys() >= MEMORY | MEASURED
    assert record["measured"]["joules_per_example"] is None and record["measured"]["reserved"] is None
    assert record["measured"]["examples_per_second"].keys() == {"median", "low", "high"}
    assert record["measured"]["step_seconds"].keys() == {"forward", "backward", "optimizer", "refresh"}
    for witness in ("formula", "trace", "measured"):
        categories = record[witness]["peak_by_category"]
        assert list(categories) == ["param", "grad", "optimizer_state", "activation", "extra"]
        assert sum(categories.values()) == record[witness]["peak"]


def test_without_a_measurement_it_is_null(memprof_main: Main) -> None:
    (record,) = json.loads(memprof_main(*QUICK, "--method", "adamw", "--no-measure", "--json").out)["records"]
    assert record["measured"] is None and record["scenario"]["device"] is None


def test_the_screen_is_a_table_on_stdout_alone(memprof_main: Main) -> None:
    outcome = memprof_main(*QUICK, "--unit", "KiB", "--fits", "1MiB")
    assert outcome.code == 0 and outcome.err == "".join(done_lines(CORE))
    for name in (*CORE, "Param", "Grad", "OS", "Act", "Extra", "Peak", "vs AdamW", "baseline", "Fits"):
        assert name in outcome.out


@pytest.mark.parametrize("by", ["formula", "trace"])
def test_every_witness_that_ran_can_be_asked_for(memprof_main: Main, by: str) -> None:
    outcome = memprof_main(*QUICK, "--method", "adamw", "--by", by)
    assert outcome.code == 0 and "adamw" in outcome.out


def test_a_witness_that_will_not_run_cannot_be_asked_for(memprof_main: Main) -> None:
    outcome = memprof_main(*QUICK, "--method", "adamw", "--by", "measured")
    assert (outcome.code, outcome.out) == (2, "") and "add --measure" in outcome.err


def test_all_methods_by_one_word(memprof_main: Main) -> None:
    found = json.loads(memprof_main(*QUICK, "--method", "all", "--json").out)
    assert [record["scenario"]["method"] for record in found["records"]] == list(METHODS)


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


PARTS = {"param": 1, "grad": 1, "optimizer_state": 2, "activation": 1, "extra": 0}
MEASURED_FIGURES = Measured(**PARTS, peak=5, peak_phase="backward", peak_by_category=PARTS, steady=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "unit"), [([], "MiB"), (["--unit", "GiB"], "GiB"), (["--seq", "256", "--batch", "8"], "GiB")]
)
def test_the_unit_is_one_in_which_there_is_something_to_read(
    memprof_main: Main, tmp_path: Path, arguments: list[str], unit: str
) -> None:
    """The same on the screen and in the folder; 9m at one layer has a peak of 3 MiB with the short sequence."""
    run = tmp_path / "run"
    outcome = memprof_main(*TWO, "-o", str(run), "--fits", "24GiB", *arguments)
    assert f"9m: memory of a training step, {unit}" in outcome.out
    assert f"{24576 if unit == 'MiB' else 24} {unit}" in outcome.out
    assert f"9m: memory of a training step, {unit}" in (run / "table.md").read_text()
    assert f"{unit}" in said(run / "memory.svg")


def test_what_a_process_used_is_in_the_same_unit(memprof_main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memprof.api, "describe_device", lambda kind: {"device": kind})
    used = dataclasses.replace(MEASURED_FIGURES, device=300 * 2**20, context=299 * 2**20)
    monkeypatch.setattr(memprof.runner, "measure_in_child", lambda *_: used)
    out = memprof_main(*TWO, "--device", "cpu").out
    assert "The measuring process, MiB" in out and "300.00" in out and "299.00" in out


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
    arguments += ["--device", "cpu", "--steps", "2", "--batch", "1"]
    secrets = {socket.gethostname(), getpass.getuser(), str(Path.cwd()), str(home), str(tmp_path), str(ROOT)}
    kept = memprof_main(*arguments, "-o", "../run")
    model.unlink()
    assert kept.code == 0, kept.err
    told = {file.name: said(file) for file in (tmp_path / "run").iterdir()} | {"screen": kept.out}
    alone = {f"{name}.{end}" for name in ("timeline", "agreement") for end in ("png", "svg")}
    assert told.keys() == {RECORDS, *RENDERED, *alone, "screen"}
    found = [(name, secret) for name, text in told.items() for secret in secrets if re.search(rf"\b{secret}\b", text)]
    assert not found


SLOW = [*QUICK, "--method", "adamw", "--device", "cpu", "--steps", "100000"]
"""a cell that takes minutes"""


def worker_of(program: int, run: Path, is_over: Callable[[], object]) -> psutil.Process | None:
    """The measuring child, once the run is there: another is asked before what the device is."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not is_over():
        time.sleep(0.05)
        if (run / RECORDS).exists():
            for child in psutil.Process(program).children():
                return child
    return None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_a_measurement_and_its_child(tmp_path: Path, number: signal.Signals) -> None:
    """The program waits for its measuring child when the signal comes: neither outlives it."""
    run = tmp_path / "run"
    program = subprocess.Popen(
        [sys.executable, "-m", "memprof", *SLOW, "-o", str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    with program:
        try:
            child = worker_of(program.pid, run, program.poll)
            program.send_signal(number)
            out, err = program.communicate(timeout=60)
        finally:
            program.kill()
    assert child is not None, err
    assert (program.returncode, out) == (130, "") and "Traceback" not in err
    assert err == f"memprof: interrupted; what had finished is kept in {run}; --resume goes on\n"
    assert not psutil.pid_exists(child.pid)
    assert [(record.method, record.status) for record in load(run)] == [("adamw", "interrupted")]


def test_a_terminal_that_hangs_up_ends_it_as_a_signal_does(tmp_path: Path) -> None:
    """As a lost connection does: SIGHUP comes, and nothing can be written to the terminal any more."""
    run = tmp_path / "run"
    pid, terminal = pty.fork()
    if not pid:  # the controlling terminal of this one goes away
        os.execve(
            sys.executable,
            [sys.executable, "-m", "memprof", *SLOW, "-o", str(run)],
            os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm"},
        )
    try:
        child = worker_of(pid, run, lambda: False)
        os.close(terminal)
        program = psutil.Process(pid)
        program.wait(timeout=60)
        assert child is not None and not psutil.pid_exists(child.pid)
        assert [(record.method, record.status) for record in load(run)] == [("adamw", "interrupted")]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
