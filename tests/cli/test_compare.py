"""`memprof compare` as a user meets it: bad input refused in one line, one JSON document, runs that are kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest

import memprof.api
import memprof.cli.session
import memprof.runner
from memprof.catalogue import CORE, METHODS
from memprof.counting import COUNTINGS
from memprof.measure.history_file import history_path, read_history
from memprof.record import Record
from memprof.runner import unfinished
from memprof.scenario import Scenario
from memprof.shapes import SHAPES
from memprof.units import UNITS
from tests.cells import without_race
from tests.cli.comparisons import LLAMA, MEASURED_FIGURES, QUICK, TWO, Main, assert_refused, done_lines

pytestmark = pytest.mark.usefixtures("nothing_left")

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


MEMORY = {"param", "grad", "optimizer_state", "activation", "extra", "peak", "peak_phase", "peak_by_category",
          "steady", "refresh_peak"}  # fmt: skip
SCENARIO = {"model", "vocab_size", "num_layers", "method", "hyperparameters", "batch_size", "accumulation", "seq_len",
            "dtype", "kernels", "checkpointing", "loss_chunks", "clip_grad_norm", "counting", "device",
            "seed"}  # fmt: skip
MEASURED = {"extra_largest", "reserved", "device", "context", "residual", "phase_peaks", "closure", "others",
            "recording_overhead", "attention", "examples_per_second", "tokens_per_second", "step_seconds",
            "joules_per_example", "speed", "loss_first", "loss_last"}  # fmt: skip


def test_the_documents_keys(memprof_main: Main, tmp_path: Path) -> None:
    """Version 1, as the design fixes it: these keys are there; a figure that is not to be had is null.

    What the measuring process recorded is kept beside it, and not a second time.
    """
    asked = [*QUICK, "--method", "galore", "--measure", "--device", "cpu", "--steps", "2", "--json",
             "--histories", str(tmp_path / "new")]  # fmt: skip
    found = json.loads(memprof_main(*asked).out)
    assert found.keys() == {"schema_version", "environment", "records"} and found["schema_version"] == 1
    assert {"memprof", "torch", "python"} <= found["environment"].keys()
    (record,) = found["records"]
    assert list(record) == ["id", "scenario", "status", "reason", "flags", "formula", "trace", "measured"]
    assert (record["status"], record["reason"], record["flags"]) == ("ok", None, [])
    assert len(record["id"]) == 12 and record["scenario"].keys() >= SCENARIO
    assert record["formula"].keys() >= MEMORY | {"total"}
    assert record["trace"].keys() >= MEMORY | {"extra_largest", "reserved"}
    assert record["measured"].keys() >= MEMORY | MEASURED
    measured = record["measured"]
    assert [measured[key] for key in ("joules_per_example", "reserved", "closure", "others")] == [None] * 4
    assert measured["phase_peaks"].keys() == {"forward", "backward", "optimizer", "refresh"}
    assert max(measured["phase_peaks"][phase] for phase in ("forward", "backward", "optimizer")) == measured["peak"]
    assert measured["attention"].endswith("ForCpuBackward0") and isinstance(measured["recording_overhead"], float)
    history = read_history(history_path(tmp_path / "new", record["id"]))
    assert (history.id, history.device, history.phases[3:5]) == (record["id"], "cpu", ("end", "forward"))
    assert_refused(memprof_main(*asked), 2, (f"{record['id']}.history.json.gz exists", "--force"))
    assert record["measured"]["examples_per_second"].keys() == {"median", "low", "high"}
    assert record["measured"]["step_seconds"].keys() == {"forward", "backward", "optimizer", "refresh"}
    for witness in ("formula", "trace", "measured"):
        categories = record[witness]["peak_by_category"]
        assert list(categories) == ["param", "grad", "optimizer_state", "activation", "extra"]
        assert sum(categories.values()) == record[witness]["peak"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--histories", "new", "--no-measure"], "add --measure"),
        (["--histories", "", "--device", "cpu"], "is empty"),
        (["--histories", __file__, "--device", "cpu"], "test_compare.py is a file; name a folder"),
        (["--histories", __file__, "--device", "cpu", "-o", "new", "--resume"], "test_compare.py is a file"),
    ],
)
def test_histories_need_a_measurement_and_a_folder(memprof_main: Main, arguments: list[str], why: str) -> None:
    assert_refused(memprof_main(*QUICK, "--method", "adamw", *arguments), 2, (why,))


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


COUNTED = ["compare", "--model", "9m", "--num-layers", "1", "--method", "adamw", "--method", "galore:rank=8",
           "--counting", "paper:approximations", "--fits", "300MiB", "--unit", "MiB"]  # fmt: skip


def test_what_fits_is_not_told_from_a_paper_s_sum(memprof_main: Main, tmp_path: Path) -> None:
    """The peak has the activations and logits of a batch; the sum knows the activations of one sequence only."""
    run = str(tmp_path / "run")
    lines = memprof_main(*COUNTED, "-o", run).out.splitlines()
    rows = [line.split() for line in lines if line.startswith(("adamw", "galore"))]
    assert [row[-1] for row in rows] == ["no", "no"] and all(float(row[6]) < 300 for row in rows)
    stored = memprof_main("report", run, "--fits", "300MiB", "--unit", "MiB").out
    assert stored.splitlines() == lines, "a stored run speaks as it did"
    assert "formula counted as paper:approximations, vocabulary 32100" in " ".join(stored.split())
    traced = memprof_main("report", run, "--by", "trace", "--unit", "MiB").out
    assert "by trace" in traced and "Paper" in traced and "Formula" not in traced.partition("──")[0]


def test_help_names_every_counting(memprof_main: Main) -> None:
    said = "".join(char for char in memprof_main("compare", "--help").out if char not in "│ \n")
    assert all(name in said for name in COUNTINGS)


def test_a_witness_that_will_not_run_cannot_be_asked_for(memprof_main: Main) -> None:
    outcome = memprof_main(*QUICK, "--method", "adamw", "--by", "measured")
    assert (outcome.code, outcome.out) == (2, "") and "add --measure" in outcome.err


def test_all_methods_by_one_word(memprof_main: Main) -> None:
    found = json.loads(memprof_main(*QUICK, "--method", "all", "--json").out)
    assert [record["scenario"]["method"] for record in found["records"]] == list(METHODS)


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
    assert f"{unit}" in (run / "memory.svg").read_text()


def test_what_a_process_used_is_in_the_same_unit(memprof_main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memprof.api, "describe_device", lambda kind: {"device": kind})
    used = dataclasses.replace(MEASURED_FIGURES, device=300 * 2**20, context=299 * 2**20)
    monkeypatch.setattr(memprof.runner, "measure_in_child", lambda *_: used)
    without_race(monkeypatch)
    out = memprof_main(*TWO, "--device", "cpu").out
    assert "The measuring process, MiB" in out and "300.00" in out and "299.00" in out


def test_verbose_shows_each_line_and_without_it_the_short_table_stays(
    memprof_main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memprof.api, "describe_device", lambda kind: {"device": kind})
    used = dataclasses.replace(MEASURED_FIGURES, device=300 * 2**20, context=299 * 2**20, attention="SomeBackward0")

    def run(scenarios: Sequence[Scenario], **options: Any) -> Iterator[Record]:
        for scenario in scenarios:
            yield dataclasses.replace(unfinished(scenario, "ok", ""), reason=None, measured=used)

    monkeypatch.setattr(memprof.cli.session, "run", run)
    long, short = (memprof_main(*TWO, "--device", "cpu", *flag).out for flag in (["-v"], []))
    assert "9m: the measuring process, MiB" in long and "Attention: SomeBackward0." in long
    lines = {line[:24].strip(): line[24:].split() for line in long.splitlines()}
    assert (lines["resident set at most"], lines["before the model"]) == (["300.00"] * 2, ["299.00"] * 2)
    assert "The measuring process" not in long
    assert "The measuring process, MiB" in short and "resident set" not in short
