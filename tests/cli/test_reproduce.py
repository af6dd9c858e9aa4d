"""`memprof reproduce` as a user runs it: what is printed where, files and exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import memprof.cli.reproduce as reproduce_cli
from memprof.cli.screen import WIPE
from memprof.errors import MemprofError
from memprof.papers.read import read_paper
from memprof.reproduce import measurements
from memprof.reproduce.measurements import Measurements
from tests.cells import without_race
from tests.papers.conftest import PARAM_MB, paper_file

__all__ = ["paper_file"]
Main = Callable[..., Any]
Write = Callable[..., Path]


def test_a_table_on_stdout_and_nothing_on_stderr(memprof_main: Main) -> None:
    done = memprof_main("reproduce", "approximations", "--table", "3", "--no-trace")
    assert done.code == 0 and done.err == ""
    assert "48 of 48 cells that the paper prints or states come out to the last digit." in done.out
    assert "ReLoQRa (T): reproduced" in done.out
    assert "\x1b" not in done.out


def test_list_names_the_papers_and_their_tables(memprof_main: Main) -> None:
    done = memprof_main("reproduce", "--list")
    assert done.code == 0
    tables = ", ".join(table.id for table in read_paper("galore").tables)
    for words in ("approximations", "galore-mini", tables):
        assert words in done.out


def test_a_lost_cell_is_exit_1_and_named(memprof_main: Main, paper_file: Write) -> None:
    done = memprof_main("reproduce", str(paper_file(cell='"18.10"')), "--no-trace")
    assert done.code == 1
    cell = f"table 1, Full, Param: published 18.10, by formula {PARAM_MB:.4g} MB"
    assert done.err == f"memprof: does not come out, as expect says it must: {cell}\n"


def test_json_is_one_document(memprof_main: Main, paper_file: Write) -> None:
    done = memprof_main("reproduce", str(paper_file()), "--json")
    data = json.loads(done.out)
    assert (done.code, data["paper"], data["reproduced"], len(data["cells"])) == (0, "mine", True, 1)
    assert data["cells"][0]["formula"] == data["cells"][0]["trace"]


def test_files_are_kept_and_not_overwritten(memprof_main: Main, paper_file: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ("reproduce", str(paper_file()), "--no-trace", "-o", str(out))
    assert memprof_main(*asked).code == 0
    assert {path.name for path in out.iterdir()} == {"mine.md", "mine.csv", "mine.png", "mine.svg"}
    again = memprof_main(*asked)
    assert (again.code, again.out) == (2, "") and "--force overwrites it" in again.err
    assert memprof_main(*asked, "--force").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name a paper, such as approximations"),
        (("adam",), "unknown paper 'adam'; choose from"),
        (("galore", "--table", "9"), "galore has no table '9'"),
        (("./none.toml",), "cannot read none.toml: No such file"),
        (("galore", "--run", "nowhere"), "nowhere"),
        (("galore", "--device", "tpu"), "unknown device 'tpu'"),
        (("galore", "-o", ""), "-o is empty; name a folder"),
        (("galore", "--run", "a", "--device", "cpu"), "leave out one of them"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(memprof_main: Main, arguments: tuple[str, ...], said: str) -> None:
    done = memprof_main("reproduce", *arguments)
    assert done.code == 2 and done.out == ""
    assert said in done.err and done.err.count("\n") == 1


def test_a_table_is_measured_where_asked(
    memprof_main: Main, paper_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_race(monkeypatch)
    done = memprof_main("reproduce", str(paper_file()), "--no-trace", "--device", "cpu", "--steps", "2")
    assert done.code == 0
    assert f"measured {PARAM_MB:.2f}" in " ".join(done.out.split())
    assert done.err == ""


def test_a_cell_that_could_not_be_measured_is_exit_3_after_the_tables(
    memprof_main: Main, paper_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = Measurements("cpu", failed=["adamw: oom - no \x1b[31mroom"])
    monkeypatch.setattr(measurements, "measure", lambda *_: failed)
    done = memprof_main("reproduce", str(paper_file(cell='"18.10"')), "--no-trace", "--device", "cpu")
    assert done.code == 3 and "formula" in done.out
    first, second = done.err.splitlines()
    assert first == "memprof: not measured: adamw: oom - no room"
    assert second.startswith("memprof: does not come out, as expect says it must: table 1, Full")


def test_a_page_says_the_command_that_made_it(memprof_main: Main, paper_file: Write, tmp_path: Path) -> None:
    paper, out = str(paper_file()), str(tmp_path / "out put")
    assert memprof_main("reproduce", paper, "--no-trace", "--table", "1", "-o", out, "--force").code == 0
    page = (tmp_path / "out put" / "mine.md").read_text()
    assert f"Made by `memprof reproduce {paper} --table 1 --no-trace -o '{out}'` (memprof " in page
    assert f"torch {torch.__version__})." in page


def test_progress_counts_what_is_done_and_leaves_no_line(
    memprof_main: Main, paper_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    done = memprof_main("reproduce", str(paper_file()), "--no-trace")
    assert "memprof: 0 of 1 done" in done.err and "memprof: 1 of 1 done" in done.err
    assert done.err.endswith(WIPE)


def test_the_line_of_a_work_that_failed_is_wiped_too(
    memprof_main: Main, paper_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        reproduce_cli._progress(0, 3)
        raise MemprofError("broken; mend it")

    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr(measurements, "measure", fail)
    done = memprof_main("reproduce", str(paper_file()), "--device", "cpu")
    assert done.err == f"{WIPE}memprof: 0 of 3 done{WIPE}memprof: broken; mend it\n"


def test_the_readme_shows_what_the_program_prints(memprof_main: Main) -> None:
    done = memprof_main("reproduce", "galore-mini", "--table", "layer")
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert "```\nmemprof reproduce --list\nmemprof reproduce galore-mini --table layer\n```" in readme
    assert f"```\n{done.out.rstrip()}\n```" in readme


def test_the_readme_s_own_table_runs(memprof_main: Main, tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (text,) = re.findall(r"```toml\n(name = \"mytable\".*?)```", readme, re.DOTALL)
    file = tmp_path / "mytable.toml"
    file.write_text(text)
    done = memprof_main("reproduce", str(file), "--no-trace")
    assert (done.code, done.err) == (0, "")
    assert "AdamW: reproduced" in done.out and "printed as 1.5 times the low-rank weights" in done.out


def test_a_run_that_has_nothing_to_say_is_told(memprof_main: Main, paper_file: Write, tmp_path: Path) -> None:
    assert memprof_main("compare", "--model", "9m", "--method", "lion", "-o", str(tmp_path / "run")).code == 0
    done = memprof_main("reproduce", str(paper_file()), "--no-trace", "--run", str(tmp_path / "run"))
    assert done.code == 0
    assert done.err.endswith("holds no measurement of a scenario in these tables\n")


def test_it_says_of_what_the_figures_are_and_where_files_went(
    memprof_main: Main, paper_file: Write, tmp_path: Path
) -> None:
    done = memprof_main("reproduce", str(paper_file()), "--no-trace", "-o", str(tmp_path / "out"))
    assert "model 9m, rank 8, batch size 1, seq len 16" in done.out
    assert done.err.startswith("memprof: kept in ")
    letters = memprof_main("reproduce", "galore", "--table", "1", "--no-trace")
    assert "figures for m = 512, n = 1,376, r = 128; letters are tried at 3 sizes" in letters.out
