"""`memprof reproduce` as a user runs it: what is printed where, files and exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
    for words in ("approximations", "galore-mini", "1, 2, 6a, 6b, 11, figure-1, 24gb, text"):
        assert words in done.out


def test_a_lost_cell_is_exit_1_and_named(memprof_main: Main, paper_file: Write) -> None:
    done = memprof_main("reproduce", str(paper_file(cell='"18.10"')), "--no-trace")
    assert done.code == 1
    assert done.err == f"memprof: no longer comes out: table 1, Full, Param: published 18.10, now {PARAM_MB:.6g}\n"


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
    ],
)
def test_bad_input_is_one_line_and_exit_2(memprof_main: Main, arguments: tuple[str, ...], said: str) -> None:
    done = memprof_main("reproduce", *arguments)
    assert done.code == 2 and done.out == ""
    assert said in done.err and done.err.count("\n") == 1


def test_a_table_is_measured_where_asked(memprof_main: Main, paper_file: Write) -> None:
    done = memprof_main("reproduce", str(paper_file()), "--no-trace", "--device", "cpu", "--steps", "2")
    assert done.code == 0
    assert f"measured {PARAM_MB:.2f}" in " ".join(done.out.split())


def test_the_readme_shows_what_the_program_prints(memprof_main: Main) -> None:
    done = memprof_main("reproduce", "galore-mini", "--table", "layer")
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert "```\nmemprof reproduce --list\nmemprof reproduce galore-mini --table layer\n```" in readme
    assert f"```\n{done.out.rstrip()}\n```" in readme
