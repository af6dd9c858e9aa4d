"""`memprof diff` as a user runs it: what is printed where, and the exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Main = Callable[..., Any]
Files = Callable[..., str]
SIZES = {"param": 100, "grad": 100, "optimizer_state": 200, "activation": 50, "extra": 10}


def a_record(method: str = "adamw", extra: int = 10, **scenario: Any) -> dict[str, Any]:
    at_peak = SIZES | {"extra": extra}
    trace = at_peak | {"peak": sum(at_peak.values()), "peak_phase": "backward", "peak_by_category": at_peak}
    known = {"model": "1b", "method": method, "hyperparameters": {}, "batch_size": 8, "device": None} | scenario
    whole: dict[str, Any] = {
        "id": f"{method}-{known['batch_size']}",
        "scenario": known,
        "status": "ok",
        "reason": None,
        "flags": [],
    }
    return whole | {"formula": None, "trace": trace | {"steady": 300}, "measured": None}


@pytest.fixture
def write(tmp_path: Path) -> Files:
    """A document of `compare --json` with these records."""

    def file(name: str, *records: dict[str, Any]) -> str:
        (tmp_path / name).write_text(json.dumps({"schema_version": 1, "environment": {}, "records": records}))
        return str(tmp_path / name)

    return file


@pytest.fixture
def worse(write: Files) -> tuple[str, str]:
    """One figure more than its due, one scenario lost, one new."""
    before = write("before.json", a_record(), a_record("lora"))
    return before, write("after.json", a_record(extra=11), a_record("galore"))


def test_it_reports_and_exits_0_unless_told_otherwise(memprof_main: Main, worse: tuple[str, str]) -> None:
    done = memprof_main("diff", *worse)
    assert done.code == 0 and done.err == ""
    assert "before.json to after.json" in done.out
    assert "Figures: 2 worse, 1 missing, 1 new, 5 same" in done.out


@pytest.mark.parametrize(
    ("fail_on", "code", "said"),
    [
        ("worse", 1, "2 worse: not let pass by --fail-on worse"),
        ("missing", 1, "1 missing: not let pass by --fail-on missing"),
        ("worse, missing", 1, "2 worse, 1 missing: not let pass by --fail-on worse,missing"),
        ("inconclusive,improved", 0, ""),
        ("wrose", 2, "'wrose' is no verdict; choose from worse, missing, inconclusive, improved, new"),
        ("same", 2, "'same' is no verdict"),
        ("", 2, "'' is no verdict"),
    ],
)
def test_fail_on(memprof_main: Main, worse: tuple[str, str], fail_on: str, code: int, said: str) -> None:
    done = memprof_main("diff", *worse, "--fail-on", fail_on)
    assert done.code == code and said in done.err
    assert bool(done.out) == (code != 2)


def test_equal_runs_pass_every_gate(memprof_main: Main, write: Files) -> None:
    one = write("one.json", a_record())
    done = memprof_main("diff", one, one, "--fail-on", "worse,missing,new,inconclusive,improved")
    assert done.code == 0 and "No figure changed." in done.out


def test_tolerance_lets_small_growth_pass(memprof_main: Main, worse: tuple[str, str]) -> None:
    assert memprof_main("diff", *worse, "--fail-on", "worse", "--tolerance", "10%").code == 0
    assert memprof_main("diff", *worse, "--fail-on", "worse", "--tolerance", "9.9%").code == 1
    assert memprof_main("diff", *worse, "--tolerance", "5").code == 2


def test_nothing_in_common_is_exit_5(memprof_main: Main, write: Files) -> None:
    done = memprof_main("diff", write("a.json", a_record()), write("b.json", a_record(batch_size=16)))
    assert done.code == 5 and done.out == ""
    assert "no scenario in common: the nearest two, of adamw, differ in batch_size (8 before, 16 after)" in done.err
    assert memprof_main("diff", write("a.json"), write("b.json", a_record())).code == 5
    one = write("a.json", a_record())
    assert memprof_main("diff", one, one, "--by", "measured").code == 5


def test_only_bytes_can_be_gated(memprof_main: Main, write: Files) -> None:
    """Two runs of the same code differ in speed: their intervals say how steady each was within itself."""
    speeds = ({"median": 10, "low": 9, "high": 11}, {"median": 5, "low": 4, "high": 6})
    files = []
    for number, speed in enumerate(speeds):
        one = a_record(device="cuda")
        files.append(write(f"{number}.json", one | {"measured": one["trace"] | {"examples_per_second": speed}}))
    assert memprof_main("diff", *files, "--fail-on", "worse").code == 1
    done = memprof_main("diff", *files, "--fail-on", "worse", "--bytes-only")
    assert done.code == 0 and "No figure changed." in done.out


def test_a_line_cut_short_is_told_once(memprof_main: Main, tmp_path: Path, write: Files) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "records.jsonl").write_text(json.dumps(a_record()) + '\n{"id": "torn')
    done = memprof_main("diff", str(tmp_path / "run"), write("a.json", a_record()))
    assert done.code == 0 and done.err.count("\n") == 1
    assert done.err.startswith("memprof: ") and "the last record was cut short and is left out" in done.err


def test_bad_usage_is_exit_2(memprof_main: Main, write: Files, tmp_path: Path) -> None:
    one = write("a.json", a_record())
    (tmp_path / "rubbish.json").write_text("not json\nat all\n")
    for arguments in ([one], [one, "nowhere"], [one, str(tmp_path / "rubbish.json")], [one, one, "--unit", "pounds"]):
        done = memprof_main("diff", *arguments)
        assert done.code == 2 and done.out == "" and "Traceback" not in done.err


def test_json_is_one_document_and_nothing_else(memprof_main: Main, worse: tuple[str, str]) -> None:
    done = memprof_main("diff", *worse, "--json", "--fail-on", "worse")
    document = json.loads(done.out)
    assert done.code == 1 and document["schema_version"] == 1
    assert document["counts"] == {"worse": 2, "missing": 1, "inconclusive": 0, "improved": 0, "new": 1, "same": 5}
    adamw = document["scenarios"][0]
    assert (adamw["witness"], adamw["joined_on"]) == ("trace", "id")
    peak = next(figure for figure in adamw["figures"] if figure["figure"] == "peak")
    told = {"before": 460, "after": 461, "change": 1, "verdict": "worse", "note": None, "at_peak": {"extra": 1}}
    assert peak == {"figure": "peak", **told}


def test_markdown_goes_to_a_file_that_is_not_overwritten(
    memprof_main: Main, worse: tuple[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "diff.md"
    file.touch()  # as a build server's step summary
    assert memprof_main("diff", *worse, "--markdown", str(file)).code == 0
    written = file.read_text()
    assert written.startswith("### before.json to after.json") and "| adamw | peak |" in written
    done = memprof_main("diff", *worse, "--markdown", str(file))
    assert done.code == 2 and "--force" in done.err and file.read_text() == written
    assert memprof_main("diff", *worse, "--markdown", str(file), "--force", "--all").code == 0
    assert "| adamw | parameters |" in file.read_text()
    assert memprof_main("diff", *worse, "--markdown", str(tmp_path / "no" / "file.md")).code == 2


def test_two_stored_runs(memprof_main: Main, tmp_path: Path) -> None:
    """From the program's own folders, end to end: the same twice, and nothing to compare with another batch."""
    for name, batch in (("one", "1"), ("two", "1"), ("three", "2")):
        shape = ("--num-layers", "1", "--vocab-size", "64", "--seq-len", "8", "--batch", batch)
        run = memprof_main(
            "compare", "--model", "9m", "--method", "adamw", "--no-measure", *shape, "-o", str(tmp_path / name)
        )
        assert run.code == 0
    assert memprof_main("diff", str(tmp_path / "one"), str(tmp_path / "two" / "records.jsonl")).code == 0
    assert memprof_main("diff", str(tmp_path / "one"), str(tmp_path / "three")).code == 5
