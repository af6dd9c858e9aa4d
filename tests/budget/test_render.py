"""Checks as text, JSON, Markdown, JUnit XML and GitHub's commands; a user's words end no field of any of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.budget import text
from memprof.budget.baseline import Baseline
from memprof.budget.check import check_records
from memprof.budget.github import (
    MAX_SUMMARY,
    command,
    error_command,
    inert,
    inert_json,
    summary_within_limit,
    workflow_commands,
)
from memprof.budget.junit import junit
from memprof.budget.run import Outcome
from memprof.record import Record
from tests.budget.conftest import MakeRecord, WriteBudgets

NAME = "a <b>|*&%,: \u00e9"
LIMITS = f"""\
[[budget]]
name = "{NAME}"
message = "ask <me>, 100%: now"
peak = "499 MiB"
max_increase = {{ grad = "1%" }}
param = "1 GiB"
reserved = "1 GiB"
min_examples_per_second = 9
"""


def outcome(write: WriteBudgets, seen: Record, old: Record, content: str = LIMITS) -> Outcome:
    file = write(content, whole=True)
    base = Baseline("base.json", {old.id: old})
    checks = check_records(file.budgets, [seen], base)
    return Outcome(file, checks, [seen], base, {"torch": "2.11.0"}, seen.scenario["device"])


@pytest.fixture
def failed(budgets: WriteBudgets, record: MakeRecord) -> Outcome:
    old = record((100, 90, 200, 50, 50), device="cpu", speed=(1, 2, 3))
    return outcome(budgets, record(device="cpu", speed=(8, 9.5, 1234)), old)


def test_rows_by_hand(failed: Outcome) -> None:
    assert text.rows(failed) == [
        (NAME, "peak", "499 MiB", "500.00 MiB", "-1.00 MiB (-0.2%)", "FAIL"),
        (NAME, "grad", "90.90 MiB (+1%)", "100.00 MiB", "-9.10 MiB (-10.0%)", "FAIL"),
        (NAME, "param", "1 GiB", "100.00 MiB", "+924.00 MiB (+90.2%)", "pass"),
        (NAME, "reserved", "1 GiB", "-", "-", "broken"),
        (NAME, "examples_per_second", "9/s", "9.5/s (8 to 1,234)", "+0.5/s (+5.6%)", "inconclusive"),
    ]
    assert text.summary(failed) == "memprof.toml, measured on cpu: 1 pass, 2 FAIL, 1 inconclusive, 1 broken"


def test_remarks_say_what_to_do(failed: Outcome) -> None:
    peak, grad, reserved, speed = text.remarks(failed)
    assert peak.splitlines() == [
        f"{NAME}: peak is 500.00 MiB, 1.00 MiB over the limit of 499 MiB",
        "  since base.json peak grew by 10.00 MiB (+2.0%): grad +10.00 MiB (0.10 x param)",
        "  the peak is in backward",
        "  message: ask <me>, 100%: now",
        "  if this is meant, edit peak at memprof.toml:4",
    ]
    assert grad.splitlines()[-1] == (
        "  if this is meant, edit max_increase.grad at memprof.toml:5; "
        "or accept the new figures: memprof check --device cpu --update"
    )
    why = "no allocator reserves memory on a CPU; limit `device`, the resident set, instead"
    assert reserved == f"{NAME}: reserved is not known\n  {why}\n  message: ask <me>, 100%: now\n"
    assert speed.splitlines() == [
        f"{NAME}: examples_per_second is 9.5/s (8 to 1,234), at least 9/s is asked for: inconclusive",
        "  the interval of 8 to 1,234 examples per second is not clear of the limit, 9",
        "  more --rounds make an interval narrower",
        "  message: ask <me>, 100%: now",
    ]


def test_a_reason_is_told_once(budgets: WriteBudgets, record: MakeRecord) -> None:
    found = outcome(
        budgets, record(), record(), '[[budget]]\nname = "a"\npeak = "1 B"\nmax_increase = "0%"\nactivation="1 B"'
    )
    assert len(list(text.remarks(found))) == 2
    broken = record(status="oom", reason="no room", device="cuda")
    found = outcome(budgets, broken, record(), '[[budget]]\nname = "a"\npeak = "1 B"\nparam = "1 B"')
    first, second = text.remarks(found)
    assert first == "a: peak is not known\n  oom: no room\n"
    assert second == "a: param is not known\n  for the same reason as its peak\n"
    found = outcome(budgets, broken, record(), '[[budget]]\nname = "a"\npeak = "1 B"')
    other = dataclasses.replace(found.checks[0].budget, name="b")
    twice = [found.checks[0], dataclasses.replace(found.checks[0], budget=other)]
    first, second = text.remarks(dataclasses.replace(found, checks=twice))
    assert second == "b: peak is not known\n  oom: no room\n"  # another budget's line may be far above


def test_markdown_shows_names_as_they_are(failed: Outcome) -> None:
    lines = text.markdown(failed).splitlines()
    assert lines[0] == "### Memory budgets" and lines[5] == "| --- | --- | ---: | ---: | ---: | --- |"
    assert lines[6].startswith("| a &lt;b&gt;\\|\\*&amp;%,: \u00e9 | peak | 499 MiB |")
    assert not [line for line in lines if "<b>" in line or "<me>" in line]
    assert "* if this is meant, edit peak at memprof.toml:4" in lines


def test_json_has_bytes_and_lines(failed: Outcome) -> None:
    body = json.loads(text.document(failed))
    assert (body["schema_version"], body["exit_code"], body["file"]) == (1, 1, "memprof.toml")
    peak = body["checks"][0]
    assert (peak["limit"], peak["actual"], peak["headroom"]) == (499 * 2**20, 500 * 2**20, -(2**20))
    assert (peak["verdict"], peak["line"], peak["written"]) == ("fail", 4, "499 MiB")
    assert len(body["records"]) == 1
    reserved = body["checks"][3]
    assert (reserved["limit"], reserved["actual"], reserved["verdict"]) == (2**30, None, "broken")


def test_junit_is_xml_with_a_case_for_each_limit(failed: Outcome) -> None:
    suite = ElementTree.fromstring(junit(failed))[0]
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "5", "failures": "2", "errors": "1", "skipped": "1"
    }  # fmt: skip
    case = suite[0]
    assert (case.get("classname"), case.get("name"), case.get("line")) == (NAME, "peak limit", "4")
    failure = case[0]
    assert failure.get("message") == f"{NAME}: peak is 500.00 MiB, 1.00 MiB over the limit of 499 MiB"
    assert (failure.text or "").endswith("edit peak at memprof.toml:4")


def test_commands_by_hand(failed: Outcome, tmp_path: Path) -> None:
    first, _, broken, third = workflow_commands(failed, str(tmp_path.parent))
    place = f"file={tmp_path.name}/memprof.toml,line=4"
    assert first.startswith(f"::error title=memprof%3A a <b>|*&%25%2C%3A \u00e9%2C peak,{place}::a <b>|*&%25,: ")
    assert "\n" not in first and "%0Athe peak is in backward%0Amessage: ask <me>, 100%25: now%0A" in first
    assert broken.startswith("::error ") and third.startswith("::notice ")


def test_no_text_is_a_runners_command() -> None:
    """The first form, `##[...]`, is one wherever it stands in a line."""
    assert "##[" not in inert("a ##[error]b") + error_command("##[add-mask]GiB") + inert_json('"##[x]"')
    assert json.loads(inert_json(json.dumps("###[x]"))) == "###[x]"


@pytest.mark.parametrize(
    "message, title, said",
    [
        ("a%b\r\nc:d,e", "t", "::error title=t,file=f.toml,line=3::a%25b%0D%0Ac:d,e"),
        ("m", "a:b,c%\n::error::x", "::error title=a%3Ab%2Cc%25%0A%3A%3Aerror%3A%3Ax,file=f.toml,line=3::m"),
    ],
)
def test_escaping_by_hand(message: str, title: str, said: str) -> None:
    assert command("error", message, title, "f.toml", 3) == said


def test_a_line_that_is_not_known_is_left_out() -> None:
    assert command("error", "m", "t", "a,b:c", None) == "::error title=t,file=a%2Cb%3Ac::m"


@given(message=st.text(), title=st.text(), file=st.text())
def test_a_command_is_one_line_and_reads_back(message: str, title: str, file: str) -> None:
    line = command("error", message, title, file, 1)
    assert "\n" not in line and "\r" not in line
    properties, _, data = line.removeprefix("::error ").partition("::")
    fields = dict(part.split("=", 1) for part in properties.split(","))
    assert [_back(fields["title"]), _back(fields["file"]), _back(data)] == [title, file, message]


def _back(text: str) -> str:
    for code, char in (("%2C", ","), ("%3A", ":"), ("%0A", "\n"), ("%0D", "\r"), ("%25", "%")):
        text = text.replace(code, char)
    return text


def test_a_summary_that_is_too_long_is_cut_at_a_line() -> None:
    assert summary_within_limit("short") == "short"
    cut = summary_within_limit("\u00e9" * 30 + "\n" + "line\n" * MAX_SUMMARY)
    assert len(cut.encode()) < MAX_SUMMARY and cut.endswith("line\n\n(cut here)\n")
