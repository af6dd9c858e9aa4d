"""What `memprof check` leaves for a CI server: documents, annotations, the action and the hook."""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
from pathlib import Path
from xml.etree import ElementTree

import pytest

import memprof.api
from tests.cli.budgets import FAILING, PASSING, RELATIVE, ROOT, Main, write

pytestmark = pytest.mark.usefixtures("here")


def test_json_is_one_document_and_the_same_twice(memprof_main: Main) -> None:
    write(FAILING)
    done = memprof_main("check", "--json")
    assert (done.code, done.err) == (1, "") and done.out == memprof_main("check", "--json").out
    body = json.loads(done.out)
    assert body["exit_code"] == 1 and body["checks"][0]["line"] == 9 and body["baseline"] is None


def test_junit_and_markdown_are_written(memprof_main: Main, here: Path) -> None:
    write(FAILING)
    (here / "out").mkdir()
    assert memprof_main("check", "--junit", "out/check.xml", "--markdown", "out/check.md").code == 1
    suite = ElementTree.parse(here / "out" / "check.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    assert (here / "out" / "check.md").read_text().startswith("### Memory budgets\n")


@pytest.mark.parametrize("option", ["--junit", "--markdown"])
@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("nowhere/x", "cannot write nowhere/x: there is no folder nowhere"),
        ("../nowhere/x", "cannot write ../nowhere/x: there is no folder ../nowhere"),
        ("memprof.toml/x", "cannot write memprof.toml/x: there is no folder memprof.toml"),
        (".", "cannot write .: it is a folder"),
        ("", "cannot write .: it is a folder"),
    ],
)
def test_a_file_that_cannot_be_written_is_told_before_anything_runs(
    memprof_main: Main, here: Path, monkeypatch: pytest.MonkeyPatch, option: str, file: str, said: str
) -> None:
    write(PASSING)
    monkeypatch.setattr(memprof.api, "run_cell", lambda *_, **__: pytest.fail("it ran"))
    done = memprof_main("check", option, file)
    assert (done.code, done.out, done.err) == (2, "", f"memprof: {said}\n")
    assert [entry.name for entry in here.iterdir()] == ["memprof.toml"] and not (here.parent / "nowhere").exists()


def test_github_is_told_on_stderr_and_in_the_summary(
    memprof_main: Main, monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    summary = here / "summary.md"
    summary.write_text("before\n")
    (here / "sub").mkdir()
    write(FAILING, "sub/memprof.toml")
    monkeypatch.chdir(here / "sub")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_WORKSPACE", str(here))
    done = memprof_main("check", "--json")
    assert json.loads(done.out)["exit_code"] == 1
    assert done.err.startswith("::error title=memprof%3A small%2C peak,file=sub/memprof.toml,line=9::small: peak is ")
    assert summary.read_text().startswith("before\n### Memory budgets\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(here))
    assert "memprof: no step summary: Is a directory" in memprof_main("check").err


def test_without_github_nothing_is_annotated(memprof_main: Main, monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(here / "summary.md"))
    write(FAILING)
    assert "::" not in memprof_main("check").err and not (here / "summary.md").exists()


def test_a_baseline_of_its_own_name_is_overwritten_by_no_report(memprof_main: Main) -> None:
    write(PASSING, "big.toml")
    write("accepted", "big-baseline.json")
    done = memprof_main("check", "big.toml", "--junit", "big-baseline.json")
    assert done.code == 2 and Path("big-baseline.json").read_text() == "accepted"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--markdown", "memprof.toml"], "--markdown would overwrite memprof.toml, which the check reads"),
        (["--junit", "./memprof.toml"], "--junit would overwrite memprof.toml, which the check reads"),
        (["--junit", "link.toml"], "--junit would overwrite link.toml, which the check reads"),
        (["--junit", "memprof-baseline.json"], "--junit would overwrite memprof-baseline.json, which the check reads"),
        (["--junit", "x", "--markdown", "./x"], "--junit and --markdown name the same file; they need two"),
        (["--junit", "-"], "cannot write -: a report goes to a file; --json prints one on stdout"),
    ],
)
def test_a_report_overwrites_nothing_that_is_read(
    memprof_main: Main, here: Path, arguments: list[str], said: str
) -> None:
    path = write(PASSING)
    (here / "link.toml").symlink_to("memprof.toml")
    done = memprof_main("check", *arguments)
    assert (done.code, done.out) == (2, "") and done.err.startswith(f"memprof: {said}")
    assert path.read_text() == PASSING and sorted(each.name for each in here.iterdir()) == ["link.toml", "memprof.toml"]


@pytest.mark.parametrize("text", [PASSING + "peek = 1\n", RELATIVE], ids=["a typo", "no baseline"])
def test_a_check_without_a_result_is_told_where_its_result_was_to_go(
    memprof_main: Main, monkeypatch: pytest.MonkeyPatch, here: Path, text: str
) -> None:
    write(text)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(here / "summary.md"))
    done = memprof_main("check", "--junit", "check.xml")
    command, line = done.err.splitlines()
    message = line.removeprefix("memprof: ")
    assert done.code in (2, 5) and command == f"::error title=memprof::{message}"
    assert (here / "summary.md").read_text().startswith("### Memory budgets\n\nmemprof.toml:")
    suite = ElementTree.parse(here / "check.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("errors"), suite[0][0].get("message")) == ("1", "1", message)


@pytest.mark.parametrize("text", [FAILING, FAILING + "peek = 1\n"], ids=["a failure", "an error"])
@pytest.mark.parametrize("json_too", [False, True])
def test_a_budget_files_words_are_no_runners_commands(
    memprof_main: Main, monkeypatch: pytest.MonkeyPatch, text: str, json_too: bool
) -> None:
    """A pull request from a fork writes this file; `##[` is a command anywhere in a line of the log."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    odd = 'message = "##[add-mask]GiB"\n"##[key]" = 1\n' if "peek" in text else 'message = "##[add-mask]GiB"\n'
    write(text.replace("peek = 1\n", "").replace('"small"', '"a ##[error]owned"') + odd)
    done = memprof_main("check", *(["--json"] if json_too else []))
    assert done.code in (1, 2) and "##[" not in done.out + done.err
    if done.out and json_too:
        assert json.loads(done.out)["checks"][0]["budget"] == "a ##[error]owned"


def test_action_and_hook_run_this_command() -> None:
    action, hook = (ROOT / "action.yml").read_text(), (ROOT / ".pre-commit-hooks.yaml").read_text()
    assert '"$RUNNER_TEMP/memprof/bin/memprof" check' in action and "entry: memprof check" in hook
    for script in action.split("run: |")[1:]:
        assert "${{" not in script.partition("\n    - ")[0], "an input in a script is code; it comes by the environment"


@pytest.mark.parametrize(
    ("file", "more", "given"),
    [
        ("", "", ["check"]),
        ("a b.toml", "", ["check", "--", "a b.toml"]),
        ("--update", "--junit x.xml", ["check", "--junit", "x.xml", "--", "--update"]),
        ("", "--junit x.xml\n  --markdown y.md\n", ["check", "--junit", "x.xml", "--markdown", "y.md"]),
        (
            '"; touch owned; $(touch owned) `touch owned`',
            "$(touch owned) ; touch *",
            ["check", "$(touch", "owned)", ";", "touch", "*", "--", '"; touch owned; $(touch owned) `touch owned`'],
        ),
    ],
    ids=["nothing", "a space", "like an option", "several lines", "commands"],
)
def test_the_actions_step_passes_its_inputs_on_as_they_are(here: Path, file: str, more: str, given: list[str]) -> None:
    """The step's own script, run as a runner runs it; a program in memprof's place tells what it is given."""
    program = here / "memprof" / "bin" / "memprof"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nfor part; do printf '%s\\0' \"$part\"; done\nexit 7\n")
    program.chmod(0o755)
    (here / "step.sh").write_text(textwrap.dedent((ROOT / "action.yml").read_text().rpartition("run: |\n")[2]))
    inputs = {"RUNNER_TEMP": str(here), "BUDGET_FILE": file, "MORE_ARGS": more}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "step.sh"]
    done = subprocess.run(command, env=os.environ | inputs, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout.split("\0")[:-1] == given and not (here / "owned").exists()
