"""`--update-limits` changes the sizes that it was asked to change, and no other byte."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.budget.baseline import Baseline
from memprof.budget.check import check_records
from memprof.budget.config import read_budgets
from memprof.budget.rewrite import new_limits, rewrite, rounded_up
from memprof.budget.source import KeyPath, load_source
from memprof.errors import MemprofError
from memprof.units import UNITS, parse_size
from tests.budget.conftest import MIB, MakeRecord

FILE = """\
# Ours.   Keep the order!

[[budget]]   # the first
name = "a"
message = "why"   # and why
grad   =   '90 MiB'\t# single quotes
peak = "1 GiB" # double
max_increase = { steady = "1%" }  # stays

  # a comment between
[[budget]]
name = "b"
optimizer_state="0.2 GB"
reserved = "1 GiB"
"""


def test_comments_order_and_spaces_stay(tmp_path: Path, record: MakeRecord) -> None:
    path = tmp_path / "memprof.toml"
    path.write_text(FILE)
    file = read_budgets(path)
    records = [record(), record()]
    checks = check_records(file.budgets, records, Baseline("base.json", {"abc": record()}))
    text = rewrite(file.source, new_limits(checks))
    pairs = zip(FILE.splitlines(), text.splitlines(), strict=True)
    assert [pair for pair in pairs if pair[0] != pair[1]] == [
        ("grad   =   '90 MiB'\t# single quotes", "grad   =   '100 MiB'\t# single quotes"),
        ('peak = "1 GiB" # double', 'peak = "0.49 GiB" # double'),
        ('optimizer_state="0.2 GB"', 'optimizer_state="0.21 GB"'),
    ]


def test_a_limit_that_is_right_already_is_left_as_written(tmp_path: Path, record: MakeRecord) -> None:
    path = tmp_path / "memprof.toml"
    path.write_text('[[budget]]\nname = "a"\npeak = "500 MiB"\n')
    assert new_limits(check_records(read_budgets(path).budgets, [record()])) == {}


def test_in_pyproject_only_our_table_changes(tmp_path: Path, record: MakeRecord) -> None:
    ours = '[[tool.memprof.budget]]\nname = "a"\npeak = "1 MiB"\n'
    text = f'[project]\nname = "x" # y\n\n{ours}\n[tool.ruff]\nline-length=99\n'
    path = tmp_path / "pyproject.toml"
    path.write_text(text)
    file = read_budgets(path)
    assert rewrite(file.source, new_limits(check_records(file.budgets, [record()]))) == text.replace("1 MiB", "500 MiB")


def test_a_file_that_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    """tomlkit draws the parts of a list of tables together when another table stands between them."""
    path = tmp_path / "memprof.toml"
    path.write_text(
        '[[budget]]\nname = "a"\npeak = "1 B"\n[defaults]\nseed = 1\n[[budget]]\nname = "b"\npeak = "1 B"\n'
    )
    with pytest.raises(MemprofError, match="cannot rewrite memprof.toml: .*; edit its limits by hand"):
        rewrite(load_source(path), {(0, "peak"): "2 B"})


@pytest.mark.parametrize(
    "size, written, text",
    [(19 * 2**29, "1 GiB", "9.5 GiB"), (19 * 2**29 + 1, "1GiB", "9.51 GiB"), (7, "3 B", "7 B"),
     (1, "3 GiB", "0.01 GiB"), (300 * MIB, "1 MiB", "300 MiB"), (2_000_000_000, "1 GB", "2 GB"),
     (123456789 * 2**30, "1 GiB", "123456789 GiB")],
)  # fmt: skip
def test_limits_are_rounded_up_in_their_own_unit(size: int, written: str, text: str) -> None:
    assert rounded_up(size, written) == text


@given(size=st.integers(0, 2**50), unit=st.sampled_from(list(UNITS)))
def test_a_rounded_limit_holds_what_was_seen(size: int, unit: str) -> None:
    limit = parse_size(rounded_up(size, f"1 {unit}"))
    assert size <= limit <= size + max(1, UNITS[unit] // 100 + 1)


LINES = st.sampled_from(
    [
        'peak  =  "1 GiB"  # why',
        "peak='1 MiB'",
        '"peak" = "3 MB"',
        "# peak",
        "",
        "  grad = '2 GiB' ",
        'message = """\npeak = \'1 B\'\n"""',
    ]
)  # noqa: E501


@given(
    budgets=st.lists(st.lists(LINES, max_size=5), min_size=1, max_size=4),
    between=st.sampled_from(["", "\n# next\n", "\n\n"]),
)
def test_every_line_but_the_asked_ones_stays(
    tmp_path_factory: pytest.TempPathFactory, budgets: list[list[str]], between: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "rewrite.toml"
    path.write_text(between.join("[[budget]]  # b\n" + "\n".join(lines) + "\n" for lines in budgets))
    try:
        source = load_source(path)
    except MemprofError:
        return  # one key twice
    asked: dict[KeyPath, str] = {(index, "peak"): "7 B" for index in range(len(budgets)) if source.line(index, "peak")}
    text = rewrite(source, asked)
    changed = {source.line(*key) for key in asked}
    for number, (old, new) in enumerate(zip(source.text.split("\n"), text.split("\n"), strict=True), 1):
        assert (old != new) is (number in changed)
        assert number not in changed or new.replace("7 B", "") == re.sub(r"\d [GM]i?B", "", old)
