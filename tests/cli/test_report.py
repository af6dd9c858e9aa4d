"""`memprof report` as a user runs it: a stored run once more, its page, and the commands that make it again."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memprof.api import plan
from memprof.cli.session import Session
from memprof.command import commands
from memprof.record import Record
from memprof.run_file import RECORDS, Maker
from memprof.runner import unfinished
from memprof.scenario import Scenario
from memprof.store import PAGE, PREDICTION, RENDERED, RunStore

Main = Callable[..., Any]
TINY = ("compare", "--model", "9m", "--batch", "1", "--seq", "8", "--no-measure")


@pytest.fixture
def run(memprof_main: Main, tmp_path: Path) -> Path:
    """A run of two methods, kept."""
    folder = tmp_path / "run"
    assert memprof_main(*TINY, "--method", "adamw", "--method", "galore", "-o", str(folder)).code == 0
    return folder


def test_it_prints_the_runs_table_and_writes_its_page(memprof_main: Main, run: Path) -> None:
    table = memprof_main(*TINY, "--method", "adamw", "--method", "galore").out
    done = memprof_main("report", str(run))
    assert (done.code, done.out) == (0, table)
    assert done.err == f"memprof: the page is {run / PAGE}\n"
    page = (run / PAGE).read_text()
    assert "galore" in page and "memprof compare --model 9m" in page
    assert memprof_main("report", str(run / RECORDS)).code == 0
    assert (run / PAGE).read_text() == page, "the file in place of its folder"


def test_options_are_those_of_compare(memprof_main: Main, run: Path) -> None:
    done = memprof_main("report", str(run), "--unit", "MB", "--fits", "1GB", "--by", "formula")
    assert done.code == 0 and "MB = 1e6 bytes, by formula" in done.out
    page = (run / PAGE).read_text()
    assert "by formula" in page and "Fits 1000 MB" in page


def test_another_folder_gets_everything(memprof_main: Main, run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert memprof_main("report", str(run), "-o", str(other)).code == 0
    assert {*RENDERED, PAGE} <= {file.name for file in other.iterdir()} and not (run / PAGE).exists()
    refused = memprof_main("report", str(run), "-o", str(other))
    assert refused.code == 2 and "--force" in refused.err
    assert memprof_main("report", str(run), "-o", str(other), "--force").code == 0


def test_a_file_that_is_there_is_not_overwritten_unasked(memprof_main: Main, run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("mine")
    refused = memprof_main("report", str(run), "--html", str(mine))
    assert refused.code == 2 and "--force" in refused.err and mine.read_text() == "mine"
    assert memprof_main("report", str(run), "--html", str(mine), "--force").code == 0
    assert mine.read_text().startswith("<!DOCTYPE html>")


def test_only_the_run_s_own_page_is_made_anew(memprof_main: Main, run: Path, tmp_path: Path) -> None:
    """By whatever way it is named; what lies beside a records file of another name may be anything."""
    for arguments in ([str(run)], [str(run)], [str(run), "--html", str(run / PAGE)]):
        assert memprof_main("report", *arguments).code == 0
    copy = tmp_path / "night.jsonl"
    copy.write_text((run / RECORDS).read_text())
    copy.with_suffix(".html").write_text("mine")
    refused = memprof_main("report", str(copy))
    assert refused.code == 2 and "--force" in refused.err and copy.with_suffix(".html").read_text() == "mine"
    assert memprof_main("report", str(copy), "--force").code == 0


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        (None, 2, "no run at"),
        ("", 5, "holds no records"),
        ('{"schema_version":1,"environment":{},"steps":null}\n', 5, "--resume"),
        ("{\n{}\n", 2, "is not JSON"),
        ('{"id": 1}\n', 2, "not a memprof record"),
        ('{"schema_version":99}\n', 2, "schema 99"),
    ],
)
def test_what_is_no_run_is_one_line(
    memprof_main: Main, tmp_path: Path, content: str | None, code: int, says: str
) -> None:  # noqa: E501
    folder = tmp_path / "run"
    folder.mkdir()
    if content is not None:
        (folder / RECORDS).write_text(content)
    done = memprof_main("report", str(folder))
    assert (done.code, done.out) == (code, "") and says in done.err and done.err.count("\n") == 1
    assert not (folder / PAGE).exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--unit", "parsec"], "parsec"), (["--fits", "24"], "24GiB"), (["--by", "measured"], "--by measured"),
     (["--html", "/proc/none/page.html"], "cannot write")],
)  # fmt: skip
def test_wrong_options_are_one_line(memprof_main: Main, run: Path, arguments: list[str], says: str) -> None:
    done = memprof_main("report", str(run), *arguments)
    assert done.code == 2 and says in done.err and done.err.count("\n") == 1


def test_it_needs_neither_torch_nor_a_gpu(run: Path) -> None:
    code = f"""
import sys
sys.argv = ["memprof", "report", {str(run)!r}]
from memprof.cli.main import main
try: main()
except SystemExit as end: sys.exit(end.code or "torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_thirty_records_are_a_page_of_less_than_two_megabytes(memprof_main: Main, run: Path) -> None:
    """Each with its timeline."""
    record = json.loads((run / RECORDS).read_text().splitlines()[1])
    assert len(record["trace"]["timeline"]["event"]) > 100
    with (run / RECORDS).open("w") as file:
        for number in range(30):
            print(json.dumps(record | {"id": f"{number:012d}"}), file=file)
    assert memprof_main("report", str(run)).code == 0
    assert (run / PAGE).stat().st_size < 2_000_000


def measured(run: Path, peak: int) -> None:
    """As if every cell of the run had been measured, with that peak beside the trace's states."""
    lines = (run / RECORDS).read_text().splitlines()
    keys = ("param", "grad", "optimizer_state", "activation", "peak_by_category", "steady")
    with (run / RECORDS).open("w") as file:
        print(lines[0], file=file)
        for record in map(json.loads, lines[1:]):
            seen = {key: record["trace"][key] for key in keys}
            rest = peak - sum(seen["peak_by_category"].values())
            extra = seen["peak_by_category"]["extra"] + rest
            seen |= {"peak_by_category": seen["peak_by_category"] | {"extra": extra}, "extra": extra}
            seen |= {"peak": peak, "peak_phase": "backward"}
            print(json.dumps(record | {"measured": seen}), file=file)


def test_prediction_against_measurement(memprof_main: Main, run: Path) -> None:
    """All is kept beside the page, and starting over removes it."""
    refused = memprof_main("report", str(run), "--prediction")
    assert refused.code == 5 and "--measure" in refused.err and not (run / PAGE).exists()
    measured(run, 2**40)
    done = memprof_main("report", str(run), "--prediction")
    assert done.code == 0 and "prediction against measurement" in done.out and "Targets missed: trace." in done.out
    assert (run / PAGE).exists() and all((run / name).stat().st_size for name in PREDICTION)
    assert memprof_main("report", str(run), "--prediction", "--strict").code == 1
    document = json.loads(memprof_main("report", str(run), "--prediction", "--json").out)
    assert document["summary"]["trace"]["met"] is False and document["states"]["met"] is True
    RunStore.create(run, force=True, maker=Maker()).close()
    assert not any((run / name).exists() for name in PREDICTION)


@pytest.mark.parametrize("option", ["--json", "--strict"])
def test_what_speaks_of_a_prediction_needs_one(memprof_main: Main, run: Path, option: str) -> None:
    done = memprof_main("report", str(run), option)
    assert done.code == 2 and "--prediction" in done.err and not (run / PAGE).exists()


def test_several_runs_are_shown_as_one(memprof_main: Main, run: Path, tmp_path: Path) -> None:
    other, both = tmp_path / "more", tmp_path / "both"
    assert memprof_main(*TINY, "--method", "sgd", "--method", "galore", "-o", str(other)).code == 0
    done = memprof_main("report", str(run), str(other))
    rows = [line.split()[0] for line in done.out.splitlines()[4:] if line.strip()][:4]
    assert rows[:3] == ["adamw", "galore", "sgd"] and rows[3] != "galore"
    assert "no page" in done.err and not (run / PAGE).exists() and not (other / PAGE).exists()
    assert memprof_main("report", str(run), str(other), "-o", str(both)).code == 0
    assert {*RENDERED, PAGE} <= {file.name for file in both.iterdir()}
    assert memprof_main("report", str(run), str(other), "--html", str(run / PAGE)).code == 0
    refused = memprof_main("report", str(run), str(other), "--html", str(run / PAGE))
    assert refused.code == 2 and "--force" in refused.err, "the page of one run is not that of two"


def planned(*arguments: Any, **fields: Any) -> list[Record]:
    return [unfinished(scenario, "interrupted", "") for scenario in plan(*arguments, **fields)]


SCENARIOS: dict[str, list[Record]] = {
    "defaults": planned(["1b"], ["adamw", "galore"]),
    "ranks": planned(["350m"], ["adamw", "galore", "lora"], rank=[64, 128]),
    "sizes": planned(["60m", "130m"], ["adamw", "lora:rank=4"], batch_size=[1, 8], seq_len=[64, 256]),
    "fields": planned(["60m"], ["galore:rank=8,update_gap=50,betas=0.8/0.99", "adamw:state_dtype=none"]),
    "scenario": planned(["60m"], ["adamw"], dtype="fp32", accumulation=4, seed=3, num_layers=2, vocab_size=100),
    "cpu": planned(["9m"], ["sgd"], kernels="cpu"),
    "measured": planned(["9m"], ["sgd"], device="cpu"),
    "on a text": planned(["9m"], ["sgd"], device="cpu", text=Path(__file__)),
    "no product": planned(["60m"], ["adamw", "lora"]) + planned(["60m"], ["adamw"], batch_size=3),
    "counted": planned(["60m", "llama3.2-1b"], ["adamw"], counting="paper:approximations"),
    "counted, our vocabulary": planned(["60m"], ["adamw"], counting="paper:approximations", vocab_size=32_000),
    "two models": planned(["60m"], ["adamw", "lora"]) + planned(["9m"], ["adamw"], dtype="fp32"),
}


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_the_commands_make_the_same_cells(memprof_main: Main, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The oracle is the command line itself: each command's plan, put together, has the ids of the records."""
    found: list[Scenario] = []

    def planned_only(session: Session, *_: object, **__: object) -> list[Record]:
        found.extend(session.scenarios)
        return []

    monkeypatch.setattr(Session, "run", planned_only)
    monkeypatch.chdir(Path(__file__).parent)  # a text is named and not placed
    records = SCENARIOS[name]
    for command in commands(records, 7):
        words = shlex.split(command)
        assert memprof_main(*words[1:]).code == 0, command
    assert sorted({scenario.id for scenario in found}) == sorted(record.id for record in records)


def test_a_full_product_is_one_command() -> None:
    assert len(commands(SCENARIOS["sizes"], None)) == 1
    assert commands(SCENARIOS["measured"], 7)[0].endswith("--measure --device cpu --steps 7 --method sgd")
    raced = commands(SCENARIOS["measured"], 7, 5)[0]
    assert raced.endswith("--measure --device cpu --rounds 5 --steps 7 --method sgd")


def test_starting_over_removes_the_page(run: Path, memprof_main: Main) -> None:
    memprof_main("report", str(run))
    RunStore.create(run, force=True, maker=Maker()).close()
    assert not (run / PAGE).exists()
